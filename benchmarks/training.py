"""Training: what `ichx run` makes of the hardware, against bare PyTorch loops of the same network.

    python benchmarks/training.py [--quick] [--json FILE] [--device cuda [--model NAME] [--workspace FOLDER]]

What is measured of ichx is a fold that the library runs, on phantom slices in a real cache, from the first step after
its warm-up on. With `--device cuda` the reference's four models (or those that `--model` names) are trained at their
sizes and batches, else ResNeXt50 at 224 px and a tiny network at 96 px. `--workspace` names a workspace with one
labelled dataset, so that several calls need not create the phantom again.
"""

import contextlib
import gc
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import timm
import torch
from common import Figure, arguments, conclude
from torch import nn

from ichx.datasets.add import AddRequest, add_dataset
from ichx.experiments.callbacks import RunCallbacks
from ichx.experiments.prepare import PreparedExperiment, prepare_experiment
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.labels import LABEL_WEIGHTS
from ichx.loading.loader import Batch, SliceLoader
from ichx.loading.sampling import EpochAddress
from ichx.phantom.dicom_files import write_phantom
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.recipe_text import from_toml
from ichx.store import Experiment, Store, open_store
from ichx.training.callbacks import EpochResult
from ichx.training.checkpoint import Position, save_checkpoint
from ichx.training.compilation import WORTH_STEPS
from ichx.training.device import choose_hardware
from ichx.training.feed import EpochPlan
from ichx.training.learner import Learner
from ichx.training.run_options import CHECKPOINT_SECONDS, RunOptions
from ichx.training.runtime import Runtime
from ichx.training.slice_feed import SliceFeed
from ichx.training.window_step import WindowStep
from ichx.workspace import Workspace, init_workspace, open_workspace

SHARE, WAITING, CHECKPOINT, FASTER, LOADING_MS, GROWTH_MB = 0.95, 0.03, 0.02, 1.4, 0.25, 8.0
REFERENCES = ("efficientnet_b3", "resnext101_wsl", "seresnext50", "resnext50")
"""The plugins of the reference's numbers 1, 2, 5 and 6, whose sizes and batches are their own."""
ON_GPU, SHARE_OF_COMPILED, FASTER_THAN_EAGER = "cuda", 0.95, 1.4


@dataclass(frozen=True)
class Pace:
    """How fast steps were: images a second, the share of the time waiting for batches, peak memory, start and end."""

    rate: float
    waiting: float = 0.0
    peak_gib: float = 0.0
    span: tuple[float, float] = (0.0, 0.0)


@dataclass
class Bench:
    """A workspace with a phantom dataset, and the device to measure on."""

    workspace: Workspace
    store: Store
    device: str
    registry: Any = field(default_factory=load_registry)

    def experiment(self, plugin: str, *settings: str, size: int | None = None) -> Experiment:
        """Register an experiment whose first stage takes every slice, so that a phantom of few patients has enough."""
        settings = (*settings, "stage.balanced.sampling=all")
        return new_experiment(self.store, self.registry, ExperimentRequest(plugin=plugin, size=size, settings=settings))

    def job(self, experiment: Experiment) -> PreparedExperiment:
        """Return the experiment's job, with its cache."""
        return prepare_experiment(Project(self.workspace, self.store, self.registry), experiment, RunCallbacks())

    def run(self, experiment: Experiment, events: RunCallbacks | None = None) -> None:
        """Do what `ichx run N --fold 0` does."""
        options = RunOptions(device=self.device, pretrained=False)
        events = events or Notes()
        run_experiment(
            Project(self.workspace, self.store, self.registry),
            experiment.number,
            folds=[0],
            options=options,
            callbacks=events,
        )


class Notes(RunCallbacks):
    """Prints notes: a network that cannot be compiled, or a batch that does not fit, is another measurement."""

    def note(self, message: str) -> None:
        print(f"note: {message}", file=sys.stderr, flush=True)


class EnoughError(Exception):
    """So many steps have been measured."""


def main() -> None:
    options = arguments(__doc__, device=True, models=REFERENCES)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        if options.workspace is None:
            patients = 150 if options.device == ON_GPU else 8 if options.quick else 12
            workspace = phantom_workspace(Path(scratch), patients)
        else:
            workspace = open_workspace(options.workspace)
        with open_store(workspace) as store:
            bench = Bench(workspace, store, options.device)
            if options.device == ON_GPU:
                figures = on_gpu(bench, options.model or (REFERENCES[-1:] if options.quick else REFERENCES))
            else:
                figures = on_cpu(bench, options.quick)
    conclude(figures, options)


