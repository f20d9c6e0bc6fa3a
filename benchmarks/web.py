"""The web app: lists, the viewer in a headless browser, live pages, an idle server, and its cost for a training.

    python benchmarks/web.py [--quick] [--json FILE] [--only PART ...]

Parts: list, slices, epoch, idle, training, start. What is measured in a browser is skipped with a message without
chromium and playwright. Times of a busy machine are times of its queues, so processor times are measured as well.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from common import Figure, arguments, conclude
from filled_store import fill_store
from ui_server import PROGRAM, UiServer, browser, tab, ui_server
from ui_training import Training

from ichx.formatting import format_value
from ichx.phantom.dicom_files import write_phantom
from ichx.store import EpochRecord, Store, open_store
from ichx.store.testing import run_draft
from ichx.workspace import init_workspace, open_workspace

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

EDGE = 378
SERVER_MS, USABLE_MS, DRAWN_MS, PREFETCHED_MS, FRAME_MS = 150.0, 1000.0, 50.0, 16.0, 1000 / 60
EPOCH_SECONDS, MEMORY_MB, IDLE_PERCENT, SHARE, FIRST_BYTE_SECONDS = 2.0, 150.0, 1.0, 0.98, 1.5
CLIENTS, SLICES_PER_SECOND = 20, 10.0
BLOCK = 16
"""Slices of a request of the viewer; `BLOCK` of viewer_slices.js."""
USABLE = """(function tick() {
  requestAnimationFrame(() => {
    if (!document.querySelector("#select-all:not([hidden])")) return tick();
    const painted = new MessageChannel();
    painted.port1.onmessage = () => { window.usable = performance.now(); };
    painted.port2.postMessage(0);
  });
})();"""
"""Sets `usable`, in ms since the navigation: the list is painted, and its controls work."""
WATCH = """window.bench = { frames: [], measures: [], keys: [] };
const painted = new MessageChannel();
painted.port1.onmessage = ({ data }) => { bench.frames.push([data, performance.now()]); };
(function tick() { requestAnimationFrame(() => { painted.port2.postMessage(performance.now()); tick(); }); })();
new PerformanceObserver((list) => {
  for (const { name, startTime, duration, detail } of list.getEntries()) {
    bench.measures.push({ name, startTime, duration, detail });
  }
}).observe({ entryTypes: ["measure"] });
addEventListener("keydown", (event) => bench.keys.push(event.timeStamp), true);"""
"""Records frames (start, end of painting), the viewer's measures, and keys, in ms since the navigation."""
CHANGE = """() => {
  const measure = bench.measures.at(-1), key = bench.keys.at(-1), end = measure.startTime + measure.duration;
  const shown = bench.frames.findIndex(([start]) => start >= end);
  if (shown < 0) return null;
  const frames = 1 + bench.frames.filter(([start]) => start > key && start < end).length;
  return { drawn: end - key, painted: bench.frames[shown][1] - key, frames, prefetched: measure.detail?.prefetched };
}"""
"""Returns the times of the last change since its key, and the number of frames until the one that has it."""
EPOCH = """(wanted) => {
  window.seen = null;

  const cell = document.querySelector("#runs [data-value=score]");
  const check = () => {
    if (cell.textContent !== wanted) return false;
    requestAnimationFrame(() => setTimeout(() => { window.seen = performance.timeOrigin + performance.now(); }));
    return true;
  };
  const observer = new MutationObserver(() => { if (check()) observer.disconnect(); });
  if (!check()) observer.observe(cell, { childList: true, characterData: true, subtree: true });
}"""
"""Sets `seen` when the score is painted, in ms since 1970."""


