"""The training loop: stages, epochs, validation, checkpoints, stop requests, patience."""

import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from memory_feed import MemoryFeed, make_batch
from torch import nn

from ichx.errors import InvalidInputError
from ichx.evaluation.calibrated_score import FoldCalibration
from ichx.evaluation.metric import FloatArray, probabilities, score
from ichx.plugins import load_registry
from ichx.recipe import Recipe
from ichx.recipe_text import apply_settings
from ichx.training.callbacks import Callbacks, EpochResult
from ichx.training.checkpoint import Checkpoints
from ichx.training.control import Control
from ichx.training.device import Hardware
from ichx.training.divergence import TrainingDivergedError
from ichx.training.stop_request import RunStopped, StopRequest
from ichx.training.trainer import FitOptions, FitResult, fit

CPU = Hardware(torch.device("cpu"), "fp32", "a test")
SETTINGS = (
    "input.size=32",
    "input.crop=0",
    "batch=8",
    "stage.balanced.epochs=2",
    "stage.rebalanced.epochs=1",
    "stage.full.epochs=1",
)


class Recorder(Callbacks):
    """Records the calls of a training; requests a stop at the sync point number `stop_at`."""

    def __init__(self, stop: StopRequest | None = None, stop_at: int = -1) -> None:
        self.calls: list[str] = []
        self.results: list[EpochResult] = []
        self._stop, self._left = stop, stop_at

    def epoch_started(self, stage: str, epoch: int, epochs: int, batches: int) -> None:
        self.calls.append(f"start {stage} {epoch}/{epochs} {batches}")

    def step(self, done: int, total: int, loss: float, images: int) -> None:
        self._left -= 1
        if self._stop is not None and self._left == 0:
            self._stop.signal = signal.SIGTERM

    def epoch_ended(self, result: EpochResult) -> None:
        self.calls.append(f"end {result.stage} {result.epoch}")
        self.results.append(result)

    def stage_ended(self, stage: str, best: int, trained: int, left_out: int) -> None:
        self.calls.append(f"stage {stage} {best} {trained} {left_out}")


def recipe_of(*settings: str) -> Recipe:
    return apply_settings(load_registry().get("tiny_resnet").recipe, (*SETTINGS, *settings))


def network(recipe: Recipe) -> nn.Module:
    torch.manual_seed(0)
    return load_registry().get(recipe.plugin).build(recipe, False)


def feed_of(recipe: Recipe) -> MemoryFeed:
    return MemoryFeed(recipe, make_batch(44, 3), held_out=12)


def train(recipe: Recipe, control: Control | None = None) -> FitResult:
    options = FitOptions(hardware=CPU, control=control or Control())
    return fit(network(recipe), recipe, feed_of(recipe), options)


def state_of(result: FitResult) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in result.network.state_dict().items()}


def test_it_trains_every_epoch_of_every_stage_and_predicts_the_validation_rows() -> None:
    recipe, recorder = recipe_of(), Recorder()
    result = train(recipe, Control(callbacks=recorder))
    assert recorder.calls == [
        "start balanced 1/2 4",
        "end balanced 1",
        "start balanced 2/2 4",
        "end balanced 2",
        "start rebalanced 1/1 4",
        "end rebalanced 1",
        "start full 1/1 4",
        "end full 1",
    ]
    assert [r.values["images"] for r in recorder.results] == [32.0] * 4
    feed = feed_of(recipe)
    assert result.logits.shape == (12, 6)
    assert result.score == score(feed.labels(feed.validation_rows), probabilities(result.logits))
    assert result.score == result.history[-1].values["score"]
    assert np.array_equal(result.predictor.logits(result.network, feed, feed.validation_rows), result.logits)


@pytest.mark.parametrize("stop_at", [1, 2, 5])
def test_stopped_anywhere_it_resumes_to_the_same_weights(tmp_path: Path, stop_at: int) -> None:
    recipe = recipe_of("ema.decay=0.9", "augmentation.mixup=0.4", "model.dropout=0.2")
    expected = state_of(train(recipe))
    stop = StopRequest()
    checkpoints = Checkpoints(tmp_path, "this training")
    with pytest.raises(RunStopped):
        train(recipe, Control(checkpoints, callbacks=Recorder(stop, stop_at), stop=stop))
    resumed, notes = Checkpoints(tmp_path, "this training"), list[str]()
    assert resumed.load(notes.append)
    assert resumed.progress.position > Checkpoints().progress.position
    result = train(recipe, Control(resumed))
    assert notes == []
    for name, value in state_of(result).items():
        assert torch.equal(value, expected[name]), name


