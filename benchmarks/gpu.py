"""Tests and measures ichx on a GPU: CUDA tests, then training, loading and prediction of seven models.

    benchmarks/gpu.sh [--device cpu] [--quick] [--json FILE] [--seconds N] [--part NAME ...] [--model NAME ...]
    python benchmarks/gpu.py --table FILE

Each part is a process with a limit of time, after which it is killed. The file has all figures of the parts that have
ended and those that a killed part has measured before. `--part` chooses from: tests, loader, models. The networks are
compiled in parallel while the tests run, so that the limits need not include that: the compiled code is on disk then.
`--table` prints the tables of such a file in Markdown, as in `docs/benchmarks.md`.
"""

import argparse
import contextlib
import gc
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common import Figure, machine

ROOT = Path(__file__).parents[1]
CUDA = "cuda"
REFERENCES = ("resnext50", "seresnext50", "efficientnet_b3", "resnext101_wsl")
MODERN = ("convnext_small", "efficientnetv2_m", "hgnetv2_b4")
TINY = ("tiny_resnet", "tiny_efficientnet")
TRAINING, PREDICTION, WAITING, FASTER = 0.95, 0.9, 0.02, 1.4
WARM_UP, STEPS = 5, 40
PARTS = ("tests", "loader", "models")
TEST_LINE = re.compile(r"^(?P<name>tests/\S+::\S.*?) (?P<result>PASSED|FAILED|ERROR|SKIPPED)\b")


@dataclass(frozen=True)
class Limits:
    """Seconds that the parts may take."""

    phantom: float = 60.0
    tests: float = 150.0
    compiling: float = 150.0
    loader: float = 25.0
    model: float = 50.0


@dataclass
class Report:
    """What was measured so far, in a file that is replaced after each part."""

    path: Path
    device: str
    figures: list[Figure] = field(default_factory=list)
    parts: list[dict[str, Any]] = field(default_factory=list)
    hardware: str = ""

    def add(self, part: str, state: str, seconds: float, figures: Iterable[Figure] = ()) -> None:
        """Add the figures of a part that is `done`, `stopped` by its limit or `failed`, and write the file."""
        self.figures += figures
        self.parts.append({"part": part, "state": state, "seconds": round(seconds, 1)})
        print(f"{part}: {state} after {seconds:.0f} s", file=sys.stderr, flush=True)
        content = {
            "machine": machine(),
            "device": self.hardware or self.device,
            "parts": self.parts,
            "figures": [asdict(figure) for figure in self.figures],
        }
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        draft.replace(self.path)


def main() -> None:
    options = parsed()
    if options.table:
        print(tables(json.loads(options.table.read_text(encoding="utf-8"))))
        return
    if options.work:
        work(options)
        return
    until = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as scratch:
        report = measure(options, Path(scratch), until)
    print(tables(json.loads(report.path.read_text(encoding="utf-8"))))
    sys.exit(0 if all(part["state"] == "done" for part in report.parts) else 1)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default=CUDA, choices=(CUDA, "cpu"), help="where to train (cuda)")
    parser.add_argument("--quick", action="store_true", help="tiny networks and few steps")
    parser.add_argument("--json", type=Path, default=Path("gpu.json"), metavar="FILE", help="results (gpu.json)")
    parser.add_argument("--seconds", type=float, default=460.0, help="limit of all parts together (460)")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part; repeatable")
    parser.add_argument("--model", action="append", help="only this model; repeatable")
    parser.add_argument("--table", type=Path, metavar="FILE", help="print the tables of a file of results")
    parser.add_argument("--work", help=argparse.SUPPRESS)  # the part that this process measures
    parser.add_argument("--workspace", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def measure(options: argparse.Namespace, scratch: Path, until: float) -> Report:
    """Run all parts; return their report, which is in its file, too."""
    limits = Limits() if options.device == CUDA else Limits(*[600.0] * 5)
    report = Report(options.json, options.device, hardware=hardware(options.device))
    parts = options.part or PARTS
    models = options.model or (TINY if options.quick else REFERENCES + MODERN)
    os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "1")  # what one process has compiled, the next one loads
    child = Child(options, scratch)

    def part(name: str, limit: float) -> None:
        """Run a part in a process, as long as there is time."""
        if (left := until - time.monotonic()) < 1:
            report.add(name, "left out: no time", 0.0)
            return
        began = time.monotonic()
        state, figures = child.run(name, min(limit, left))
        report.add(name, state, time.monotonic() - began, figures)

    part("phantom", limits.phantom)
    with ThreadPoolExecutor(len(models) + 1) as pool:
        # At the same time: none of these is timed.
        compiled = pool.map(
            lambda name: child.run(f"compile-{name}", limits.compiling), models if "models" in parts else ()
        )
        if "tests" in parts:
            began = time.monotonic()
            state, figures = cuda_tests(options, scratch, min(limits.tests, until - began))
            report.add("tests", state, time.monotonic() - began, figures)
        list(compiled)
    if "loader" in parts:
        part("loader", limits.loader)
    for name in models if "models" in parts else ():
        part(f"model-{name}", limits.model)
    return report


