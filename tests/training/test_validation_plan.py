"""When a training validates, and on which rows: the scores that are compared are of the same rows."""

import itertools
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memory_feed import MemoryFeed, make_batch
from torch import nn

from ichx.errors import IchxError
from ichx.evaluation import scored_rows
from ichx.evaluation.calibrated_score import FoldCalibration
from ichx.evaluation.choices import CALIBRATED
from ichx.evaluation.metric import probabilities, score
from ichx.plugins import load_registry
from ichx.recipe import Recipe
from ichx.recipe_text import apply_settings, from_toml, to_toml
from ichx.report.plots import learning_curves
from ichx.store import EpochRecord
from ichx.training.callbacks import Callbacks, EpochResult, compared_score, format_score
from ichx.training.checkpoint import Checkpoints
from ichx.training.control import Control
from ichx.training.device import Hardware
from ichx.training.epoch_loop import validation_subset
from ichx.training.stop_request import RunStopped, StopRequest
from ichx.training.trainer import FitOptions, FitResult, fit
from ichx.tuning.trial_monitor import scores_by_step
from ichx.tuning.trial_score import newest_score

CPU = Hardware(torch.device("cpu"), "fp32", "a test")
HELD_OUT = 150


def recipe_of(*settings: str) -> Recipe:
    plain = ("input.size=32", "input.crop=0", "batch=8", "stage.rebalanced.epochs=1", "stage.full.epochs=2")
    return apply_settings(load_registry().get("tiny_resnet").recipe, (*plain, *settings))


def feed_of(recipe: Recipe) -> MemoryFeed:
    return MemoryFeed(recipe, make_batch(32 + HELD_OUT, 3), held_out=HELD_OUT)


def train(recipe: Recipe, control: Control | None = None) -> FitResult:
    torch.manual_seed(0)
    network: nn.Module = load_registry().get(recipe.plugin).build(recipe, False)
    return fit(network, recipe, feed_of(recipe), FitOptions(hardware=CPU, control=control or Control()))


def kinds(history: tuple[EpochResult, ...]) -> list[str]:
    """Return the scores of each epoch: `all`, `subset`, `both` or nothing."""
    names = {(True, True): "both", (True, False): "all", (False, True): "subset", (False, False): ""}
    return [names["score" in result.values, "subset_score" in result.values] for result in history]


def test_epochs_between_validations_have_no_score_and_weights_do_not_change() -> None:
    often = train(recipe_of("stage.balanced.epochs=5"))
    seldom = train(recipe_of("stage.balanced.epochs=5", "stage.balanced.validate_every=2"))
    assert kinds(often.history) == ["all"] * 8
    assert kinds(seldom.history) == ["", "all", "", "all", "all", "all", "all", "all"]
    for one, other in zip(seldom.history, often.history, strict=True):
        for name in ("loss", "score", "score_any"):
            assert name not in one.values or one.values[name] == other.values[name]
    assert seldom.score == often.score
    assert np.array_equal(seldom.logits, often.logits)


def test_a_subset_is_validated_before_the_last_epoch_of_a_stage() -> None:
    recipe = recipe_of(*(f"stage.{name}.validation_share=0.3" for name in ("balanced", "rebalanced", "full")))
    recipe = apply_settings(recipe, ["stage.balanced.epochs=3", "stage.balanced.validate_every=2"])
    result = train(recipe)
    assert kinds(result.history) == ["", "subset", "both", "both", "subset", "both"]
    feed = feed_of(recipe)
    places = validation_subset(feed, 0.3)
    assert len(places) == 45
    labels = feed.labels(feed.validation_rows)
    last = result.history[-1].values
    assert last["score"] == result.score == score(labels, probabilities(result.logits))
    assert last["subset_score"] == score(labels[places], probabilities(result.logits[places]))


def test_the_subset_is_fixed_and_a_smaller_one_is_part_of_it() -> None:
    feed = feed_of(recipe_of())
    small, large = (set(validation_subset(feed, share).tolist()) for share in (0.1, 0.5))
    assert small < large
    assert len(large) == HELD_OUT // 2
    assert small == set(validation_subset(feed_of(recipe_of("seed=7")), 0.1).tolist())
    assert validation_subset(feed, 1.0).tolist() == list(range(HELD_OUT))
    assert len(validation_subset(feed, 1e-9)) == 1


