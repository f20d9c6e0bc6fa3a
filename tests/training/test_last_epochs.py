"""SWA, the mean over the last epochs' predictions, and gradient accumulation."""

import copy
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from memory_feed import MemoryFeed, inputs_of, make_batch
from torch import nn

from ichx.errors import InvalidInputError
from ichx.plugins import load_registry
from ichx.recipe import Recipe
from ichx.recipe_text import apply_settings
from ichx.training import step_sync
from ichx.training.callbacks import Callbacks, EpochResult
from ichx.training.checkpoint import Checkpoints
from ichx.training.control import Control
from ichx.training.device import Hardware
from ichx.training.feed import EpochPlan
from ichx.training.learner import Learner
from ichx.training.mean_network import MeanNetwork, newest_weights, trained_network
from ichx.training.runtime import Runtime
from ichx.training.stop_request import RunStopped, StopRequest
from ichx.training.trainer import FitOptions, FitResult, fit
from ichx.training.weights import load_exactly, load_file, save_weights

CPU = Hardware(torch.device("cpu"), "fp32", "a test")
SETTINGS = (
    "input.size=32",
    "input.crop=0",
    "batch=8",
    "stage.balanced.epochs=1",
    "stage.rebalanced.epochs=1",
    "stage.full.epochs=3",
    "stage.full.lr=0.01",
)
KINDS = {
    "swa": ("swa.epochs=2", "model.dropout=0.2"),
    "mean": ("prediction.average_last=2",),
    "accumulate": ("accumulate=3", "model.dropout=0.2", "augmentation.mixup=0.4"),
}


class Watch(Callbacks):
    """Keeps the weights after each epoch; requests a stop at the event number `stop_at`."""

    def __init__(self, model: nn.Module, stop: StopRequest | None = None, stop_at: int = -1) -> None:
        self.model, self._stop, self._left = model, stop, stop_at
        self.epochs: list[nn.Module] = []
        self.phases: list[str] = []
        self.events = 0

    def step(self, done: int, total: int, loss: float, images: int) -> None:
        self._event()

    def phase(self, phase: str, done: int, total: int) -> None:
        self.phases.append(phase)
        self._event()

    def epoch_ended(self, result: EpochResult) -> None:
        self.epochs.append(copy.deepcopy(self.model).eval())

    def _event(self) -> None:
        self.events += 1
        self._left -= 1
        if self._stop is not None and self._left == 0:
            self._stop.signal = signal.SIGTERM


def recipe_of(*settings: str) -> Recipe:
    return apply_settings(load_registry().get("tiny_resnet").recipe, (*SETTINGS, *settings))


def network(recipe: Recipe) -> nn.Module:
    torch.manual_seed(0)
    return load_registry().get(recipe.plugin).build(recipe, False)


def feed_of(recipe: Recipe) -> MemoryFeed:
    return MemoryFeed(recipe, make_batch(44, 3), held_out=12)


def train(recipe: Recipe, checkpoints: Checkpoints | None = None, stop_at: int = -1) -> tuple[FitResult, Watch]:
    model, stop = network(recipe), StopRequest()
    watch = Watch(model, stop, stop_at)
    control = Control(checkpoints, callbacks=watch, stop=stop)
    return fit(model, recipe, feed_of(recipe), FitOptions(hardware=CPU, control=control)), watch


def test_swa_predicts_with_the_mean_of_the_last_weights() -> None:
    recipe = recipe_of("swa.epochs=2")
    result, watch = train(recipe)
    last = [one.state_dict() for one in watch.epochs[-2:]]
    for name, value in result.network.named_parameters():
        torch.testing.assert_close(value, torch.stack([of[name] for of in last]).mean(dim=0), msg=name)
    assert "batch-norm statistics" in watch.phases
    assert result.score == result.history[-1].values["score"], "the last validation is that of the mean"
    plain, _ = train(recipe_of())
    assert not np.array_equal(plain.logits, result.logits)
    assert [r.values["score"] for r in plain.history[:-1]] == [r.values["score"] for r in result.history[:-1]]


def test_swa_estimates_the_statistics_of_the_batch_norms_anew() -> None:
    recipe = recipe_of("swa.epochs=2")
    result, _ = train(recipe)
    feed = feed_of(recipe)
    plan = EpochPlan(2, 2, feed.epoch_rows(2, 2), 8)
    copied = copy.deepcopy(result.network)
    for layer in copied.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
    with torch.no_grad():
        for batch in feed.training_batches(plan):
            copied(inputs_of(recipe, batch).images)
    for name, value in result.network.named_buffers():
        torch.testing.assert_close(value, copied.get_buffer(name), msg=name)


