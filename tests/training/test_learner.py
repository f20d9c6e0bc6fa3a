"""The learner: what a step does depends on weights, batch and address only, whatever a recipe asks for."""

import hashlib
import io
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import clean_environment
from memory_feed import MemoryFeed, inputs_of, make_batch

from ichx.loading.loader import Batch
from ichx.plugins import load_registry
from ichx.recipe import Recipe
from ichx.recipe_text import apply_settings
from ichx.training.device import Hardware
from ichx.training.distributed import join_group
from ichx.training.learner import Learner
from ichx.training.prediction import Predictor
from ichx.training.runtime import Runtime, unwrap

SMALL = ("input.size=32", "input.crop=0")

EVERYTHING = (
    *SMALL,
    "model.dropout=0.2",
    "model.drop_path=0.2",
    "optimizer.name=adamw",
    "optimizer.weight_decay=0.05",
    "optimizer.layer_decay=0.8",
    "optimizer.clip=0.5",
    "loss.label_smoothing=0.1",
    "ema.decay=0.9",
    "augmentation.mixup=0.4",
    "augmentation.cutmix=1.0",
    "stage.balanced.epochs=2",
    "stage.balanced.freeze=1",
    "stage.balanced.scheduler=onecycle",
    "stage.rebalanced.epochs=2",
    "stage.rebalanced.freeze=1",
    "stage.rebalanced.warmup=0.5",
    "stage.full.epochs=2",
    "stage.full.warmup=1.0",
)
STEPS = 3
"""Of an epoch."""


