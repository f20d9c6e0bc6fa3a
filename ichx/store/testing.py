"""The contract of a store as a test class, for this package's tests and for anyone with another database.

Derive from `StoreContract` and give it a `url` fixture that names an empty database. Needs pytest.
"""

import math
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, replace
from datetime import timedelta
from typing import Any

import pytest

from ichx.errors import IchxError, NotFoundError
from ichx.store import (
    DatasetVersion,
    EnsembleDraft,
    EnsembleMember,
    EpochRecord,
    ExperimentDraft,
    FoldDraft,
    PredictionDraft,
    RunDraft,
    ScoreDraft,
    Selection,
    Store,
    VersionDraft,
    marks,
)


def version_draft(
    dataset: str = "train", *, test_of: str | None = None, k: int = 3, digest: str = "d1", leaking: int = 0
) -> VersionDraft:
    """Return a version of a labelled dataset with `k` folds, or of an unlabelled test set without.

    `leaking` patients are split by its folds.
    """
    return VersionDraft(
        dataset=dataset,
        test_of=test_of,
        source="/data/files",
        path=f"datasets/{dataset}/{digest}",
        digest=digest,
        label_digest=None if test_of else f"labels-{digest}",
        slices=120,
        patients=6,
        defects=1,
        sample="sample.csv" if test_of else None,
        summary={"positive": {"any": 17}, "spacing": [0.5, 5.0]},
        folds=() if test_of else (FoldDraft("default", k, 7, f"folds-{digest}", leaking),),
    )


def experiment_draft(version: DatasetVersion, name: str = "first", parent: int | None = None) -> ExperimentDraft:
    """Return an experiment pinned to `version` and its first folds."""
    assert version.label_digest is not None
    return ExperimentDraft(
        name=name,
        plugin="tiny_resnet",
        size=64,
        window_kind="sigmoid",
        recipe='[model]\nbackbone = "test_resnet"\n',
        recipe_digest="r1",
        version_id=version.id,
        label_digest=version.label_digest,
        fold_set_id=version.folds[0].id,
        fold_digest=version.folds[0].digest,
        epochs=8,
        parent=parent,
    )


def run_draft(experiment: int = 1, fold: int = 0, *, host: str | None = None, pid: int | None = None) -> RunDraft:
    """Return an attempt at a fold in this process, or in another."""
    return RunDraft(
        experiment=experiment,
        fold=fold,
        host=socket.gethostname() if host is None else host,
        pid=os.getpid() if pid is None else pid,
        code_version="0.1.0+g1234567",
        libraries={"torch": "2.6.0"},
        device="cpu, fp32",
        command=f"ichx run {experiment} --fold {fold}",
    )


def prediction_draft(version_id: int, fold: int = 0, view: str = "identity", role: str = "oof") -> PredictionDraft:
    """Return a prediction of experiment 1."""
    return PredictionDraft(
        experiment=1,
        fold=fold,
        version_id=version_id,
        role=role,
        view=view,
        path=f"experiments/1/fold{fold}/{role}-{view}.parquet",
        slices=40,
        digest="p1",
        score=0.1 if role == "oof" else None,
    )