def test_the_mean_over_epochs_is_that_of_their_logits(tmp_path: Path) -> None:
    recipe = recipe_of("prediction.average_last=2")
    result, watch = train(recipe)
    feed = feed_of(recipe)
    rows = feed.validation_rows
    each = [result.predictor.logits(one, feed, rows) for one in watch.epochs[-2:]]
    np.testing.assert_allclose(result.logits, np.mean(each, axis=0), atol=1e-6)
    assert not np.allclose(each[0], each[1])
    assert isinstance(result.network, MeanNetwork)
    path = tmp_path / "weights.safetensors"
    save_weights(path, result.network, {})
    loaded = trained_network(recipe, load_registry().get(recipe.plugin).build)
    load_exactly(loaded, path)
    assert np.array_equal(result.predictor.logits(loaded, feed, rows), result.logits)
    started, notes = network(recipe), list[str]()
    load_file(started, path, notes.append)
    newest = watch.epochs[-1].state_dict()
    assert all(torch.equal(value, newest[name]) for name, value in started.state_dict().items())
    assert newest_weights(newest) == dict(newest), "a file of one network stays as it is"


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every step a sync point, where a training can stop."""
    monkeypatch.setattr(step_sync, "MAX_STEPS", 1)


@pytest.mark.usefixtures("every_step")
@pytest.mark.parametrize("kind", KINDS)
def test_stopped_anywhere_it_resumes_to_the_same_bits(tmp_path: Path, kind: str) -> None:
    """Among the last events are steps, the estimate of statistics, a validation and the final prediction."""
    recipe = recipe_of(*KINDS[kind])
    expected, whole = train(recipe)
    assert whole.events > 20
    for stop_at in (2, *range(whole.events - 8, whole.events)):
        check_resumed(recipe, expected, tmp_path / str(stop_at), stop_at)


def check_resumed(recipe: Recipe, expected: FitResult, folder: Path, stop_at: int) -> None:
    folder.mkdir()
    with pytest.raises(RunStopped):
        train(recipe, Checkpoints(folder, "this"), stop_at)
    resumed = Checkpoints(folder, "this")
    assert resumed.load(pytest.fail)
    result, _ = train(recipe, resumed)
    for name, value in result.network.state_dict().items():
        assert torch.equal(value, expected.network.state_dict()[name]), name
    assert np.array_equal(result.logits, expected.logits)


class Plain(nn.Module):
    """A network without batch normalization."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.GELU(), nn.Conv2d(8, 8, 3, stride=2), nn.GELU())
        self.fc = nn.Linear(8, 6)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layers(images).mean(dim=(2, 3)))


@pytest.mark.parametrize("parts", [2, 3, 8, 20])
def test_accumulated_gradients_are_those_of_the_complete_batch(parts: int) -> None:
    """20 slices in up to 20 parts, with a batch of another size at the end."""
    weights = []
    for count in (1, parts):
        recipe = recipe_of("batch=20", f"accumulate={count}", "augmentation.mixup=0.4")
        torch.manual_seed(1)
        learner = Learner(recipe, 0, Plain(), Runtime(CPU), pytest.fail)
        losses = []
        for step in range(4):
            batch = make_batch(20, step)
            losses.append(learner.step(inputs_of(recipe, batch), 0, step, 4))
        weights.append((torch.stack(losses), learner.network.state_dict()))
    torch.testing.assert_close(weights[0][0], weights[1][0], rtol=1e-6, atol=1e-6)
    for name, value in weights[0][1].items():
        torch.testing.assert_close(weights[1][1][name], value, rtol=1e-5, atol=1e-6, msg=name)


def test_parts_are_seen_one_after_another() -> None:
    recipe, seen = recipe_of("batch=20", "accumulate=3"), list[int]()
    model = Plain()
    model.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    learner = Learner(recipe, 0, model, Runtime(CPU), pytest.fail)
    learner.step(inputs_of(recipe, make_batch(20, 0)), 0, 0, 1)
    learner.step(inputs_of(recipe, make_batch(2, 0)), 0, 0, 1)
    assert seen == [7, 7, 6, 1, 1]


@pytest.mark.parametrize(
    "settings",
    [
        ("swa.epochs=4",),
        ("swa.epochs=2", "ema.decay=0.9"),
        ("swa.epochs=2", "stage.full.patience=2"),
        ("prediction.average_last=4",),
        ("prediction.average_last=0",),
        ("prediction.average_last=2", "swa.epochs=2"),
        ("prediction.average_last=2", "stage.full.patience=2"),
        ("accumulate=9",),
        ("accumulate=0",),
    ],
)
def test_invalid_combinations_are_refused(settings: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInputError):
        recipe_of(*settings)