@dataclass
class Bench:
    """The workspaces, the browser, and what is measured how often."""

    folder: Path
    quick: bool
    opened: "Browser | None"
    figures: list[Figure] = field(default_factory=list)

    def add(
        self, figure: str, values: list[float], unit: str, target: float | None = None, baseline: str = "-"
    ) -> None:
        """Add the median of `values`, at most `target`."""
        median = statistics.median(values)
        shown = "-" if target is None else f"{target:.4g} {unit}"
        self.figures.append(Figure(figure, median, unit, baseline, shown, target is None or median <= target))

    @cached_property
    def many(self) -> Path:
        """A workspace with many experiments."""
        root = self.folder / "many"
        fill_store(root, self.experiments, folds=5, metrics=20)
        return root

    @property
    def experiments(self) -> int:
        """How many."""
        return 2_000 if self.quick else 10_000

    @cached_property
    def studies(self) -> Path:
        """A workspace with a dataset `viewed`, cached at 378 px, and a smaller one `trained`."""
        root = init_workspace(self.folder / "studies").root
        for name, patients, size in (("viewed", 1 if self.quick else 3, 512), ("trained", 12, 128)):
            files = write_phantom(self.folder / name, patients=patients, seed=1, size=size)
            folds = "0" if name == "viewed" else "5"
            _ichx(root, "data", "add", name, str(files.train), "--labels", str(files.train_labels), "--folds", folds)
        _ichx(root, "data", "cache", "viewed", "--size", str(EDGE))
        return root


def main() -> None:
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--only", action="append", choices=PARTS, help="only this part; repeatable")
    options = arguments(__doc__, parents=[own])
    with tempfile.TemporaryDirectory() as scratch, browser() as opened:
        bench = Bench(Path(scratch), options.quick, opened)
        for name, part in PARTS.items():
            if name in (options.only or PARTS):
                part(bench)
    conclude(bench.figures, options)


def measure_list(bench: Bench) -> None:
    """The first page of the list: the answer of the server, and when it is usable in a browser without a cache."""
    repetitions = 3 if bench.quick else 21
    what = f"list of {bench.experiments:,}"
    with ui_server(bench.many) as server:
        server.client.get("/experiments")
        seconds, processor = [], []
        for _ in range(repetitions):
            began, used = time.perf_counter(), server.processor_seconds()
            server.client.get("/experiments").raise_for_status()
            seconds.append(time.perf_counter() - began)
            processor.append(server.processor_seconds() - used)
        bench.add(f"{what}: server", [1000 * one for one in seconds], "ms", SERVER_MS)
        bench.add(f"{what}: server, processor", [1000 * statistics.mean(processor)], "ms")
        if bench.opened is None:
            return
        usable, work = [], []
        for _ in range(repetitions):
            with tab(bench.opened, server, USABLE) as page:
                tools = page.context.new_cdp_session(page)
                tools.send("Performance.enable")
                before, used = _process_time(tools), server.processor_seconds()
                page.goto(f"{server.origin}/experiments", wait_until="commit")
                usable.append(page.wait_for_function("() => window.usable").json_value())
                work.append(1000 * (_process_time(tools) - before + server.processor_seconds() - used))
        bench.add(f"{what}: usable in a new browser", usable, "ms", USABLE_MS)
        bench.add(f"{what}: server and page, processor", work, "ms")


def _process_time(tools: Any) -> float:
    """Return the processor seconds of the process of a page."""
    found = tools.send("Performance.getMetrics")["metrics"]
    return next(float(one["value"]) for one in found if one["name"] == "ProcessTime")