def hardware(device: str) -> str:
    """Return the name of the device, its driver and CUDA."""
    if device != CUDA:
        return device
    import torch

    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "-i", "0"]
        driver = subprocess.run(query, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        driver = "unknown"
    return f"{torch.cuda.get_device_name(0)}, driver {driver}, CUDA {torch.version.cuda}"


@dataclass(frozen=True)
class Child:
    """Runs parts in processes of their own, in one workspace."""

    options: argparse.Namespace
    scratch: Path

    def run(self, part: str, seconds: float) -> tuple[str, list[Figure]]:
        """Run `part` for at most `seconds`; return `done`, `stopped` or `failed`, and what it has measured."""
        results = self.scratch / f"{part}.json"
        command = [sys.executable, str(Path(__file__).resolve()), "--work", part, "--device", self.options.device]
        command += ["--json", str(results), "--workspace", str(self.scratch / "phantom" / "workspace")]
        command += ["--quick"] if self.options.quick else []
        state = run_limited(command, seconds, self.scratch / f"{part}.log")
        if state == "failed":
            print((self.scratch / f"{part}.log").read_text(encoding="utf-8")[-2000:], file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):
            return state, [Figure(**values) for values in json.loads(results.read_text(encoding="utf-8"))]
        return state, []


def run_limited(command: Sequence[str], seconds: float, log: Path) -> str:
    """Run `command` and write its output to `log`; after `seconds` kill it and all that it has started."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT, start_new_session=True)
        try:
            return "failed" if process.wait(max(seconds, 0.1)) else "done"
        except subprocess.TimeoutExpired:
            return "stopped"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def cuda_tests(options: argparse.Namespace, scratch: Path, seconds: float) -> tuple[str, list[Figure]]:
    """Run the CUDA tests; return a figure for each that has ended."""
    log = scratch / "tests.log"
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "--color=no", "--tb=short"]
    command += ["tests/training/test_cuda.py"]
    if options.device != CUDA:
        command += ["-k", "two_processes or fp32"] if options.quick else []
    os.environ["ICHX_TEST_DEVICE"] = options.device
    state = run_limited(command, seconds, log)
    output = log.read_text(encoding="utf-8", errors="replace")
    if state == "failed":
        print(output[-6000:], file=sys.stderr, flush=True)
    found = [match for line in output.splitlines() if (match := TEST_LINE.match(line))]
    return state, [
        Figure(
            found["name"].partition("::")[2],
            float(found["result"] == "PASSED"),
            "passed",
            "-",
            "1",
            found["result"] != "FAILED",
        )
        for found in found
        if found["result"] != "SKIPPED"
    ]


# What the processes of the parts execute.


def work(options: argparse.Namespace) -> None:
    """Measure a part; write its figures after each of them."""
    measured: list[Figure] = []
    for figure in figures_of(options):
        measured.append(figure)
        draft = options.json.with_suffix(".draft")
        draft.write_text(json.dumps([asdict(figure) for figure in measured]), encoding="utf-8")
        draft.replace(options.json)


def figures_of(options: argparse.Namespace) -> Iterator[Figure]:
    """Yield the figures of a part as they are measured."""
    from training import Bench, phantom_workspace

    from ichx.store import open_store
    from ichx.workspace import open_workspace

    part, _, model = options.work.partition("-")
    if part == "phantom":
        phantom_workspace(options.workspace.parent, 8 if options.quick else 150)
        return
    workspace = open_workspace(options.workspace)
    with open_store(workspace) as store:
        bench = Bench(workspace, store, options.device)
        if part == "loader":
            yield from loader_figures(bench, options.quick)
        else:
            yield from Model(bench, model, options.quick).figures(measured=part == "model")


def loader_figures(bench: Any, quick: bool) -> Iterator[Figure]:
    """Yield the samples a second that 1, 2, 4, ... loader processes read, augmented as in the reference."""
    import numpy as np
    import torch

    from ichx.loading.loader import SliceLoader
    from ichx.loading.sampling import EpochAddress

    plugin = "tiny_resnet" if quick else "resnext50"
    job = bench.job(experiment(bench, plugin, quick))
    cores = os.cpu_count() or 1
    if bench.device == CUDA:
        torch.zeros(1, device=CUDA)  # batches arrive in pinned memory then, as in a run
    for workers in [count for count in (1, 2, 4, 8, 16) if count <= min(cores, 2 if quick else cores)]:
        batches = 8 if quick else 6 * workers
        loader = SliceLoader(job.cache, job.data.slices, job.recipe, workers)
        rows = np.resize(job.training_rows(0), batches * job.recipe.batch)
        for _ in loader.training_batches(rows[: workers * job.recipe.batch], EpochAddress(0, 0, 0, 0)):
            pass  # the processes are there now
        began = time.perf_counter()
        count = sum(len(batch.rows) for batch in loader.training_batches(rows, EpochAddress(0, 0, 0, 1)))
        rate = count / (time.perf_counter() - began)
        what = f"loader, {job.recipe.input.pixels} px, {workers} processes"
        yield Figure(what, rate, "samples/s", f"{rate / workers:.0f}/s each", "-", True)


def experiment(bench: Any, plugin: str, quick: bool, *settings: str) -> Any:
    """Register a long training of `plugin` on every slice, at its size and batch, or small where `quick`."""
    from ichx.experiments.register import ExperimentRequest, new_experiment
    from ichx.training.compilation import WORTH_STEPS

    stages = [stage.name for stage in bench.registry.get(plugin).recipe.stage]
    chosen = [f"stage.{stages[0]}.sampling=all", f"stage.{stages[-1]}.epochs={WORTH_STEPS}", *settings]
    chosen += ["batch=8"] if quick else []
    request = ExperimentRequest(plugin=plugin, size=64 if quick else None, settings=tuple(chosen))
    return new_experiment(bench.store, bench.registry, request)


@dataclass(frozen=True)
class Model:
    """One model at its size and batch: the run of ichx, and what is written by hand."""

    bench: Any
    name: str
    quick: bool

    def figures(self, *, measured: bool) -> Iterator[Figure]:
        """Yield the figures of the model; if not `measured`, only compile what will be."""
        from training import paced_run

        bench = self.bench
        chosen = experiment(bench, self.name, self.quick)
        job = bench.job(chosen)
        steps = min(len(job.training_rows(0)) // job.recipe.batch - WARM_UP, 4 if self.quick else STEPS)
        steps = steps if measured else 1
        what = f"{self.name}, {job.recipe.input.pixels} px, batch {job.recipe.batch}"
        run = paced_run(bench, chosen, WARM_UP if measured else 1, steps)
        if measured:
            yield Figure(f"{what}: training", run.rate, "images/s", "-", "-", True)
            waiting = f"{100 * WAITING:g} %"
            yield Figure(f"{what}: waiting for data", 100 * run.waiting, "%", "-", waiting, run.waiting < WAITING)
            yield Figure(f"{what}: peak memory", run.peak_gib, "GiB", "-", "-", True)
        with self.loop(job, compiled=True) as loop:
            bare = loop.pace(steps, warm_up=WARM_UP if measured else 1).rate
        if measured:
            share = run.rate / bare
            against = f"compiled, synthetic images ({bare:.0f}/s)"
            yield Figure(f"{what}: training", share, "x", against, f"{TRAINING} x", share >= TRAINING)
        yield from self.predictions(job, what, steps, measured=measured)
        if measured:
            with self.loop(job, compiled=False) as loop:
                eager = loop.pace(max(steps // 2, 1), warm_up=2).rate
            faster = run.rate / eager
            yield Figure(
                f"{what}: training", faster, "x", f"eager fp32 ({eager:.0f}/s)", f"{FASTER} x", faster >= FASTER
            )

    def predictions(self, job: Any, what: str, steps: int, *, measured: bool) -> Iterator[Figure]:
        """Yield the images a second that ichx predicts, and the share of a compiled forward pass."""
        import numpy as np

        from ichx.training.compilation import WORTH_BATCHES
        from ichx.training.device import choose_hardware, isolated_torch_settings
        from ichx.training.prediction import Predictor
        from ichx.training.run_options import INFERENCE_BATCH
        from ichx.training.runtime import Runtime
        from ichx.training.slice_feed import SliceFeed

        hardware = choose_hardware(self.bench.device, "auto", job.recipe.input.pixels)
        with isolated_torch_settings(hardware):
            runtime = Runtime(hardware)
            network = runtime.prepare(job.plugin.build(job.recipe, False))
            workers = min(os.cpu_count() or 1, 16) if self.bench.device == CUDA else 0
            feed = SliceFeed(job.cache, job.data.slices, job.recipe, workers)
            predictor = Predictor(runtime, batches=WORTH_BATCHES)
            rows = np.resize(job.training_rows(0), steps * INFERENCE_BATCH)
            predictor.logits(network, feed, rows[:INFERENCE_BATCH])
            if measured:
                began = time.perf_counter()
                predictor.logits(network, feed, rows)
                rate = len(rows) / (time.perf_counter() - began)
                yield Figure(f"{what}: prediction", rate, "images/s", "-", "-", True)
            del network, predictor
            with self.loop(job, compiled=True, batch=INFERENCE_BATCH) as loop:
                bare = loop.forward_pace(steps if measured else 1)
            if measured:
                share = rate / bare
                against = f"compiled forward, synthetic images ({bare:.0f}/s)"
                yield Figure(f"{what}: prediction", share, "x", against, f"{PREDICTION} x", share >= PREDICTION)

    @contextlib.contextmanager
    def loop(self, job: Any, *, compiled: bool, batch: int | None = None) -> Iterator[Any]:
        """Yield a loop by hand: compiled in half precision and channels last, or eager in fp32."""
        import torch
        from training import BareLoop

        from ichx.training.device import choose_hardware

        precision = choose_hardware(self.bench.device, "auto").precision
        half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        backend = "inductor" if self.bench.device == CUDA else "aot_eager"  # needs no C++ compiler
        yield BareLoop(
            job.plugin.build(job.recipe, False),
            job.recipe.input.pixels,
            batch or job.recipe.batch,
            channels_last=compiled,
            half=half if compiled else None,
            device=self.bench.device,
            compiler=backend if compiled else None,
        )
        torch.compiler.reset()
        gc.collect()
        torch.cuda.empty_cache()


# The tables of the docs.


def tables(results: dict[str, Any]) -> str:
    """Return the figures of a file of results as Markdown: models, loader, tests, and what is missing."""
    figures = [Figure(**values) for values in results["figures"]]
    lines = [f"Machine: {results['device']}; {results['machine']}.", ""]
    measured = [figure for figure in figures if figure.unit != "passed"]
    if measured:
        lines += ["| figure | measured | target |", "| --- | --- | --- |"]
        for figure in measured:
            against = "" if figure.baseline == "-" else f", compared with {figure.baseline}" * (figure.unit == "x")
            note = f" ({figure.baseline})" if figure.baseline != "-" and figure.unit != "x" else ""
            missed = "" if figure.met else "; missed"
            target = "" if figure.target == "-" else figure.target
            lines.append(
                f"| {figure.figure}{against} | {figure.measured:,.4g} {figure.unit}{note}{missed} | {target} |"
            )
        lines.append("")
    tests = [figure for figure in figures if figure.unit == "passed"]
    if tests:
        failed = [figure.figure for figure in tests if not figure.met]
        lines.append(
            f"CUDA tests: {len(tests) - len(failed)} passed, {len(failed)} failed. {' '.join(failed)}".rstrip()
        )
    unfinished = [f"{part['part']} ({part['state']})" for part in results["parts"] if part["state"] != "done"]
    if unfinished:
        lines.append(f"Not finished: {', '.join(unfinished)}.")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