def phantom_workspace(folder: Path, patients: int) -> Workspace:
    """Return a new workspace in `folder` whose dataset has so many phantom patients."""
    files = write_phantom(folder / "files", patients=patients, seed=1, size=128)
    workspace = init_workspace(folder / "workspace")
    with open_store(workspace) as store:
        add_dataset(Project(workspace, store), AddRequest("phantom", files.train, labels=files.train_labels))
    return workspace


def on_cpu(bench: Bench, quick: bool) -> list[Figure]:
    return [
        *large_network(bench, batch=8 if quick else 16, steps=1 if quick else 4, repeats=3 if quick else 5),
        *tiny_network(bench, steps=8 if quick else 12, repeats=3 if quick else 9),
        loading(bench, 2 if quick else 10),
        checkpoint_cost(bench, 2 if quick else 5),
        memory(bench),
    ]


def large_network(bench: Bench, *, batch: int, steps: int, repeats: int) -> list[Figure]:
    """ResNeXt50 at 224 px: the run, the same by hand, and as the reference solution trained it."""
    experiment = bench.experiment("resnext50", f"batch={batch}", size=224)
    half = choose_hardware("cpu", "auto").precision == "bf16"
    by_hand = BareLoop("resnext50_32x4d", 224, batch, channels_last=True, half=torch.bfloat16 if half else None)
    reference = BareLoop("resnext50_32x4d", 224, batch, channels_last=False, half=None)
    for loop in (by_hand, reference):
        loop.pace(1)
    turns = [
        (paced_run(bench, experiment, 1, steps), by_hand.pace(steps), reference.pace(steps)) for _ in range(repeats)
    ]
    share = statistics.median(run.rate / bare.rate for run, bare, _ in turns)
    faster = statistics.median(run.rate / old.rate for run, _, old in turns)
    waiting = statistics.median(run.waiting for run, _, _ in turns)
    rate, bare, old = (statistics.median(pace.rate for pace in paces) for paces in zip(*turns, strict=True))
    what = "ResNeXt50, 224 px"
    held = faster >= FASTER or not half
    return [
        Figure(what, rate, "images/s", "-", "-", True),
        Figure(what, share, "x", f"the same by hand ({bare:.3g}/s)", f"{SHARE} x", share >= SHARE),
        Figure(what, faster, "x", f"fp32, contiguous ({old:.3g}/s)", f"{FASTER} x with AVX512-BF16", held),
        Figure(f"{what}, waiting for data", 100 * waiting, "%", "of a step", "3 %", waiting < WAITING),
    ]


def tiny_network(bench: Bench, *, steps: int, repeats: int) -> list[Figure]:
    """A tiny network at 96 px: the run, and a loop by hand that the same loader feeds."""
    experiment = bench.experiment("tiny_resnet", "batch=16", size=96)
    job = bench.job(experiment)
    half = torch.bfloat16 if choose_hardware("cpu", "auto").precision == "bf16" else None
    by_hand = BareLoop("test_resnet.r160_in1k", 96, 16, channels_last=True, half=half, fed_by=job)
    by_hand.pace(3)
    turns = [(paced_run(bench, experiment, 3, steps), by_hand.pace(steps, warm_up=1)) for _ in range(repeats)]
    share = statistics.median(run.rate / bare.rate for run, bare in turns)
    rate, bare = (statistics.median(pace.rate for pace in paces) for paces in zip(*turns, strict=True))
    against = f"by hand, the same loader ({bare:.4g}/s)"
    return [
        Figure("tiny ResNet, 96 px", rate, "images/s", "-", "-", True),
        Figure("tiny ResNet, 96 px", share, "x", against, f"{SHARE} x", share >= SHARE),
    ]


def paced_run(bench: Bench, experiment: Experiment, warm_up: int, steps: int) -> Pace:
    """Run fold 0 until `steps` steps after `warm_up` are done, and return how fast these were."""
    shutil.rmtree(bench.workspace.experiment_dir(experiment.number), ignore_errors=True)
    waits, times, images = [0.0], [0.0], 0

    training_batches = SliceLoader.training_batches

    def watched(*arguments: Any, **options: Any) -> Iterator[Batch]:
        nonlocal images
        batches = training_batches(*arguments, **options)
        for number in range(warm_up + steps):
            asked = time.perf_counter()
            if number == warm_up:
                _wait_for_device()
                asked = time.perf_counter()
                times[0] = asked
            batch = next(batches, None)
            assert batch is not None, "the phantom has too few slices for so many steps"
            if number >= warm_up:
                waits[0] += time.perf_counter() - asked
                images += len(batch.rows)
            yield batch
        _wait_for_device()
        times.append(time.perf_counter())
        raise EnoughError

    if bench.device == ON_GPU:
        torch.cuda.reset_peak_memory_stats()
    with patch.object(SliceLoader, "training_batches", watched):  # the loader of the run, timed
        try:
            bench.run(experiment)
        except EnoughError:
            pass
    seconds = times[1] - times[0]
    peak = torch.cuda.max_memory_allocated() / 2**30 if bench.device == ON_GPU else 0.0
    gc.collect()
    return Pace(images / seconds, waits[0] / seconds, peak, (times[0], times[1]))


