"""Results of a study: trials, the best one, findings on values, savings of pruning, promoted experiments."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from optuna_studies import BEST_LR, SPACE, fill, frozen, new_study, register, score_of, storage

from ichx.errors import InvalidInputError, NotFoundError, StoreError
from ichx.evaluation.compare import compare_scores
from ichx.evaluation.metric import score
from ichx.evaluation.oof import read_oof
from ichx.experiments.calibrated_fold import read_calibrated_oof
from ichx.experiments.run import run_experiment
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.recipe_text import apply_settings, from_toml, to_toml
from ichx.store import Store
from ichx.tuning.describe import format_verdict
from ichx.tuning.importance import importances
from ichx.tuning.promoted import Comparison, improvement, read_one
from ichx.tuning.results import read_study, study_names
from ichx.workspace import Workspace, open_workspace


@pytest.fixture
def workspace(trained_copy: Path) -> Workspace:
    return open_workspace(trained_copy)


def test_trials_have_their_states_and_scores(workspace: Workspace, store: Store) -> None:
    parent = store.experiment(1)
    with storage(workspace) as opened:
        study = new_study(opened, parent, fold=1, subset=0.5, limits={"seconds": 90})
        fill(store, parent, study, 20)
        values = {"stage.balanced.lr": BEST_LR, "model.dropout": 0.1, "batch": "16"}
        study.add_trial(frozen(values, TrialState.COMPLETE, score_of(values), [("seconds", 5.0)], experiment=999))
        study.enqueue_trial({"batch": "16"})
        study.ask({"batch": SPACE["batch"]})
    found = read_study(Project(workspace, store), 1)
    assert (found.experiment, found.study, found.name, found.fold, found.subset) == (1, "experiment-1", "", 1, 0.5)
    assert found.marks == ("selected",)
    assert [t.trial for t in found.trials] == list(range(22))
    states = ["done", "failed", "done", "pruned", *["done", "done", "done", "pruned"] * 4, "done", "running"]
    assert [t.state for t in found.trials] == states
    first, failed, _, pruned = found.trials[:4]
    assert found.baseline == first
    assert first.values == {"stage.balanced.lr": 4e-3, "model.dropout": 0.0, "batch": "16"}
    assert (failed.error, failed.log, failed.score) == ("exit code 1: no memory", "experiments/9/t.log", None)
    assert pruned.score == pytest.approx(score_of(pruned.values) + 0.01), "the last reported one"
    assert (pruned.epochs, pruned.planned, pruned.seconds) == (2, 6, 20.0)
    over = found.trials[20]
    assert (over.score, over.exceeded) == (score_of(values), ("seconds",))
    done = [t for t in found.trials if t.state == "done" and t is not over]
    assert found.best == min(done, key=lambda t: t.score or 1.0), "a trial over a limit is never the best"
    assert (found.saved.trials, found.saved.epochs, found.saved.seconds) == (5, 20, 200.0)


def test_importances_are_found_and_deterministic(workspace: Workspace, store: Store) -> None:
    parent = store.experiment(1)
    with storage(workspace) as opened:
        fill(store, parent, new_study(opened, parent), 32)
    found = read_study(Project(workspace, store), 1)
    assert found.importances is not None
    assert next(iter(found.importances)) == "stage.balanced.lr"
    assert found.importances["stage.balanced.lr"] > 0.8
    assert sum(found.importances.values()) == pytest.approx(1)
    assert read_study(Project(workspace, store), 1) == found
    rate, *rest = found.learned
    assert (rate.name, rate.low, rate.high, rate.log, rate.as_is) == ("stage.balanced.lr", 1e-4, 1e-1, True, 4e-3)
    assert {learned.name for learned in rest} == {"model.dropout", "batch"}
    assert found.best is not None
    assert rate.best == found.best.values["stage.balanced.lr"]
    low, high = rate.good
    assert 1e-3 < float(low) <= float(rate.best or 0) <= float(high) < 1e-1
    choice = next(learned for learned in rest if learned.name == "batch")
    assert choice.choices == ("16", "32")
    assert set(choice.good) <= {"16", "32"}


def test_too_few_trials_have_no_importances(workspace: Workspace, store: Store) -> None:
    parent = store.experiment(1)
    with storage(workspace) as opened:
        fill(store, parent, new_study(opened, parent), 7)
    found = read_study(Project(workspace, store), 1)
    assert found.importances is None
    assert [(learned.importance, learned.good) for learned in found.learned] == [(None, ())] * 3
    lr = {"stage.balanced.lr": SPACE["stage.balanced.lr"]}
    same = [create_trial(params={"stage.balanced.lr": 1e-3 + i / 1e4}, distributions=lr, value=0.1) for i in range(9)]
    assert importances(same) is None, "no score differs"
    fixed = [create_trial(params={"stage.balanced.lr": 1e-3}, distributions=lr, value=0.1 + i) for i in range(9)]
    assert importances(fixed) is None, "no value differs"


def test_a_missing_study_is_an_error(workspace: Workspace, store: Store) -> None:
    for _ in range(2):
        with pytest.raises(NotFoundError, match="1") as caught:
            read_study(Project(workspace, store), 1)
        assert "`ichx tune 1`" in caught.value.remedy
        assert not (workspace.root / "db" / "tuning.db").exists()
    assert study_names(workspace, 1) == []
    with storage(workspace) as opened:
        new_study(opened, store.experiment(1), "wide")
        new_study(opened, store.experiment(2))
    assert read_study(Project(workspace, store), 1).name == "wide", "the only one"
    with storage(workspace) as opened:
        new_study(opened, store.experiment(1), "narrow")
    assert study_names(workspace, 1) == ["narrow", "wide"]
    with pytest.raises(InvalidInputError, match="narrow, wide"):
        read_study(Project(workspace, store), 1)
    with pytest.raises(NotFoundError, match="'wied'") as caught:
        read_study(Project(workspace, store), 1, "wied")
    assert "'wide'" in caught.value.remedy
    with pytest.raises(NotFoundError, match="3"):
        read_study(Project(workspace, store), 3)
    (workspace.root / "db" / "tuning.db").write_text("not a database")
    with pytest.raises(StoreError, match=r"tuning\.db: .*not a database"):
        read_study(Project(workspace, store), 1)


def test_a_study_can_be_read_while_it_runs(workspace: Workspace, store: Store) -> None:
    with storage(workspace) as opened:
        study = new_study(opened, store.experiment(1))
        trial = study.ask(SPACE)
        trial.report(0.3, 10)
        (found,) = read_study(Project(workspace, store), 1).trials
        assert (found.state, found.score) == ("running", 0.3)
        study.tell(trial, 0.2)
        assert read_study(Project(workspace, store), 1).trials[0].state == "done"


def test_promoted_experiments_are_scored_on_the_other_folds(workspace: Workspace, store: Store) -> None:
    parent = store.experiment(1)
    with storage(workspace) as opened:
        numbers = fill(store, parent, new_study(opened, parent), 3)
    values = {"stage.balanced.lr": 2e-3}
    number = register(store, parent, "experiment-1", 2, values, of=numbers[-1], score=0.123)
    (found,) = read_study(Project(workspace, store), 1).promoted
    assert (found.experiment, found.trial, found.chosen, found.fold) == (number, numbers[-1], 0.123, 0)
    assert (found.folds, found.others, found.score, found.parent, found.parent_score) == ((), 1, None, 1, None)

    run_experiment(Project(workspace, store, load_registry()), number, folds=[0])
    (found,) = read_study(Project(workspace, store), 1).promoted
    assert found.folds == (), "the fold that selected the trial does not count"
    store.trash([numbers[-1]])
    store.purge(numbers[-1])
    (gone,) = read_study(Project(workspace, store), 1).promoted
    assert gone == replace(found, trial=None), "it stays without its trial"
    assert [t.deleted for t in read_study(Project(workspace, store), 1).trials] == [False, False, True]
    assert read_one(Project(workspace, store), replace(store.experiment(number), origin={"number": 7})) is None
    run_experiment(Project(workspace, store, load_registry()), number)
    (found,) = read_study(Project(workspace, store), 1).promoted
    before, own = (read_oof(Project(workspace, store), store.experiment(n)) for n in (1, number))
    scores = [score(o.labels[o.folds == 1], o.probabilities[o.folds == 1]) for o in (own, before)]
    assert (found.folds, found.score, found.parent_score) == ((1,), *scores)
    assert found.better_by == pytest.approx(scores[1] - scores[0])
    assert (found.better_low, found.better_high) == (None, None)  # a single patient has no interval
    paired = compare_scores(Project(workspace, store), store.experiment(1), store.experiment(number)).difference
    assert improvement(before, own).low == pytest.approx(paired.low)

    for prediction in store.predictions(number, role="oof"):
        (workspace.root / prediction.path).unlink()
    (found,) = read_study(Project(workspace, store), 1).promoted
    assert found.score is None
    assert found.problem


def test_promoted_experiments_are_compared_by_their_calibrated_scores(workspace: Workspace, store: Store) -> None:
    project, parent = Project(workspace, store, load_registry()), store.experiment(1)
    with storage(workspace) as opened:
        study = new_study(opened, parent, objective="calibrated_score")
        numbers = fill(store, parent, study, 3)
        attrs = {"experiment": numbers[-1], "raw_score": 0.2, "warm_start": "trial 4 of experiment-9, score 0.1"}
        values = {"stage.balanced.lr": BEST_LR, "model.dropout": 0.1, "batch": "16"}
        study.add_trial(frozen(values, TrialState.COMPLETE, 0.05, **attrs))
    tuned = {"score": 0.05, "objective": "calibrated_score"}
    number = register(store, parent, "experiment-1", 2, {"stage.balanced.lr": 2e-3}, of=numbers[-1], **tuned)
    view = read_study(project, 1)
    assert view.objective == "calibrated_score"
    assert view.best is not None
    assert (view.best.score, view.best.raw_score, view.best.warm_start) == (0.05, 0.2, attrs["warm_start"])
    assert format_verdict(view) == ""
    run_experiment(project, number)
    (found,) = read_study(project, 1).promoted
    assert found.calibrated is not None
    own, before = (read_calibrated_oof(project, store.experiment(n), [1]) for n in (number, 1))
    assert (found.calibrated.score, found.calibrated.parent_score) == (own.score, before.score)
    assert found.calibrated.better_by == pytest.approx(before.score - own.score)
    assert found.calibrated.score != found.score, "both are stored"
    assert found.compared == found.calibrated
    assert (found.compared.low, found.compared.undefined is None) == (None, False)
    assert "no interval from" in format_verdict(read_study(project, 1))


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.001, 0.003, "The best trial is better than the recipe on fold 1"),
        (-0.001, 0.005, "No trial is better than the recipe: interval of the gain on fold 1 includes 0"),
        (-0.005, -0.001, "No trial is better than the recipe: the best one is worse"),
    ],
)
def test_the_verdict_follows_from_the_interval(
    workspace: Workspace, store: Store, low: float, high: float, words: str
) -> None:
    project, parent = Project(workspace, store), store.experiment(1)
    with storage(workspace) as opened:
        study = new_study(opened, parent, objective="calibrated_score")
        numbers = fill(store, parent, study, 3)
        study.add_trial(frozen({"stage.balanced.lr": BEST_LR}, TrialState.COMPLETE, 0.05, experiment=numbers[-1]))
    values = {"stage.balanced.lr": 2e-3}
    register(store, parent, "experiment-1", 2, values, of=numbers[-1], score=0.05, objective="calibrated_score")
    view = read_study(project, 1)
    compared = Comparison(0.2, 0.2 + low, low, low, high, None)
    promoted = replace(view.promoted[0], folds=(1,), calibrated=compared)
    text = format_verdict(replace(view, promoted=(promoted,)))
    assert text.startswith(words)
    assert f"{low:+.5f} to {high:+.5f}" in text
    unchanged = replace(view, best=view.baseline)
    assert format_verdict(unchanged).startswith("No trial is better than the recipe: the unchanged recipe")


def test_importances_of_values_that_may_be_off() -> None:
    rng = np.random.default_rng(1)
    distributions = {
        "ema.on": CategoricalDistribution(("off", "on")),
        "ema": FloatDistribution(0.1, 0.5),
        "decay.on": CategoricalDistribution(("off", "on")),
        "decay": FloatDistribution(1e-5, 1e-1, log=True),
    }
    trials = []
    for _ in range(30):
        params: dict[str, float | str] = {}
        for name in ("ema", "decay"):
            on = rng.random() < 0.5
            params[f"{name}.on"] = "on" if on else "off"
            if on:
                params[name] = float(rng.uniform(0.1, 0.5) if name == "ema" else 10 ** rng.uniform(-5, -1))
        value = 0.5 - float(params.get("ema", 0.0))
        used = {name: distributions[name] for name in params}
        trials.append(create_trial(params=params, distributions=used, value=value))
    found = importances(trials)
    assert found is not None
    assert set(found) == {"ema", "decay"}
    assert found["ema"] > 0.8


def test_folds_that_selected_an_ancestor_do_not_count(workspace: Workspace, store: Store) -> None:
    """The first tuning used fold 0, the second fold 1: both of two folds selected something."""
    first = store.experiment(1)
    trial = register(store, first, "experiment-1", 1, {"model.dropout": 0.1})
    promoted = store.experiment(register(store, first, "experiment-1", 1, {"model.dropout": 0.1}, of=trial, score=0.1))
    second = register(store, promoted, f"experiment-{promoted.number}", 1, {"batch": "32"})
    last = store.experiment(
        register(store, promoted, f"experiment-{promoted.number}", 1, {"batch": "32"}, of=second, score=0.1)
    )
    assert last.tuned is not None
    on_another = replace(last, tuned=replace(last.tuned, fold=1))
    assert [
        found.others for e in (promoted, last, on_another) if (found := read_one(Project(workspace, store), e))
    ] == [1, 1, 0]
    elsewhere = read_one(Project(workspace, store), replace(last, fold_digest="another"))
    assert elsewhere is not None
    assert elsewhere.marks == ("selected",), "other folds of its patients selected values"
    with_patience = to_toml(apply_settings(from_toml(last.recipe), ["stage.full.patience=1"]))
    patient = read_one(Project(workspace, store), replace(last, recipe=with_patience))
    assert patient is not None
    assert patient.marks == ("selected",)
