"""How a step is executed: in parts where memory is short, compiled where that works; the step stays the same."""

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import clean_environment
from memory_feed import MemoryFeed, inputs_of, make_batch
from torch import nn
from torch._dynamo.backends.registry import lookup_backend

from ichx.errors import ResourceError
from ichx.plugins import load_registry
from ichx.recipe import Recipe
from ichx.recipe_text import apply_settings
from ichx.training import compilation
from ichx.training.callbacks import Callbacks
from ichx.training.compilation import WORTH_BATCHES, WORTH_STEPS, compiler_for, prediction_compiler
from ichx.training.control import Control
from ichx.training.device import Hardware
from ichx.training.distributed import Group
from ichx.training.feed import SliceInputs
from ichx.training.learner import Learner
from ichx.training.memory import MicroBatcher, is_out_of_memory
from ichx.training.prediction import PredictionTask, Predictor
from ichx.training.runtime import Runtime
from ichx.training.study_loss import study_groups

FULL = "[enforce fail at alloc_cpu.cpp:128] DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes"


class Notes(Callbacks):
    """Collects notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


class Normalized(nn.Module):
    """A small network with batch normalization and dropout that has room for `room` images, and any where that is None.

    What it has `seen` are the numbers of images at once.
    """

    def __init__(self, room: int | None = 1000, dropout: float = 0.0, normalize: bool = True) -> None:
        super().__init__()
        self.room, self.seen = room, list[int]()
        self.convolution = nn.Conv2d(3, 8, 3, stride=2)
        self.normalization = nn.BatchNorm2d(8) if normalize else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(8, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.normalization(self.convolution(x)).relu()
        if self.room is not None:
            self.look(len(x), self.room)
        logits: torch.Tensor = self.head(self.dropout(x.mean((2, 3))))
        return logits

    @torch.compiler.disable
    def look(self, count: int, room: int) -> None:
        self.seen.append(count)
        if count > room:  # found out after the statistics have been counted
            raise RuntimeError(FULL)


@pytest.fixture
def recipe() -> Recipe:
    given = load_registry().get("tiny_efficientnet").recipe_for(size=32)
    return apply_settings(given, ["batch=12", "precision=fp32"])


@pytest.fixture(autouse=True)
def _nothing_compiled_remains() -> Iterator[None]:
    yield
    torch.compiler.reset()


Make = Callable[..., tuple[Learner, list[str]]]


@pytest.fixture
def make(recipe: Recipe) -> Any:
    """Return a function that makes a learner of `Normalized`, with what it notes; equal ones begin equally."""

    def made(precision: str = "fp32", compiler: str | None = None, **values: Any) -> tuple[Learner, list[str]]:
        torch.manual_seed(0)
        runtime = Runtime(Hardware(torch.device("cpu"), precision, "for a test"))
        notes: list[str] = []
        learner = Learner(recipe, 0, Normalized(**values), runtime, notes.append, compiler)
        learner.model.train()
        return learner, notes

    return made


def steps(learner: Learner, count: int = 3) -> list[float]:
    return [
        learner.step(inputs_of(learner.recipe, make_batch(12, number)), 0, number, count).item()
        for number in range(count)
    ]


def weights(learner: Learner) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in learner.network.state_dict().items()}


def test_parts_are_few_and_even() -> None:
    batcher = MicroBatcher(lambda note: None)
    assert batcher.parts(64) == [slice(0, 64)]
    batcher.size = 16
    assert [part.stop - part.start for part in batcher.parts(64)] == [16, 16, 16, 16]
    parts = batcher.parts(35)
    assert [part.stop - part.start for part in parts] == [12, 12, 11]
    assert [(part.start, part.stop) for part in parts] == [(0, 12), (12, 24), (24, 35)]


def test_parts_keep_the_slices_of_a_study_together_where_they_fit() -> None:
    batcher = MicroBatcher(lambda note: None)
    batcher.unit = 4

    def stops(count: int) -> list[int]:
        return [part.stop for part in batcher.parts(count)]

    assert stops(20) == [20]
    assert stops(0) == [0]
    batcher.least = 3
    assert stops(20) == [8, 16, 20]
    batcher.size = 6
    assert stops(12) == [4, 8, 12]
    assert stops(10) == [4, 7, 10]  # an incomplete batch
    batcher.size = 3
    assert stops(8) == [3, 6, 8]
    batcher.size, batcher.least = None, 4
    assert stops(12) == [3, 6, 9, 12]  # more parts than studies


@pytest.mark.parametrize("pooling", ["noisy_or", "max", "posterior"])
def test_a_split_batch_has_the_gradients_of_its_labelled_studies(make: Make, recipe: Recipe, pooling: str) -> None:
    settings = ["stage.*.sampling=grouped", "stage.*.per_study=4", f"loss.study_pooling={pooling}"]
    grouped = apply_settings(recipe, settings)
    batch = make_batch(12, 0)
    labels = np.repeat([[1.0], [0.0], [1.0]], 4, axis=0).repeat(6, axis=1).astype(np.float32)
    groups = study_groups(np.repeat(np.arange(3), 4), labels)
    inputs = inputs_of(grouped, batch)
    inputs = replace(inputs, labels=torch.full((12, 6), torch.nan), known_share=1.0, groups=groups)

    def trained(room: int | None, accumulate: int = 1) -> tuple[Learner, list[str]]:
        learner, notes = make(normalize=False, room=room)
        learner.recipe = replace(grouped, accumulate=accumulate)
        for number in range(3):
            learner.step(inputs, 0, number, 3)
        return learner, notes

    (whole, _), (parts, notes) = trained(None), trained(6)
    assert parts.model.seen == [12, *[4] * 9]
    assert len(notes) == 1
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value, rtol=1e-4, atol=1e-6)
    assert trained(1000, accumulate=3)[1] == []
    for room, accumulate, number in ((3, 1, 6), (1000, 4, 4)):
        _, notes = trained(room, accumulate)
        assert [note for note in notes if "divide the 4 slices of labelled studies" in note] == notes[-1:]
        assert f"split into {number} parts" in notes[-1]


def test_a_batch_that_does_not_fit_is_split_with_equal_gradients(make: Make) -> None:
    whole, _ = make(normalize=False)
    parts, notes = make(normalize=False, room=4)
    assert steps(parts) == pytest.approx(steps(whole), rel=1e-5)
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value, rtol=1e-4, atol=1e-6)
    # Found once: 12, 6 and 3 images in the first step, and 3 ever after.
    assert parts.model.seen == [12, 6, *[3] * 12]
    assert ["12" in notes[0], "6" in notes[0], "6" in notes[1], "3" in notes[1]] == [True] * 4
    assert len(notes) == 2


def test_a_failed_attempt_leaves_nothing_behind(make: Make) -> None:
    """Statistics, gradients and draws are those of a run that knew from the beginning what fits."""
    surprised, notes = make(room=6, dropout=0.5)
    knowing, none = make(room=6, dropout=0.5)
    knowing.executor.batcher.size = 6
    assert steps(surprised) == steps(knowing)
    assert len(notes) == 1
    assert none == []
    for name, value in weights(knowing).items():
        torch.testing.assert_close(weights(surprised)[name], value, rtol=0, atol=0)
    assert int(weights(surprised)["normalization.num_batches_tracked"]) == 6


def test_memory_can_run_out_later(make: Make) -> None:
    learner, notes = make()
    steps(learner, 2)
    learner.model.room = 6
    steps(learner, 2)
    assert learner.model.seen == [12, 12, 12, 6, 6, 6, 6]
    assert len(notes) == 1


def test_a_network_without_room_for_one_image_is_an_error(make: Make) -> None:
    learner, _ = make(room=0)
    with pytest.raises(ResourceError, match="can't allocate memory"):
        steps(learner)
    assert learner.model.seen == [12, 6, 3, 2, 1]


def test_other_errors_are_not_out_of_memory(make: Make) -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))
    learner, notes = make()
    learner.model.head = nn.Linear(7, 6)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        steps(learner)
    assert notes == []


def test_predictions_in_parts_have_the_same_logits(make: Make) -> None:
    learner, _ = make()
    callbacks = Notes()
    predictor = Predictor(learner.runtime, Control(callbacks=callbacks))
    feed = MemoryFeed(learner.recipe, make_batch(19, 1))

    def predicted() -> np.ndarray:
        return predictor.logits(learner.network, feed, np.arange(19), PredictionTask("hflip"))

    expected = predicted()
    learner.model.room, learner.model.seen = 5, []
    np.testing.assert_allclose(predicted(), expected, atol=1e-6)
    assert learner.model.seen == [19, 10, *[5] * 3, 4]
    assert len(callbacks.notes) == 2


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_training_is_equal_and_preserves_names(make: Make, precision: str) -> None:
    plain, _ = make(precision, room=None)
    compiled, notes = make(precision, compiler="aot_eager", room=None)
    assert steps(compiled) == pytest.approx(steps(plain), rel=1e-3 if precision == "bf16" else 1e-5)
    assert notes == []
    assert compiled.executor.compiled
    assert list(weights(compiled)) == list(weights(plain))
    # What one has learnt, the other goes on from.
    begun, _ = make(precision, compiler="aot_eager", room=None)
    written = io.BytesIO()
    torch.save(plain.state(), written)
    written.seek(0)
    begun.restore(torch.load(written, weights_only=True))
    for name, value in weights(plain).items():
        assert torch.equal(weights(begun)[name], value)
    assert steps(begun) == pytest.approx(steps(plain), rel=1e-2 if precision == "bf16" else 1e-4)


def test_the_network_is_compiled_once(make: Make) -> None:
    """Neither another batch nor a prediction of another shape, which is made as it is, compiles anew."""
    compiled = []

    def counting(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        compiled.append(graph)
        return graph

    torch._dynamo.register_backend(counting, name="ichx_counting")  # type: ignore[arg-type]
    learner, notes = make(compiler="ichx_counting", room=None)
    steps(learner, 3)
    for count in (5, 12):
        feed = MemoryFeed(learner.recipe, make_batch(count, 1))
        Predictor(learner.runtime).logits(learner.network, feed, np.arange(count))
    learner.model.train()
    steps(learner, 2)
    assert len(compiled) == 1
    assert notes == []


def test_a_compiled_step_is_split_when_memory_is_short(make: Make) -> None:
    plain, _ = make(room=6)
    learner, notes = make(compiler="eager", room=6)
    assert steps(learner) == pytest.approx(steps(plain), rel=1e-6)
    assert learner.model.seen == [12, *[6] * 6]
    assert learner.executor.compiled
    assert len(notes) == 1


def test_a_network_that_cannot_be_compiled_is_trained_uncompiled_with_one_note(make: Make) -> None:
    def broken(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        raise OSError("there is no compiler here")

    torch._dynamo.register_backend(broken, name="ichx_broken")  # type: ignore[arg-type]
    plain, _ = make(dropout=0.5)
    learner, notes = make(compiler="ichx_broken", dropout=0.5)
    assert steps(learner) == steps(plain)
    (note,) = notes
    assert "there is no compiler here" in note
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(learner)[name], value, rtol=0, atol=0)


def test_a_compiled_step_that_fails_is_repeated_uncompiled(make: Make) -> None:
    def failing(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        def call(*given: Any) -> Any:
            graph(*given)  # batch normalization has counted by now
            raise RuntimeError("illegal instruction")

        return call

    torch._dynamo.register_backend(failing, name="ichx_failing")  # type: ignore[arg-type]
    plain, _ = make()
    learner, notes = make(compiler="ichx_failing")
    assert steps(learner) == steps(plain)
    assert "illegal instruction" in notes[0]
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(learner)[name], value, rtol=0, atol=0)


def test_only_long_trainings_are_compiled() -> None:
    gpu, cpu = torch.device("cuda", 0), torch.device("cpu")
    assert compiler_for(gpu, WORTH_STEPS) == "inductor"
    assert compiler_for(gpu, WORTH_STEPS - 1) is None
    assert compiler_for(cpu, WORTH_STEPS) is None
    assert prediction_compiler(gpu, WORTH_BATCHES) == "inductor"
    assert prediction_compiler(gpu, WORTH_BATCHES - 1) is None
    assert prediction_compiler(cpu, WORTH_BATCHES) is None


def predicted(learner: Learner, callbacks: Notes, count: int = 150) -> np.ndarray:
    predictor = Predictor(learner.runtime, Control(callbacks=callbacks))
    return predictor.logits(learner.network, MemoryFeed(learner.recipe, make_batch(count, 1)), np.arange(count))


def test_many_predictions_are_compiled_but_for_the_incomplete_batch(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []

    def recording(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        def call(*given: Any) -> Any:
            shapes.append(max(len(each) for each in given if each.dim() == 4 and each.shape[1] == 3))
            return graph(*given)

        return call

    torch._dynamo.register_backend(recording, name="ichx_recording")  # type: ignore[arg-type]
    learner, _ = make(room=None)
    callbacks = Notes()
    expected = predicted(learner, callbacks)
    assert shapes == []
    monkeypatch.setattr(compilation, "prediction_compiler", lambda device, batches: "ichx_recording")
    np.testing.assert_allclose(predicted(learner, callbacks), expected, atol=1e-6)
    assert shapes == [64, 64]
    assert callbacks.notes == []


@pytest.mark.parametrize("failure", [OSError("there is no compiler here"), RuntimeError(FULL)])
def test_predictions_that_cannot_be_compiled_are_the_same(
    make: Make, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def broken(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        def call(*given: Any) -> Any:
            raise failure

        return call

    name = f"ichx_{type(failure).__name__}"
    torch._dynamo.register_backend(broken, name=name)  # type: ignore[arg-type]
    learner, _ = make(room=None)
    callbacks = Notes()
    expected = predicted(learner, callbacks)
    monkeypatch.setattr(compilation, "prediction_compiler", lambda device, batches: name)
    np.testing.assert_allclose(predicted(learner, callbacks), expected, atol=1e-6)
    assert len(callbacks.notes) == 1  # of the compiler, or of memory: halves have another shape


def test_views_are_predicted_from_one_read(make: Make) -> None:
    learner, _ = make()
    reads = []

    class Counting(MemoryFeed):
        def inference_batches(self, rows: Any, *, batch: int, masks: bool = False) -> Iterator[Any]:
            reads.append(len(rows))
            return super().inference_batches(rows, batch=batch, masks=masks)

    feed, rows = Counting(learner.recipe, make_batch(150, 1)), np.arange(150)
    control = Control()
    predictor = Predictor(learner.runtime, control)
    tasks = [PredictionTask(view, name=view) for view in ("identity", "hflip")]
    alone = [Predictor(learner.runtime).logits(learner.network, feed, rows, PredictionTask(t.view)) for t in tasks]
    reads.clear()
    together = predictor.logits_of_views(learner.network, feed, rows, tasks)
    assert reads == [150]
    for one, other in zip(together, alone, strict=True):
        assert np.array_equal(one, other)
    # An interrupted prediction continues; a view that is complete is not predicted again.
    control.checkpoints.progress.logits["hflip"] = together[1][:64]
    for one, other in zip(predictor.logits_of_views(learner.network, feed, rows, tasks), alone, strict=True):
        assert np.array_equal(one, other)
    assert reads == [150, 86]


def in_a_group(device: str, broken_in: int) -> None:
    """Train on `device` as one of two processes, compiled; the compiler of the process `broken_in` does not work."""
    given = apply_settings(
        load_registry().get("tiny_efficientnet").recipe_for(size=32),
        ["batch=12", "precision=fp32", "stage.balanced.freeze=1"],
    )
    hardware = Hardware(torch.device(device), "fp32", "for a test")
    dist.init_process_group("gloo")  # NCCL refuses two processes on one GPU
    try:
        group = Group(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo"))

        def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
            if group.rank == broken_in:
                raise OSError("there is no compiler here")
            return lookup_backend("inductor")(graph, inputs) if device != "cpu" else graph

        torch._dynamo.register_backend(backend, name="ichx_group")  # type: ignore[arg-type]
        found = []
        for compiler in (None, "ichx_group"):
            torch.manual_seed(0)
            notes: list[str] = []
            runtime = Runtime(hardware, group, unused_parameters=True)
            learner = Learner(given, 0, Normalized(room=None), runtime, notes.append, compiler)
            learner.model.train()
            for epoch in range(2):
                learner.begin_epoch(epoch)
                for number in range(2):
                    batch = inputs_of(given, make_batch(12, 10 * epoch + number)).part(
                        slice(6 * group.rank, 6 * group.rank + 6)
                    )
                    batch = SliceInputs(batch.images.to(device), batch.labels.to(device))
                    learner.step(batch, epoch, number, 2)
            found.append({name: value for name, value in weights(learner).items() if "running" not in name})
        rounding = 1e-6 if device == "cpu" else 1e-3
        same = all(torch.allclose(found[0][name], found[1][name], atol=rounding) for name in found[0])
        print(json.dumps([same, learner.executor.compiled, notes]))
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("broken_in", [-1, 0, 1])
def test_processes_compile_together_or_not_at_all(broken_in: int) -> None:
    check_group("cpu", broken_in)


def check_group(device: str, broken_in: int) -> None:
    """Check that two processes on `device` compile together, and fall back together; the same in `test_cuda.py`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared["PYTHONPATH"] = os.pathsep.join([*sys.path, str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", f"import test_compilation; test_compilation.in_a_group({device!r}, {broken_in})"],
            env=clean_environment(RANK=str(rank), LOCAL_RANK=str(rank), **shared),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    ended = [process.communicate(timeout=900) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended[0][1] + ended[1][1]
    for out, _ in ended:
        same, compiled, notes = json.loads(out)
        assert same
        assert compiled == (broken_in < 0)
        assert len(notes) == (broken_in >= 0)
        assert all("there is no compiler here" in note for note in notes)


def test_in_half_precision_logits_are_not_rounded(make: Make) -> None:
    learner, _ = make("bf16")
    learner.network.eval()
    plain, _ = make("fp32")
    plain.network.eval()
    images = torch.rand(32, 3, 32, 32)
    with torch.inference_mode():
        with learner.runtime.autocast():
            logits = learner.network(images)
        exact = plain.network(images)
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, logits.bfloat16().float())
    torch.testing.assert_close(logits, exact, atol=0.02, rtol=0)
    assert list(learner.network.state_dict()) == list(plain.network.state_dict())