def measure_slices(bench: Bench) -> None:
    """The viewer: the next slice, loaded or not, and another window."""
    if bench.opened is None:
        return
    loaded: list[dict[str, Any]] = []
    requested: list[dict[str, Any]] = []
    windows: list[dict[str, Any]] = []
    requests: list[str] = []
    with ui_server(bench.studies) as server:
        blocks = slice_requests(server)[0]
        for path, _ in blocks * 2:
            server.client.get(path).raise_for_status()  # warm: the files are in memory
        used = server.processor_seconds()
        size, count = sent_bytes(server, blocks * 8)
        processor = (server.processor_seconds() - used) / count
        for _ in range(1 if bench.quick else 8):
            with tab(bench.opened, server, WATCH) as page:
                page.goto(f"{server.origin}/studies?source=viewed@1&open=first")
                page.wait_for_selector(".stage[data-shown]")
                for key in ("Home", *["ArrowDown"] * 9):
                    loaded.append(_press(page, key, "ichx:slice"))
                requested += [_press(page, key, "ichx:slice") for key in ("End",)]
                page.on("request", lambda request: requests.append(request.url))
                for key in "5321s4s5123s45s1":
                    windows.append(_press(page, key, "ichx:window"))
    requested += [one for one in loaded if not one["prefetched"]]
    loaded = [one for one in loaded if one["prefetched"]]
    for name, found, target in (("requested", requested, DRAWN_MS), ("prefetched", loaded, PREFETCHED_MS)):
        bench.add(f"next slice, {EDGE} px, {name}: drawn", [one["drawn"] for one in found], "ms", target)
        bench.add(f"next slice, {EDGE} px, {name}: frame painted", [one["painted"] for one in found], "ms")
    bench.add(f"a slice of a block, {EDGE} px: server, processor", [1000 * processor], "ms")
    bench.add(
        f"a slice of a block, {EDGE} px: sent", [size / 1000], "kB", baseline=f"{2e-3 * EDGE * EDGE:.0f} kB of HU"
    )
    bench.add("change of the window: drawn", [one["drawn"] for one in windows], "ms", FRAME_MS)
    bench.add("change of the window: frames", [one["frames"] for one in windows], "", 1)
    bench.add(f"{len(windows)} changes of the window: requests", [len(requests)], "", 0)


def _press(page: "Page", key: str, name: str) -> dict[str, Any]:
    """Press a key once the page is idle; return what `CHANGE` says of the measure `name`."""
    page.wait_for_load_state("networkidle")
    known = page.evaluate("() => bench.frames.splice(0); bench.measures.splice(0).length")
    assert known is not None
    page.keyboard.press(key)
    page.wait_for_function("(name) => bench.measures.some((one) => one.name === name)", arg=name)
    return page.wait_for_function(CHANGE).json_value()  # type: ignore[no-any-return]


def slice_requests(server: UiServer) -> list[list[tuple[str, int]]]:
    """Return the paths that the viewer requests of each study of the dataset `viewed`, with their numbers of slices."""
    while 'href="/studies/viewed@1/' not in (page := server.client.get("/studies?source=viewed@1").text):
        time.sleep(0.5)  # the index of the studies is built on first use
    found = []
    for name in dict.fromkeys(part.partition('"')[0].partition("?")[0] for part in page.split('href="/studies/')[1:]):
        study = server.client.get(f"/api/studies/{name}").json()
        query = [("size", max(study["pixels"]["sizes"])), ("stored", 1), ("v", study["pixels"]["version"])]
        requests = []
        for series in study["series"]:
            ids = [one["id"] for one in series["slices"]]
            for start in range(0, len(ids), BLOCK):
                block = [("slice", one) for one in ids[start : start + BLOCK]]
                requests.append((f"/api/pixels/viewed@1?{urlencode(query + block)}", len(block)))
        found.append(requests)
    return found


def sent_bytes(server: UiServer, requests: list[tuple[str, int]]) -> tuple[float, int]:
    """Return the bytes per slice that the server sends for `requests` of `slice_requests`, and the number of slices."""
    received = count = 0
    for path, slices in requests:
        answer = server.client.get(path).raise_for_status()
        assert all(answer.headers["X-Chunks"].split(",")), "a slice was decoded"
        received += len(answer.content)
        count += slices
    return received / count, count