class BareLoop:
    """A training loop as people write it: data in memory, or from the loader of ichx that `fed_by` has."""

    def __init__(
        self,
        backbone: str | nn.Module,
        pixels: int,
        batch: int,
        *,
        channels_last: bool,
        half: torch.dtype | None,
        fed_by: PreparedExperiment | None = None,
        device: str = "cpu",
        compiler: str | None = None,
    ) -> None:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.device, self.half, self.batch = device, half, batch
        network = timm.create_model(backbone, num_classes=6) if isinstance(backbone, str) else backbone
        self.model: nn.Module = network.to(device, memory_format=layout)
        self.optimizer = torch.optim.RAdam(self.model.parameters(), lr=1e-4)
        self.weights = torch.tensor(LABEL_WEIGHTS, dtype=torch.float32, device=device)
        self.run = self.model if compiler is None else torch.compile(self.model, backend=compiler)
        self.fed_by = fed_by
        if fed_by is None:
            images = [torch.rand(batch, 3, pixels, pixels, device=device).to(memory_format=layout) for _ in range(2)]
            labels = [(torch.rand(batch, 6, device=device) < 0.2).float() for _ in range(2)]
            self.data = list(zip(images, labels, strict=True))
        else:
            self.window_step = WindowStep(fed_by.recipe.input)

    def pace(self, steps: int, warm_up: int = 0) -> Pace:
        """Return the pace of `steps` steps after `warm_up` ones."""
        self.model.train()
        began = 0.0
        for number, (images, labels) in enumerate(self._batches(warm_up + steps)):
            if number == warm_up:
                _wait_for_device()
                began = time.perf_counter()
            with torch.autocast(self.device, self.half, enabled=self.half is not None):
                logits = self.run(images)
            losses = nn.functional.binary_cross_entropy_with_logits(logits.float(), labels, reduction="none")
            loss = (losses.mean(0) * self.weights).sum() / self.weights.sum()
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        _wait_for_device()
        return Pace(steps * self.batch / (time.perf_counter() - began))

    @torch.inference_mode()
    def forward_pace(self, steps: int, warm_up: int = 2) -> float:
        """Return the images a second of `steps` forward passes after `warm_up` ones."""
        self.model.eval()
        began = 0.0
        for number, (images, _) in enumerate(self._batches(warm_up + steps)):
            if number == warm_up:
                _wait_for_device()
                began = time.perf_counter()
            with torch.autocast(self.device, self.half, enabled=self.half is not None):
                self.run(images)
        _wait_for_device()
        return steps * self.batch / (time.perf_counter() - began)

    def _batches(self, count: int) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
        if self.fed_by is None:
            return (self.data[number % 2] for number in range(count))
        job = self.fed_by
        rows = np.random.default_rng(0).permutation(job.training_rows(0))[: count * self.batch]
        assert len(rows) == count * self.batch
        loaded = SliceLoader(job.cache, job.data.slices, job.recipe).training_batches(rows, EpochAddress(0, 0, 0, 0))
        return ((self.window_step(batch.hu, batch.windows, batch.jitter), batch.labels) for batch in loaded)


def loading(bench: Bench, repeats: int) -> Figure:
    """What loading for the tiny network costs, in processor time of one thread."""
    job = bench.job(bench.experiment("tiny_resnet", "batch=16", size=96))
    rows = job.training_rows(0)
    taken = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for epoch in range(repeats + 1):
        began = time.process_time()
        loaded = SliceLoader(job.cache, job.data.slices, job.recipe).training_batches(
            rows, EpochAddress(0, 0, 0, epoch)
        )
        count = sum(len(batch.rows) for batch in loaded)
        taken.append(1000 * (time.process_time() - began) / count)
    torch.set_num_threads(threads)
    ms = statistics.median(taken[1:])
    return Figure("loading at 96 px", ms, "core-ms", "a sample", f"{LOADING_MS} ms", ms <= LOADING_MS)


