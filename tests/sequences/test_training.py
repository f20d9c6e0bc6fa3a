"""`fit` trains networks over series: it learns, resumes to the bit, and predicts slices and studies."""

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from simulated import feed_of, simulate

from ichx.evaluation.metric import probabilities, score
from ichx.plugins import load_registry
from ichx.recipe import Recipe
from ichx.recipe_text import apply_settings
from ichx.sequences.data import SequenceData
from ichx.sequences.network import build_network, fit_components
from ichx.sequences.prediction import predict_series
from ichx.training.callbacks import Callbacks
from ichx.training.checkpoint import Checkpoints
from ichx.training.control import Control
from ichx.training.device import Hardware
from ichx.training.stop_request import RunStopped, StopRequest
from ichx.training.trainer import FitOptions, FitResult, fit

CPU = Hardware(torch.device("cpu"), "fp32", "a test")
LENGTHS = [20, 7, 33, 1, 12, 25, 9, 30, 14, 18, 22, 5, 70, 28, 16, 11, 24, 3, 19, 21]
SMALL = ("sequence.width=8", "sequence.parts=3", "batch=4", "stage.full.epochs=3")


class StopAfter(Callbacks):
    """Requests a stop at the sync point number `at`."""

    def __init__(self, stop: StopRequest, at: int) -> None:
        self.stop, self.left = stop, at

    def step(self, done: int, total: int, loss: float, images: int) -> None:
        self.left -= 1
        if self.left == 0:
            self.stop.signal = signal.SIGTERM


def recipe_of(plugin: str, *settings: str) -> Recipe:
    return apply_settings(load_registry().get(plugin).recipe, (*SMALL, *settings))


def train(recipe: Recipe, data: SequenceData, control: Control | None = None) -> FitResult:
    torch.manual_seed(0)
    network, feed = (
        build_network(load_registry().get(recipe.plugin), recipe, data.widths(recipe)),
        feed_of(data, recipe),
    )
    fit_components(network, feed)
    return fit(network, recipe, feed, FitOptions(hardware=CPU, control=control or Control()))


def test_it_learns_what_neighbours_tell() -> None:
    data = simulate([30] * 60, parts=3)
    recipe = recipe_of("gru_stack", "stage.full.epochs=12", "stage.full.lr=0.01", "sequence.dropout=0.2")
    result = train(recipe, data)
    feed = feed_of(data, recipe)
    rows = feed.slices(feed.validation_rows)
    assert result.logits.shape == (len(rows), 6)
    assert result.score == score(data.labels[rows], probabilities(result.logits))
    assert data.logits is not None
    assert result.score < 0.8 * score(data.labels[rows], probabilities(data.logits[rows].mean(axis=1)))


@pytest.mark.parametrize("stop_at", [1, 2, 3])
@pytest.mark.parametrize("setting", ["sequence.average_last=2", "stage.full.patience=2"])
def test_stopped_anywhere_it_resumes_to_the_same_weights(tmp_path: Path, stop_at: int, setting: str) -> None:
    augmented = ("sequence.drop=0.2", "sequence.reverse=0.5", "sequence.noise=0.1", "sequence.dropout=0.2")
    recipe, data = recipe_of("gru_stack", *augmented, setting), simulate(LENGTHS, parts=3)
    expected = train(recipe, data)
    stop = StopRequest()
    control = Control(Checkpoints(tmp_path, "this"), callbacks=StopAfter(stop, stop_at), stop=stop)
    with pytest.raises(RunStopped):
        train(recipe, data, control)
    resumed = Checkpoints(tmp_path, "this")
    assert resumed.load(pytest.fail)
    result = train(recipe, data, Control(resumed))
    assert np.array_equal(result.logits, expected.logits)
    for name, value in result.network.state_dict().items():
        assert torch.equal(value, expected.network.state_dict()[name]), name


@pytest.mark.parametrize("name", ["gru", "lstm_delta", "transformer"])
@pytest.mark.parametrize("kind", ["linear", "pca"])
def test_every_network_trains_on_features(name: str, kind: str) -> None:
    recipe = recipe_of(
        name,
        "sequence.projection=5",
        f"sequence.projection_kind={kind}",
        "sequence.seeds=2",
        "stage.full.lr=0.02",
        "stage.full.epochs=6",
        "stage.full.scheduler=multistep",
        "stage.full.warmup=0",
    )
    data = simulate(LENGTHS, widths=(12, 7))
    result = train(recipe, data)
    assert np.isfinite(result.score)
    assert result.history[-1].values["loss"] < 0.9 * result.history[0].values["loss"]


def test_half_precision_changes_nothing() -> None:
    recipe, data = recipe_of("gru_stack", "stage.full.epochs=1"), simulate(LENGTHS, parts=3)
    results = []
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        network = build_network(load_registry().get("gru_stack"), recipe, data.widths(recipe))
        hardware = Hardware(torch.device("cpu"), precision, "a test")
        results.append(fit(network, recipe, feed_of(data, recipe), FitOptions(hardware=hardware)).logits)
    assert np.array_equal(*results)


def test_no_head_learns_from_the_patients_that_it_predicts() -> None:
    """Other labels of one part change the heads of the other parts only."""
    recipe, data = recipe_of("gru_stack", "sequence.seeds=2", "stage.full.epochs=2"), simulate(LENGTHS, parts=3)
    assert data.part is not None
    changed = np.where((data.part == 1)[:, None], 1 - data.labels, data.labels)
    first, second = (train(recipe, one) for one in (data, replace(data, labels=changed)))
    feed = feed_of(data, recipe)
    part = data.part[feed.slices(feed.validation_rows)]
    assert {0, 1, 2} == set(part)
    assert np.array_equal(first.logits[part == 1], second.logits[part == 1])
    assert not np.array_equal(first.logits[part != 1], second.logits[part != 1])


def test_average_of_the_last_epochs() -> None:
    """The prediction is the mean of those after each of the last epochs."""
    data = simulate(LENGTHS, parts=3)
    of_epochs = [
        train(recipe_of("gru_stack", "stage.full.scheduler=multistep", f"stage.full.epochs={epochs}"), data).logits
        for epochs in (2, 3, 4)
    ]
    multistep = ("stage.full.scheduler=multistep", "stage.full.epochs=4")
    averaged = train(recipe_of("gru_stack", *multistep, "sequence.average_last=3"), data).logits
    assert np.allclose(averaged, np.mean(of_epochs, axis=0), atol=1e-5)


def test_predictions_of_slices_and_studies() -> None:
    recipe, data = recipe_of("gru_stack"), simulate(LENGTHS, parts=3)
    result = train(recipe, data)
    feed = feed_of(data, recipe)
    found = predict_series(result.predictor, result.network, feed, feed.validation_rows)
    assert np.array_equal(found.logits, result.logits)
    assert np.array_equal(found.slices, np.concatenate(data.series[-6:]))
    assert found.studies.tolist() == [14, 15, 16, 17, 18, 19]
    assert found.study_logits.shape == (6, 6)