def measure_epoch(bench: Bench) -> None:
    """From the call that records an epoch until it is painted."""
    if bench.opened is None:
        return
    seconds = []
    with ui_server(bench.many) as server, _running(bench.many) as (store, run), tab(bench.opened, server) as page:
        page.goto(f"{server.origin}/experiments/1")
        page.wait_for_selector("#live:has-text('live')")
        for epoch in range(1, 4 if bench.quick else 16):
            time.sleep(0.37 * (epoch % 4))  # at any time between two reads of the server
            score = 0.3 + epoch / 1000
            page.evaluate(EPOCH, format_value(score))
            began = time.time()
            store.record_epoch(run, EpochRecord("full", 0, epoch, {"loss": 0.5, "score": score}))
            seconds.append(page.wait_for_function("() => window.seen").json_value() / 1000 - began)
    bench.add("an epoch's record to the screen, median", seconds, "s", EPOCH_SECONDS)
    bench.add(f"an epoch's record to the screen, longest of {len(seconds)}", [max(seconds)], "s", EPOCH_SECONDS)


@contextmanager
def _running(root: Path) -> "Iterator[tuple[Store, int]]":
    """Yield the store and a running run of experiment 1."""
    with open_store(open_workspace(root)) as store:
        run = store.start_run(run_draft(1, 0))
        yield store, run.id
        store.finish_run(run.id, "stopped")


def measure_idle(bench: Bench) -> None:
    """Memory and processor of a server that nobody uses, and of one with open pages."""
    seconds = 3.0 if bench.quick else 60.0
    with ui_server(bench.many) as server, _running(bench.many) as (store, run):
        server.client.get("/experiments").raise_for_status()
        bench.add("idle: memory after the first page", [server.memory_mb()], "MB", MEMORY_MB)
        for name, path in (("no page", None), ("the list", "/experiments"), ("a running experiment", "/experiments/1")):
            if path is None:
                used = _idle_percent(server, store, run, seconds)
            elif bench.opened is None:
                continue
            else:
                with tab(bench.opened, server) as page:
                    page.goto(f"{server.origin}{path}")
                    used = _idle_percent(server, store, run, seconds)
            bench.add(f"idle for {seconds:.0f} s with {name} open: processor", [used], "%", IDLE_PERCENT)
    with ui_server(bench.studies) as server:
        for path in ("/experiments", "/jobs", "/tuning", "/worklist", "/studies"):
            server.client.get(path).raise_for_status()
        for requests in slice_requests(server):
            for path, _ in requests:
                server.client.get(path).raise_for_status()
        bench.add("idle: memory after all pages and studies", [server.memory_mb()], "MB", MEMORY_MB)
        imported = [name for name in ("torch", "pandas", "pyarrow") if server.has_mapped(f"/{name}/")]
        print(f"libraries in the memory of the server then: {', '.join(imported) or 'none of torch, pandas, pyarrow'}")
        bench.add("idle: torch in memory after all pages", [float("torch" in imported)], "", 0)


def _idle_percent(server: UiServer, store: Store, run: int, seconds: float) -> float:
    """Return the share of a core that the server uses; the run sends heartbeats as a training does."""
    time.sleep(3.0)
    used, began = server.processor_seconds(), time.monotonic()
    while time.monotonic() - began < seconds:
        store.heartbeat(run)
        time.sleep(min(15.0, max(0.1, seconds - (time.monotonic() - began))))
    return 100 * (server.processor_seconds() - used) / (time.monotonic() - began)