def checkpoint_cost(bench: Bench, repeats: int) -> Figure:
    """Writing what ResNeXt50 has to go on from, as a share of the time between two checkpoints."""
    experiment = bench.experiment("resnext50", "batch=2", size=64)
    recipe = from_toml(experiment.recipe)
    runtime = Runtime(choose_hardware("cpu", "auto"))
    learner = Learner(recipe, 0, bench.registry.get("resnext50").build(recipe, False), runtime, print)
    job = bench.job(experiment)
    rows = job.training_rows(0)[:2]
    feed = SliceFeed(job.cache, job.data.slices, recipe)
    for batch in feed.training_batches(EpochPlan(0, 0, rows, recipe.batch)):
        learner.step(feed.inputs(batch, runtime.device), 0, 0, 1)  # so that the optimizer has a state
    folder = bench.workspace.root / "checkpoints"
    seconds = []
    for number in range(repeats):
        began = time.perf_counter()
        save_checkpoint(folder, Position(0, number), {"fits": job.fits(0)} | learner.state())
        seconds.append(time.perf_counter() - began)
    size = max(path.stat().st_size for path in folder.iterdir()) / 1e6
    shutil.rmtree(folder)
    share = statistics.median(seconds) / CHECKPOINT_SECONDS
    against = f"{statistics.median(seconds):.2f} s for {size:.0f} MB each {CHECKPOINT_SECONDS:.0f} s"
    return Figure("checkpoints, ResNeXt50", 100 * share, "%", against, "2 %", share < CHECKPOINT)


def memory(bench: Bench) -> Figure:
    """How much larger the process is after the last of 20 epochs than after the second."""

    class Watch(RunCallbacks):
        sizes: list[float]

        def epoch_ended(self, result: EpochResult) -> None:
            gc.collect()
            resident = int(Path("/proc/self/statm").read_text().split()[1])
            self.sizes.append(resident * 4096 / 1e6)

    watch = Watch()
    watch.sizes = []
    epochs = ["stage.balanced.epochs=10", "stage.rebalanced.epochs=5", "stage.full.epochs=5"]
    bench.run(bench.experiment("tiny_resnet", *epochs, "batch=16", size=64), watch)
    second, last = watch.sizes[1], statistics.median(watch.sizes[-3:])
    grown = last - second
    against = f"{second:.0f} MB after the second of {len(watch.sizes)} epochs"
    return Figure("memory, growth", grown, "MB", against, f"{GROWTH_MB:g} MB", grown <= GROWTH_MB)


def on_gpu(bench: Bench, models: Iterable[str]) -> list[Figure]:
    """The reference's models: the run, eager fp32, and a compiled loop in half precision on synthetic images."""
    figures = []
    half = torch.bfloat16 if choose_hardware("cuda", "auto").precision == "bf16" else torch.float16
    for name in models:
        # so long a training, if it were not ended, that it is worth compiling
        experiment = bench.experiment(name, f"stage.full.epochs={WORTH_STEPS}")
        recipe = from_toml(experiment.recipe)
        job = bench.job(experiment)
        size = recipe.input.pixels, recipe.batch
        steps = min(len(job.training_rows(0)) // recipe.batch - 5, 40)
        with utilization() as busy:
            run = paced_run(bench, experiment, 5, steps)
        paces = []
        for dtype, last, compiler in ((None, False, None), (half, True, "inductor")):
            loop = BareLoop(
                recipe.model.backbone,
                *size,
                channels_last=last,
                half=dtype,
                device="cuda",
                compiler=compiler,
            )
            paces.append(loop.pace(steps, warm_up=5).rate)
            del loop
            gc.collect()
            torch.cuda.empty_cache()
        what = f"{name}, {size[0]} px, batch {size[1]}"
        faster, share = run.rate / paces[0], run.rate / paces[1]
        eager, bare = f"eager fp32 ({paces[0]:.0f}/s)", f"compiled, synthetic images ({paces[1]:.0f}/s)"
        figures += [
            Figure(what, run.rate, "images/s", "-", "-", True),
            Figure(what, faster, "x", eager, f"{FASTER_THAN_EAGER} x", faster >= FASTER_THAN_EAGER),
            Figure(what, share, "x", bare, f"{SHARE_OF_COMPILED} x", share >= SHARE_OF_COMPILED),
            Figure(f"{what}, waiting for data", 100 * run.waiting, "%", "of a step", "3 %", run.waiting < WAITING),
            Figure(f"{what}, peak memory", run.peak_gib, "GiB", "-", "-", True),
        ]
        if used := [percent for when, percent in busy if run.span[0] <= when <= run.span[1]]:
            figures.append(Figure(f"{what}, GPU in use", statistics.median(used), "%", "-", "-", True))
    return figures


@contextlib.contextmanager
def utilization() -> Iterator[list[tuple[float, float]]]:
    """Yield a list to which nvidia-smi adds the time and the use of the GPU in percent, five times a second."""
    busy: list[tuple[float, float]] = []
    if shutil.which("nvidia-smi") is None:
        yield busy
        return
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200", "-i", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def read() -> None:
        assert process.stdout is not None
        busy.extend((time.perf_counter(), float(line)) for line in process.stdout if line.strip().isdigit())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield busy
    finally:
        process.terminate()
        process.wait()
        reader.join()


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
