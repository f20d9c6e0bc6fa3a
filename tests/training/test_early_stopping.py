"""Patience: when a stage ends, what it hands on, and that an interruption changes neither."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SHORT, Program

from ichx.evaluation.predictions import read_predictions
from ichx.experiments.callbacks import RunCallbacks
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import open_store
from ichx.training.callbacks import EpochResult
from ichx.training.early_stopping import EarlyStopping, best_epoch, runs_out
from ichx.training.run_options import RunOptions
from ichx.training.weights import read_weights
from ichx.workspace import open_workspace

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("scores", "patience", "best", "over"),
    [
        ([0.3], 1, 0, False),
        ([0.3, 0.2], 1, 1, False),
        ([0.3, 0.2, 0.2], 1, 1, True),  # an equal one is no better one
        ([0.3, 0.4], 2, 0, False),
        ([0.3, 0.4, 0.31], 2, 0, True),
        ([0.3, 0.4, 0.29, 0.5], 2, 2, False),
        ([math.nan, 0.4, math.nan], 1, 1, True),
        ([math.nan, math.nan], 1, 0, True),
        ([0.3, 0.4, 0.5, 0.6], 0, 0, False),
    ],
)
def test_a_stage_ends_after_so_many_epochs_without_a_better_score(
    scores: list[float], patience: int, best: int, over: bool
) -> None:
    assert best_epoch(scores) == best
    assert runs_out(scores, patience) is over


def test_the_weights_of_the_best_epoch_are_stored() -> None:
    one = EarlyStopping(2)
    for epoch, score in enumerate((0.5, 0.3, 0.4)):
        one.update(score, lambda epoch=epoch: {"epoch": epoch})  # type: ignore[misc]
    other = EarlyStopping(2)
    other.restore(one.state())
    for patience in (one, other):
        assert not patience.over
        patience.update(0.35, lambda: {"epoch": 3})
        assert patience.over
        assert (patience.best, patience.weights) == (1, {"epoch": 1})
        assert not patience.keeps_last
    assert one.scores == [0.5, 0.3, 0.4, 0.35]


def test_without_patience_scores_are_ignored() -> None:
    one = EarlyStopping(0)
    for score in (0.1, 0.2, 0.3):
        one.update(score, lambda: pytest.fail("no weights are needed"))
    assert not one.over
    assert one.keeps_last
    assert one.state() == {"scores": [], "weights": None}


WILD = (
    "stage.balanced.epochs=12",
    "stage.balanced.lr=0.05",
    "stage.balanced.patience=2",
    "stage.full.epochs=12",
    "stage.full.lr=0.05",
    "stage.full.scheduler=multistep",
    "stage.full.patience=2",
    "ema.decay=0.5",
    "batch=8",
)
"""Rates at which the validation score soon gets worse."""


class Stopper(RunCallbacks):
    """Records the ends of stages, and interrupts the run after `after` epochs."""

    def __init__(self, after: int | None = None) -> None:
        self.after, self.epochs, self.ends = after, 0, list[tuple[str, int, int, int]]()

    def epoch_ended(self, result: EpochResult) -> None:
        self.epochs += 1
        if self.epochs == self.after:
            raise KeyboardInterrupt

    def stage_ended(self, stage: str, best: int, trained: int, left_out: int) -> None:
        self.ends.append((stage, best, trained, left_out))


def register(root: Path, *settings: str, copies: int = 1) -> None:
    with open_store(open_workspace(root)) as store:
        for _ in range(copies):
            chosen = [*SHORT, *WILD, *settings]
            new_experiment(store, load_registry(), ExperimentRequest(plugin="tiny_resnet", size=32, settings=chosen))


def run(root: Path, number: int, events: RunCallbacks) -> None:
    workspace = open_workspace(root)
    with open_store(workspace) as store:
        run_experiment(
            Project(workspace, store, load_registry()), number, folds=[0], options=RunOptions(), callbacks=events
        )


def history(root: Path, number: int) -> list[tuple[str, int, float]]:
    with open_store(open_workspace(root)) as store:
        return [(r.stage, r.epoch, r.values["score"]) for r in store.history(number, 0)]


def outcome(root: Path, number: int) -> tuple[dict[str, torch.Tensor], Any]:
    home = root / "experiments" / str(number) / "fold-0"
    return read_weights(home / "weights.safetensors"), read_predictions(home / "oof-identity.parquet").logits


def test_early_stopping_is_equal_after_an_interruption(dataset_copy: Path, ichx: Program) -> None:
    register(dataset_copy, copies=2)
    whole = Stopper()
    run(dataset_copy, 1, whole)
    epochs = history(dataset_copy, 1)
    assert [end[0] for end in whole.ends] == ["balanced", "full"]
    for stage, best, trained, left_out in whole.ends:
        scores = [score for name, _, score in epochs if name == stage]
        assert (len(scores), left_out) == (trained, 12 - trained)
        assert best == best_epoch(scores) + 1
    assert any(left_out > 0 for _, _, _, left_out in whole.ends), "the rates are wild enough"
    weights, oof = outcome(dataset_copy, 1)
    with open_store(open_workspace(dataset_copy)) as store:
        [plain] = [p.score for p in store.predictions(1, role="oof", view="identity")]
        [attempt] = store.runs(1)
        assert store.experiment(1).selected
        assert attempt.epochs_done == store.experiment(1).epochs == 25, "what is left out is done too"
    best_of_full = min(score for name, _, score in epochs if name == "full")
    assert plain == pytest.approx(best_of_full, abs=1e-6)
    assert "selected" in ichx("exp", "list", cwd=dataset_copy).out

    # Interrupted in the first stage, where the best epoch lies behind, and at that stage's end.
    first_stage = whole.ends[0][2]
    for after in (first_stage - 1, 1):
        with pytest.raises(KeyboardInterrupt):
            run(dataset_copy, 2, Stopper(after))
    last = Stopper()
    run(dataset_copy, 2, last)
    assert history(dataset_copy, 2) == epochs
    assert last.ends == whole.ends
    again, oof_again = outcome(dataset_copy, 2)
    assert [name for name in weights if not torch.equal(weights[name], again[name])] == []
    np.testing.assert_array_equal(oof, oof_again)


def test_the_live_view_shows_the_best_epoch_of_a_stage(dataset_copy: Path, ichx: Program) -> None:
    register(dataset_copy)
    done = ichx("run", 1, "--fold", 0, "--device", "cpu", cwd=dataset_copy)
    assert done.code == 0, done.err
    trained = sum(stage == "balanced" for stage, _, _ in history(dataset_copy, 1))
    assert "with the weights of epoch " in done.err
    if trained < 12:
        assert f"balanced ends after {trained} of 12 epochs with the weights of epoch" in done.err