def measure_training(bench: Bench) -> None:
    """A run's images per second while clients scroll, compared with the same run without them, in turns.

    The clients take a part of the cores themselves, so they also scroll on a server that only sends as many bytes. They
    do not decode what they receive: they stand for browsers on other machines.
    """
    turns, seconds = (2, 3.0) if bench.quick else (15, 8.0)
    with ExitStack() as stack:
        server = stack.enter_context(ui_server(bench.studies))
        studies = slice_requests(server)
        size, _ = sent_bytes(server, [request for requests in studies for request in requests])
        port = stack.enter_context(_bytes_server(round(size)))
        training = stack.enter_context(Training(bench.studies, "trained"))
        wanted = {"cookie": server.cookie, "clients": CLIENTS, "rate": SLICES_PER_SECOND}
        wanted |= {"host": "127.0.0.1", "studies": studies}
        load = _scrolling(wanted | {"port": int(server.origin.rpartition(":")[2])})
        load_bytes = _scrolling(wanted | {"port": port})
        alone, sent, shared, used, answers = [], [], [], [], []
        seconds_used = 0.0
        for _ in range(turns):
            alone.append(training.pace(seconds, lambda: time.sleep(seconds)))
            sent.append(training.pace(seconds, lambda: load_bytes(seconds)))
            before = server.processor_seconds()
            shared.append(training.pace(seconds, lambda: answers.append(load(seconds))))
            seconds_used += (taken := server.processor_seconds() - before)
            used.append(100 * taken / seconds / (os.cpu_count() or 1))
    slices = statistics.median(one["slices"] / seconds for one in answers)
    what = f"{CLIENTS} clients scroll"
    if min(*alone, *sent) > 0:
        cost = statistics.median(with_ / bytes_ for with_, bytes_ in zip(shared, sent, strict=True))
        ratio = statistics.median(with_ / without for with_, without in zip(shared, alone, strict=True))
        bench.figures += [
            Figure(
                f"{what}: a run's throughput",
                cost,
                "x",
                f"the same clients, and a server that only sends bytes ({statistics.median(sent):.0f} images/s)",
                f"{SHARE} x",
                cost >= SHARE,
            ),
            Figure(
                f"{what} on the same cores: a run's throughput",
                ratio,
                "x",
                f"neither clients nor server ({statistics.median(alone):.0f} images/s)",
                "-",
                True,
            ),
        ]
    else:
        print(f"Throughput: skipped. The machine is so busy that a run trained nothing in {seconds:g} s.", flush=True)
    # what the server takes from a run that uses all cores; a busy machine does not change it
    bench.add(f"{what}: processor of the server, of all cores", used, "%", 100 * (1 - SHARE))
    per_slice = 1000 * seconds_used / sum(one["slices"] for one in answers)
    bench.add(f"{what}: processor of the server, of a slice", [per_slice], "ms")
    bench.add(f"{what}: slices they receive", [slices], "/s")
    bench.add(f"{what}: time of a request of {BLOCK} slices", [1000 * one["seconds"] for one in answers], "ms")


@contextmanager
def _bytes_server(size: int) -> Iterator[int]:
    """Yield the port of a server that only sends bytes, `size` for a slice."""
    program = [sys.executable, str(Path(__file__).with_name("ui_bytes.py")), str(size)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.kill()


def _scrolling(wanted: dict[str, Any]) -> Callable[[float], dict[str, float]]:
    """Start the clients; return a function that lets them scroll for some seconds."""
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("ui_load.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    commands, answers = process.stdin, process.stdout
    commands.write(json.dumps(wanted) + "\n")

    def scroll(seconds: float) -> dict[str, float]:
        commands.write(f"{seconds}\n")
        commands.flush()
        return json.loads(answers.readline())  # type: ignore[no-any-return]

    return scroll


def measure_start(bench: Bench) -> None:
    """From the start of the command until the first byte of its first page."""
    wall, processor = [], []
    for _ in range(3 if bench.quick else 11):
        with ui_server(bench.many) as server:
            with server.client.stream("GET", "/experiments") as answer:
                next(answer.iter_raw())
            wall.append(time.monotonic() - server.started)
            processor.append(server.processor_seconds())
            imported = server.has_mapped("/torch/")
    bench.add("ichx ui: until the first byte of the first page", wall, "s", FIRST_BYTE_SECONDS)
    bench.add("ichx ui: processor until then", processor, "s")
    bench.add("ichx ui: torch in memory then", [float(imported)], "", 0)


def _ichx(root: Path, *words: str) -> None:
    subprocess.run([*PROGRAM, *words], cwd=root, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


PARTS: dict[str, Callable[[Bench], None]] = {
    "list": measure_list,
    "slices": measure_slices,
    "epoch": measure_epoch,
    "idle": measure_idle,
    "training": measure_training,
    "start": measure_start,
}

if __name__ == "__main__":
    main()