class StoreContract:
    """What every store keeps, whatever its database."""

    @pytest.fixture
    def url(self) -> str:
        """Return the SQLAlchemy URL of an empty database."""
        raise NotImplementedError

    @pytest.fixture
    def store(self, url: str) -> Iterator[Store]:
        """Return a new store."""
        with Store(url) as store:
            yield store

    @pytest.fixture
    def version(self, store: Store) -> DatasetVersion:
        """Return the first version of a labelled dataset."""
        return store.add_version(version_draft())

    def test_versions_count_up_and_come_back_as_given(self, store: Store, url: str) -> None:
        """Another store object at the same database sees the same."""
        first = store.add_version(version_draft(digest="d1"))
        second = store.add_version(version_draft(digest="d2"))
        assert (first.number, second.number) == (1, 2)
        with Store(url) as other:
            assert other.version("train") == other.version_by_id(second.id) == second
            assert other.version("train", 1) == first
        assert second.summary == {"positive": {"any": 17}, "spacing": [0.5, 5.0]}
        assert [(f.name, f.k, f.seed, f.digest, f.leaky) for f in second.folds] == [
            ("default", 3, 7, "folds-d2", False)
        ]
        assert second.folds[0].source is None
        assert second.created.utcoffset() == timedelta(0)

    def test_test_sets_belong_to_their_dataset(self, store: Store, version: DatasetVersion) -> None:
        """The latest version of each; they are never trainable, even with labels."""
        store.add_version(version_draft("hidden", test_of="train"))
        latest = store.add_version(version_draft("hidden", test_of="train", digest="d2"))
        labelled = store.add_version(replace(version_draft("open", test_of="train"), label_digest="l"))
        store.add_version(replace(version_draft("other"), label_digest=None))
        assert store.test_sets("train") == [latest, labelled]
        assert store.test_sets("hidden") == []
        found = [(d.name, d.trainable, d.test_of, d.versions) for d in store.datasets()]
        assert found == [
            ("hidden", False, "train", 2),
            ("open", False, "train", 1),
            ("other", False, None, 1),
            ("train", True, None, 1),
        ]
        assert store.dataset("train").created == version.created

    def test_impossible_test_sets_are_refused_and_leave_nothing(self, store: Store, version: DatasetVersion) -> None:
        """A test set of nothing, of a test set, of itself, or of another dataset than before."""
        store.add_version(version_draft("hidden", test_of="train"))
        for draft in (
            version_draft("new", test_of="absent"),
            version_draft("new", test_of="hidden"),
            version_draft("new", test_of="new"),
            version_draft("train", test_of="hidden"),
            version_draft("hidden", digest="d2"),
        ):
            with pytest.raises(IchxError):
                store.add_version(draft)
        assert [(d.name, d.versions) for d in store.datasets()] == [("hidden", 1), ("train", 1)]

    def test_unknown_things_are_named(self, store: Store, version: DatasetVersion) -> None:
        """Each error says what to do; a dataset's the nearest name."""
        with pytest.raises(NotFoundError) as caught:
            store.dataset("trian")
        assert "'train'" in caught.value.remedy
        for ask in (
            lambda: store.version("train", 2),
            lambda: store.version("trian"),
            lambda: store.version_by_id(99),
            lambda: store.test_sets("trian"),
            lambda: store.experiment(1),
            lambda: store.set_scores(1, ScoreDraft(0.1), ScoreDraft()),
            lambda: store.start_run(run_draft()),
            lambda: store.heartbeat(1),
            lambda: store.finish_run(1, "done"),
            lambda: store.ensemble(1),
        ):
            with pytest.raises(NotFoundError) as caught:
                ask()
            assert caught.value.remedy

    def test_experiments_are_numbered_pinned_and_listed_newest_first(
        self, store: Store, version: DatasetVersion
    ) -> None:
        """The list holds what the experiment holds, without the recipe."""
        first, second = store.add_experiments([experiment_draft(version), experiment_draft(version, "second")])
        (third,) = store.add_experiments([experiment_draft(version, "third", parent=1)])
        assert [e.number for e in (first, second, third)] == [1, 2, 3]
        assert store.experiment(3) == third
        assert (third.name, third.parent, third.dataset, third.dataset_version) == ("third", 1, "train", 1)
        assert (third.folds, third.folds_done, third.state, third.kind) == (3, 0, "new", "experiment")
        assert third.recipe == experiment_draft(version).recipe
        assert [e.number for e in store.experiments()] == [3, 2, 1]
        assert [e.number for e in store.experiments(limit=2)] == [3, 2]
        assert store.listing(limit=1)[1] == 3
        summary = store.experiments(limit=1)[0]
        assert {name: getattr(third, name) for name in vars(summary)} == vars(summary)
        assert not hasattr(summary, "recipe")
        with pytest.raises(FrozenInstanceError):
            third.name = "changed"  # type: ignore[misc]

    def test_experiments_are_listed_by_dataset(self, store: Store, version: DatasetVersion) -> None:
        """Those of another dataset stay out, also their runs."""
        other = store.add_version(version_draft("other"))
        store.add_experiments([experiment_draft(version), experiment_draft(other), experiment_draft(version)])
        store.start_run(run_draft(2))
        found = [(e.number, e.dataset, e.state) for e in store.experiments(Selection(dataset="train"))]
        assert found == [(3, "train", "new"), (1, "train", "new")]
        assert store.experiments(Selection(dataset="absent")) == []

    def test_trials_are_listed_when_asked_for(self, store: Store, version: DatasetVersion) -> None:
        """By kind and by parent; the count counts what the list lists."""
        other = store.add_version(version_draft("other"))
        trial = replace(experiment_draft(version, "trial", parent=1), kind="trial", selected=True)
        clone = experiment_draft(version, "clone", parent=1)
        made = store.add_experiments([experiment_draft(version), trial, clone, experiment_draft(other)])
        assert [e.selected for e in made] == [False, True, False, False]
        cases: list[tuple[list[int], dict[str, Any]]] = [
            ([4, 3, 1], {}),
            ([2], {"kind": "trial"}),
            ([3, 2], {"kind": None, "parent": 1}),
            ([3], {"parent": 1}),
            ([3, 2, 1], {"kind": None, "dataset": "train"}),
        ]
        for numbers, wanted in cases:
            assert [e.number for e in store.experiments(Selection(**wanted))] == numbers
            assert store.listing(Selection(**wanted))[1] == len(numbers)

    def test_wrong_pins_register_nothing_and_leave_no_gap(self, store: Store, version: DatasetVersion) -> None:
        """All drafts or none."""
        other = store.add_version(version_draft("other", digest="d9"))
        good = experiment_draft(version)
        for wrong in (
            replace(good, fold_digest="x"),
            replace(good, label_digest="x"),
            replace(good, fold_set_id=other.folds[0].id),
        ):
            with pytest.raises(ValueError, match="fold"):
                store.add_experiments([good, wrong])
        assert store.listing()[1] == 0
        assert store.add_experiments([good])[0].number == 1
        assert store.add_experiments([]) == []

    def test_scores_are_kept(self, store: Store, version: DatasetVersion) -> None:
        """A score that is no number is the caller's bug."""
        store.add_experiments([experiment_draft(version)])
        store.set_scores(1, ScoreDraft(0.0731, 0.004, 0.07, 0.08), ScoreDraft(0.07))
        found = store.experiments()[0]
        assert (found.score, found.spread, found.score_tta, found.spread_tta) == (0.0731, 0.004, 0.07, None)
        whole = store.experiment(1)
        assert (whole.score_low, whole.score_high, whole.score_tta_low, whole.score_tta_high) == (
            0.07,
            0.08,
            None,
            None,
        )
        with pytest.raises(ValueError, match="finite"):
            store.set_scores(1, ScoreDraft(math.nan), ScoreDraft())
        assert store.experiment(1).score == 0.0731

    def test_a_live_run_holds_its_fold(self, store: Store, version: DatasetVersion) -> None:
        """Only its own fold, and only until it ends."""
        store.add_experiments([experiment_draft(version)])
        run = store.start_run(run_draft(fold=1))
        assert (run.fold, run.attempt, run.state, run.ended, run.epochs_done) == (1, 1, "running", None, 0)
        with pytest.raises(IchxError) as caught:
            store.start_run(run_draft(fold=1))
        for part in (socket.gethostname(), str(os.getpid()), f"{run.started:%Y-%m-%d %H:%M}"):
            assert part in caught.value.problem
        assert store.start_run(run_draft(fold=2)).attempt == 1
        store.finish_run(run.id, "stopped")
        again = store.start_run(run_draft(fold=1))
        assert again.attempt == 2
        assert [(r.fold, r.attempt, r.state) for r in store.runs(1)] == [
            (1, 1, "stopped"),
            (1, 2, "running"),
            (2, 1, "running"),
        ]
        assert store.runs(1, fold=1)[1] == again
        with pytest.raises(NotFoundError):
            store.start_run(run_draft(fold=3))

    def test_heartbeats_tell_where_a_run_is(self, store: Store, version: DatasetVersion) -> None:
        """What is not told stays; the list shows the newest run's stage."""
        store.add_experiments([experiment_draft(version)])
        run = store.start_run(run_draft())
        store.heartbeat(run.id, stage="balanced", epoch=1, epochs_done=1)
        store.heartbeat(run.id)
        (found,) = store.runs(1)
        assert (found.stage, found.epoch, found.epochs_done) == ("balanced", 1, 1)
        assert found.heartbeat > run.heartbeat
        assert store.experiments()[0].stage == "balanced"
        assert found.libraries == {"torch": "2.6.0"}

    def test_an_ended_run_cannot_go_on(self, store: Store, version: DatasetVersion) -> None:
        """Neither beat, nor record, nor end again; its predictions do not slip in."""
        store.add_experiments([experiment_draft(version)])
        run = store.start_run(run_draft())
        with pytest.raises(ValueError, match="dead"):
            store.finish_run(run.id, "dead")
        store.finish_run(run.id, "failed", error="out of memory")
        acts: tuple[Callable[[], None], ...] = (
            lambda: store.heartbeat(run.id),
            lambda: store.record_epoch(run.id, EpochRecord("full", 2, 0, {"loss": 1.0})),
            lambda: store.finish_run(run.id, "done", predictions=[prediction_draft(version.id)]),
        )
        for act in acts:
            with pytest.raises(IchxError, match=r"already ended \(failed\)"):
                act()
        (found,) = store.runs(1)
        assert (found.state, found.error) == ("failed", "out of memory")
        assert found.ended is not None
        assert store.history(1, 0) == []
        assert store.predictions(1) == []

    def test_states_follow_the_runs(self, store: Store, version: DatasetVersion) -> None:
        """From new to done, over every way that a run ends."""
        store.add_experiments([experiment_draft(version)])

        def state() -> tuple[str, int]:
            found = store.experiments()[0]
            assert store.experiment(1).state == found.state
            return found.state, found.folds_done

        assert state() == ("new", 0)
        run = store.start_run(run_draft(fold=0))
        assert state() == ("running", 0)
        store.finish_run(run.id, "done")
        assert state() == ("partial", 1)
        store.finish_run(store.start_run(run_draft(fold=1)).id, "failed")
        assert state() == ("failed", 1)
        store.finish_run(store.start_run(run_draft(fold=2)).id, "stopped")
        assert state() == ("stopped", 1)
        store.finish_run(store.start_run(run_draft(fold=2)).id, "done")
        assert state() == ("failed", 2)
        store.finish_run(store.start_run(run_draft(fold=1)).id, "done")
        assert state() == ("done", 3)

    def test_history_joins_attempts_in_order_of_training(self, store: Store, version: DatasetVersion) -> None:
        """Of an epoch trained twice only the later attempt counts, with all and only its metrics."""
        store.add_experiments([experiment_draft(version)])
        first = store.start_run(run_draft())
        store.record_epoch(first.id, EpochRecord("balanced", 0, 0, {"loss": 0.9, "score": 0.5}))
        store.record_epoch(first.id, EpochRecord("balanced", 0, 1, {"loss": 0.8, "lost": 1.0}))
        store.finish_run(first.id, "stopped")
        second = store.start_run(run_draft())
        store.record_epoch(second.id, EpochRecord("full", 1, 0, {"loss": math.inf}))
        store.record_epoch(second.id, EpochRecord("balanced", 0, 1, {"loss": 0.75}))
        store.record_epoch(second.id, EpochRecord("balanced", 0, 1, {"loss": 0.7, "score": math.nan}))
        found = store.history(1, 0)
        assert [(r.stage, r.stage_index, r.epoch) for r in found] == [
            ("balanced", 0, 0),
            ("balanced", 0, 1),
            ("full", 1, 0),
        ]
        assert found[0].values == {"loss": 0.9, "score": 0.5}
        assert found[1].values == {"loss": 0.7, "score": pytest.approx(math.nan, nan_ok=True)}
        assert found[2].values == {"loss": math.inf}
        assert store.history(1, 1) == []
        assert store.runs(1)[1].stage == "balanced"

    def test_predictions_are_replaced_by_their_key(self, store: Store, version: DatasetVersion) -> None:
        """They come with the end of a run, or alone."""
        hidden = store.add_version(version_draft("hidden", test_of="train"))
        store.add_experiments([experiment_draft(version)])
        run = store.start_run(run_draft())
        views = [prediction_draft(version.id, view=view) for view in ("identity", "hflip")]
        store.finish_run(run.id, "done", predictions=views)
        store.add_predictions([prediction_draft(hidden.id, role="test"), replace(views[0], digest="p2", score=0.05)])
        assert [(p.version_id, p.view, p.digest) for p in store.predictions(1)] == [
            (version.id, "hflip", "p1"),
            (version.id, "identity", "p2"),
            (hidden.id, "identity", "p1"),
        ]
        assert [p.view for p in store.predictions(1, role="oof", view="hflip")] == ["hflip"]
        assert [p.score for p in store.predictions(1, version_id=hidden.id)] == [None]
        assert store.predictions(2) == []

    def test_leaky_folds_mark_what_is_made_on_them(self, store: Store, version: DatasetVersion) -> None:
        """Experiments, trials and ensembles; the number of patients and the file stay with the folds."""
        draft = version_draft(digest="d2")
        imported = FoldDraft("theirs", 3, 0, "leak", leaking_patients=4, source="theirs.csv")
        leaky = store.add_version(replace(draft, folds=(*draft.folds, imported)))
        assert [(f.name, f.leaking_patients, f.leaky, f.source) for f in leaky.folds] == [
            ("default", 0, False, None),
            ("theirs", 4, True, "theirs.csv"),
        ]
        honest = experiment_draft(leaky)
        marked = replace(honest, fold_set_id=leaky.folds[1].id, fold_digest="leak")
        drafts = [experiment_draft(version), honest, marked, replace(marked, kind="trial", selected=True)]
        made = store.add_experiments(drafts)
        assert [(e.leaked, e.fold_set) for e in made] == [(False, "default")] * 2 + [(True, "theirs")] * 2
        assert [e.leaked for e in store.experiments(Selection(kind=None))] == [True, True, False, False]
        store.set_scores(3, ScoreDraft(0.1), ScoreDraft())
        assert store.experiment(3).leaked
        assert [marks(e) for e in made[1:]] == [
            ("partial (0 of 3 folds)",),
            ("leaky folds", "partial (0 of 3 folds)"),
            ("selected", "leaky folds", "partial (0 of 3 folds)"),
        ]
        blends = [
            EnsembleDraft(
                dataset="train",
                version_id=leaky.id,
                fold_digest="leak",
                tta="none",
                method="convex",
                score=0.1,
                nested_score=None,
                partial=partial,
                submissions=(),
                members=tuple(EnsembleMember(number, 0.5, 0.1) for number in members),
            )
            for members, partial in (((2,), None), ((2, 3), "1 of 3 folds"), ((3, 4), None))
        ]
        for blend in blends:
            store.add_ensemble(blend)
        assert [(e.leaked, e.selected) for e in store.ensembles()] == [(False, False), (True, False), (True, True)]
        assert [marks(e) for e in store.ensembles()] == [
            (),
            ("leaky folds", "partial (1 of 3 folds)"),
            ("selected", "leaky folds"),
        ]

    def test_ensembles_keep_their_members_in_order(self, store: Store, version: DatasetVersion) -> None:
        """A reserved number is nobody else's."""
        store.add_experiments([experiment_draft(version), experiment_draft(version)])
        draft = EnsembleDraft(
            dataset="train",
            version_id=version.id,
            fold_digest=version.folds[0].digest,
            tta="hflip",
            method="log loss over the simplex",
            score=0.061,
            nested_score=0.0613,
            partial=None,
            submissions=("ensembles/1/hidden.csv",),
            members=(EnsembleMember(2, 0.7, 0.063), EnsembleMember(1, 0.3, 0.066)),
        )
        reserved = store.reserve_ensemble()
        second = store.add_ensemble(replace(draft, partial="1 of 3 folds", members=draft.members[:1]))
        first = store.add_ensemble(draft, reserved)
        assert (first.number, second.number) == (1, 2)
        assert {name: getattr(first, name) for name in vars(draft)} == vars(draft)
        assert store.ensembles() == [first, second]
        assert store.ensemble(2) == second
        with pytest.raises(ValueError, match="not one of"):
            store.add_ensemble(replace(draft, dataset="other"))
        assert len(store.ensembles()) == 2