def test_a_finished_training_is_not_trained_again(tmp_path: Path) -> None:
    recipe = recipe_of()
    first = train(recipe, Control(Checkpoints(tmp_path, "x")))
    again, recorder = Checkpoints(tmp_path, "x"), Recorder()
    assert again.load(pytest.fail)
    second = train(recipe, Control(again, callbacks=recorder))
    assert recorder.calls == []
    assert np.array_equal(first.logits, second.logits)


def test_patience_passes_on_the_best_epoch() -> None:
    recipe, recorder = recipe_of("stage.full.epochs=6", "stage.full.patience=1", "stage.full.lr=0.5"), Recorder()
    result = train(recipe, Control(callbacks=recorder))
    scores = [r.values["score"] for r in recorder.results if r.stage == "full"]
    best = int(np.argmin(scores)) + 1
    assert len(scores) < 6
    assert recorder.calls[-1] == f"stage full {best} {len(scores)} {6 - len(scores)}"
    assert result.score == pytest.approx(min(scores), abs=1e-12)


def test_patience_of_a_tuned_training_uses_the_calibrated_score() -> None:
    recipe = recipe_of("stage.full.epochs=6", "stage.full.patience=2")
    feed = feed_of(recipe)
    halves = np.arange(len(feed.validation_rows)) % 2 == 0

    class Scripted(FoldCalibration):
        def score(self, labels: FloatArray, predicted: FloatArray, stage: int) -> float:
            assert (labels.shape, predicted.shape) == ((len(halves), 6), (len(halves), 6))
            scores.append((0.5, 0.2, 0.6, 0.4, 0.3, 0.1)[sum(s == 2 for s in stages)] if stage == 2 else 1.0)
            stages.append(stage)
            return scores[-1]

    scores, stages = list[float](), list[int]()
    calls = Recorder()
    calibration = Scripted(halves, (0.5, 0.5, 1.0))
    options = FitOptions(hardware=CPU, control=Control(callbacks=calls), calibration=calibration)
    history = fit(network(recipe), recipe, feed, options).history
    assert [result.values["calibrated_score"] for result in history] == scores
    assert [result.epoch for result in history if result.stage == "full"] == [1, 2, 3, 4]
    assert calls.calls[-1] == "stage full 2 4 2"
    assert "calibrated_score" not in train(recipe).history[-1].values


def test_a_loss_that_is_not_finite_names_its_slices() -> None:
    recipe = recipe_of()
    model = network(recipe)
    nn.init.constant_(model.get_parameter("fc.bias"), float("nan"))
    with pytest.raises(TrainingDivergedError) as caught:
        fit(model, recipe, feed_of(recipe), FitOptions(hardware=CPU))
    divergence = caught.value.divergence
    assert caught.value.code == "diverged"
    assert divergence is not None
    assert (divergence.stage, divergence.epoch) == ("balanced", 1)
    assert len(divergence.slice_ids) == 8
    assert divergence.slice_ids[0] in caught.value.problem


@pytest.mark.parametrize(("batch", "count"), [(1, 44), (8, 13)])
def test_batch_of_one_that_batch_normalization_cannot_train_on_is_an_error(batch: int, count: int) -> None:
    """At 32 pixels the last maps have one pixel; 13 slices without the 12 held-out ones are a batch of one."""
    recipe = recipe_of(f"batch={batch}", "stage.balanced.sampling=all")
    feed = MemoryFeed(recipe, make_batch(count, 3), held_out=12)
    with pytest.raises(InvalidInputError, match="tiny_resnet.* 32 .* 1,") as caught:
        fit(network(recipe), recipe, feed, FitOptions(hardware=CPU))
    assert "batch=2" in caught.value.remedy


def test_batch_of_one_trains_where_its_maps_have_several_pixels() -> None:
    recipe = recipe_of("batch=1", "input.size=64", "stage.balanced.epochs=1")
    feed = MemoryFeed(recipe, make_batch(20, 3, 64), held_out=12)
    assert fit(network(recipe), recipe, feed, FitOptions(hardware=CPU)).logits.shape == (12, 6)