@pytest.mark.parametrize("stop_at", [3, 5, 8])
def test_stopped_within_a_validation_of_a_subset_it_resumes(tmp_path: Path, stop_at: int) -> None:
    recipe = recipe_of("stage.balanced.epochs=2", "stage.balanced.validation_share=0.5")
    expected = train(recipe)

    class Stopping(Callbacks):
        def __init__(self, stop: StopRequest) -> None:
            self.stop, self.left = stop, stop_at

        def _count(self) -> None:
            self.left -= 1
            if self.left == 0:
                self.stop.signal = signal.SIGTERM

        def phase(self, name: str, done: int, total: int) -> None:
            self._count()

        def step(self, done: int, total: int, loss: float, images: int) -> None:
            self._count()

    stop = StopRequest()
    checkpoints = Checkpoints(tmp_path, "this training")
    with pytest.raises(RunStopped):
        train(recipe, Control(checkpoints, callbacks=Stopping(stop), stop=stop))
    resumed = Checkpoints(tmp_path, "this training")
    assert resumed.load(lambda note: None)
    result = train(recipe, Control(resumed))
    assert result.score == expected.score
    assert np.array_equal(result.logits, expected.logits)
    for one, other in zip(reversed(result.history), reversed(expected.history), strict=False):
        assert compared_score(one.values) == compared_score(other.values)


def test_patience_compares_scores_of_the_same_rows_and_ends_with_a_full_validation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worse = itertools.count(1)
    monkeypatch.setattr(scored_rows, "score", lambda labels, predicted: next(worse) / 100)
    settings = ("stage.full.epochs=9", "stage.full.patience=3", "stage.full.validate_every=2")
    result = train(recipe_of("stage.balanced.epochs=1", *settings, "stage.full.validation_share=0.2"))
    full = tuple(epoch for epoch in result.history if epoch.stage == "full")
    # Epoch 2 is the best. Epoch 5 is the third after it, but only epoch 6 is validated.
    assert kinds(full) == ["", "subset", "", "subset", "", "both"]


def record(stage: int, epoch: int, **values: float) -> EpochRecord:
    return EpochRecord(("balanced", "rebalanced", "full")[stage], stage, epoch, {"loss": 1.0, "lr": 0.1, **values})


def test_pruning_skips_epochs_without_a_validation() -> None:
    recipe = recipe_of("stage.balanced.epochs=4", "stage.balanced.validate_every=2")
    history = [
        record(0, 1),
        record(0, 2, calibrated_score=0.4, score=0.5),
        record(0, 3),
        record(0, 4, calibrated_score=0.3, score=0.9),
    ]
    assert list(dict.fromkeys(scores_by_step(history, recipe).values())) == [0.4, 0.3]
    assert len(scores_by_step(history[:1], recipe)) == 0
    assert newest_score(history[:3]) == 0.4
    assert np.isnan(newest_score(history[:1]))


def test_a_trial_validates_on_all_rows_or_not_at_all() -> None:
    """Its scores are calibrated by halves of all validation patients."""
    recipe = recipe_of("stage.balanced.epochs=3", "stage.balanced.validate_every=2")
    recipe = apply_settings(recipe, ["stage.balanced.validation_share=0.2"])
    torch.manual_seed(0)
    network = load_registry().get(recipe.plugin).build(recipe, False)
    halves = np.arange(HELD_OUT) % 2 == 0
    options = FitOptions(hardware=CPU, calibration=FoldCalibration(halves, (1.0, 1.0, 1.0)))
    history = fit(network, recipe, feed_of(recipe), options).history
    assert kinds(history) == ["", "all", "all", "all", "all", "all"]
    assert [CALIBRATED in epoch.values for epoch in history] == [False, *[True] * 5]


def test_lines_and_curves_show_what_there_is() -> None:
    recipe = recipe_of("stage.balanced.epochs=4")
    history = [record(0, 1), record(0, 2, subset_score=0.4), record(0, 4, subset_score=0.3, score=0.35)]
    assert [format_score(each.values) for each in history] == ["not validated", "subset score 0.40000", "score 0.35000"]
    charts = [str(chart) for chart in learning_curves(recipe, {0: history})]
    assert len(charts) == 4
    (subset,) = [chart for chart in charts if "curve-subset_score" in chart]
    assert "0.40000" in subset
    assert "fold 0: 0.30000" in subset
    assert "nan" not in "".join(charts).lower().replace("tenant", "")
    assert len(learning_curves(recipe, {0: [record(0, 1, score=0.5)]})) == 3


@pytest.mark.parametrize("setting", ["validate_every=0", "validation_share=0.0", "validation_share=1.5"])
def test_invalid_values_are_refused(setting: str) -> None:
    with pytest.raises(IchxError, match=setting.partition("=")[0]):
        recipe_of(f"stage.full.{setting}")


def test_recipes_without_the_values_validate_every_epoch() -> None:
    recipe = recipe_of()
    text = to_toml(recipe)
    assert "validate_every" not in text or "validate_every = 1" in text
    read: Any = from_toml("\n".join(line for line in text.splitlines() if not line.startswith("valid")))
    assert read == recipe
    assert [read.stage[0].validated_share(epoch) for epoch in (1, 2)] == [1.0, 1.0]