@pytest.fixture(params=["fp32", "bf16"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    return Runtime(Hardware(torch.device("cpu"), request.param, "a test"))


def recipe(*settings: str, plugin: str = "tiny_resnet") -> Recipe:
    return apply_settings(load_registry().get(plugin).recipe, settings)


def learner(given: Recipe, runtime: Runtime, seed: int = 0) -> Learner:
    torch.manual_seed(seed)
    model = load_registry().get(given.plugin).build(given, False)
    return Learner(given, 0, model, runtime, pytest.fail)


def batch(*address: int, count: int = 4) -> Batch:
    """Return the batch at `address`; each of several processes gets another one."""
    rank = int(os.environ.get("RANK", "0"))
    rng = torch.Generator().manual_seed(sum(n * 100**place for place, n in enumerate((*address, rank))))
    hu = torch.randint(-1024, 1500, (count, 32, 32), generator=rng).to(torch.int16)
    labels = (torch.rand(count, 6, generator=rng) < 0.4).float()
    return Batch(hu, torch.tensor([[40.0, 80.0]] * count), labels, torch.arange(count))


def train(one: Learner, begin: int = 0, end: int | None = None) -> list[float]:
    """Take the steps from `begin` to `end` of all stages, counted through; return their losses."""
    given = one.recipe
    plan = [(s, e, n) for s, stage in enumerate(given.stage) for e in range(stage.epochs) for n in range(STEPS)]
    losses = []
    for place, (stage, epoch, number) in list(enumerate(plan))[begin:end]:
        if epoch == number == 0:
            one.begin_stage(stage)
        if number == 0 or place == begin:
            one.begin_epoch(epoch)
        losses.append(one.step(inputs_of(given, batch(stage, epoch, number)), epoch, number, STEPS).item())
    return losses


def logits(one: Learner) -> Any:
    feed = MemoryFeed(one.recipe, make_batch(4, 7))
    return Predictor(one.runtime).logits(one.network, feed, np.arange(4))


def kept(one: Learner) -> dict[str, Any]:
    """Return the state as it comes back from a disk."""
    file = io.BytesIO()
    torch.save(one.state(), file)
    file.seek(0)
    state: dict[str, Any] = torch.load(file, weights_only=True)
    return state


def assert_equal(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        if isinstance(value, dict):
            assert_equal(value, other[name])
        elif isinstance(value, torch.Tensor):
            assert torch.equal(value, other[name]), name
        else:
            assert value == other[name], name


def test_a_training_interrupted_between_any_steps_ends_with_an_equal_state(runtime: Runtime) -> None:
    # Within the frozen first epoch, at its end, in the middle of the stage, in the next one, at the last step but one.
    stops = (1, STEPS, STEPS + 1, 2 * STEPS + 2, 6 * STEPS - 1)
    given = recipe(*EVERYTHING)
    whole = learner(given, runtime)
    states, losses = {}, list[float]()
    for begin, stop in zip((0, *stops), (*stops, 6 * STEPS), strict=True):
        losses += train(whole, begin, stop)
        states[stop] = kept(whole)
    assert len(losses) == 6 * STEPS

    for stop in stops:
        second = learner(given, runtime, seed=1)
        second.begin_stage(stop // (2 * STEPS))
        second.restore(states[stop])
        assert train(second, begin=stop) == losses[stop:]
        assert_equal(second.state(), whole.state())
        assert (logits(second) == logits(whole)).all()


def test_the_average_predicts_in_the_precision_of_the_training(runtime: Runtime) -> None:
    given = recipe(*SMALL, "ema.decay=0.5")
    one = learner(given, runtime)
    train(one)
    assert one.average is not None
    average = one.average.module.state_dict()
    learnt = unwrap(one.model).state_dict()
    assert not torch.equal(average["fc.weight"], learnt["fc.weight"])
    found = logits(one)
    other = learner(recipe(*SMALL), runtime, seed=1)
    assert (logits(other) != found).any()
    unwrap(other.model).load_state_dict(average)
    assert (logits(other) == found).all()
    assert one.network.state_dict().keys() == learnt.keys()


def test_a_frozen_epoch_changes_the_head_only(runtime: Runtime) -> None:
    given = recipe(*SMALL, "optimizer.name=adamw", "stage.balanced.epochs=2", "stage.balanced.freeze=1")
    one = learner(given, runtime)
    begin = {name: value.clone() for name, value in one.network.state_dict().items()}
    train(one, end=STEPS)
    moved = {name for name, value in one.network.state_dict().items() if not torch.equal(value, begin[name])}
    assert moved == {"fc.weight", "fc.bias"}
    train(one, begin=STEPS, end=2 * STEPS)
    still = {name for name, value in one.network.state_dict().items() if torch.equal(value, begin[name])}
    assert not still


def test_weights_can_be_restored(runtime: Runtime) -> None:
    one = learner(recipe(*EVERYTHING), runtime)
    train(one, end=4)
    weights, before = one.weights(), logits(one)
    train(one, begin=4, end=9)
    assert (logits(one) != before).any()
    one.set_weights(weights)
    assert (logits(one) == before).all()
    assert_equal(one.weights(), weights)


def test_groups_learn_at_their_own_rates(runtime: Runtime) -> None:
    one = learner(recipe(*EVERYTHING), runtime)
    train(one, end=2)
    groups = one.state()["optimizer"]["param_groups"]
    rates = {group["scale"]: group["lr"] for group in groups}
    assert len(rates) > 3
    for scale, rate in rates.items():
        assert rate == pytest.approx(rates[1.0] * scale)


def in_a_group() -> None:
    """Train as one of two processes, each on batches of its own; print what the weights came to."""
    given = recipe(*EVERYTHING)
    hardware = Hardware(torch.device("cpu"), "fp32", "a test")
    with join_group(hardware.device) as group:
        one = learner(given, Runtime(hardware, group, unused_parameters=given.freezes))
        begin = one.weights()["model"]
        train(one, end=STEPS)
        frozen = one.weights()["model"]
        moved = sorted(name for name, value in frozen.items() if not torch.equal(value, begin[name]))
        train(one, begin=STEPS)
        own = one.weights()["model"]
        digest = hashlib.sha256(b"".join(own[name].numpy().tobytes() for name in own if "running" not in name))
        print(group.size, moved, digest.hexdigest())


def test_processes_train_together_where_a_part_is_frozen() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared["PYTHONPATH"] = os.pathsep.join([*sys.path, str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", "import test_learner; test_learner.in_a_group()"],
            env=clean_environment(RANK=str(rank), LOCAL_RANK=str(rank), **shared),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    first, second = [process.communicate(timeout=900) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], first[1] + second[1]
    assert first[0] == second[0]
    assert first[0].startswith("2 ['fc.bias', 'fc.weight'] ")
