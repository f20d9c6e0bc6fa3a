"""Damaged files: what becomes of 20,000 of them, made from files in every encoding, read as headers and slices.

    python benchmarks/fuzz.py [--quick] [--json FILE] [--files N]

The files are phantom slices, and those of the folder in ICHX_TEST_DATA where it is set. The same number of files is the
same files. `--quick` tries 1,500. Files that lie about their size are read too: a process that believed one would end.
"""

import io
import os
import resource
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import BinaryIO

import numpy as np
from common import Figure, arguments, conclude
from rich.console import Console

FILES = 20_000
QUICK = 1_500
HANG = 5.0
"""Seconds for one read."""
KILLED_AFTER = 60
"""Seconds after which a file counts as a hang and ends its process."""
MEMORY = 2**30
CHUNK = 100


@dataclass
class Tally:
    """What became of some files; memory in bytes, of the reading process and its decoder together."""

    outcomes: Counter[str] = field(default_factory=Counter)
    unnamed: list[str] = field(default_factory=list)
    hangs: list[str] = field(default_factory=list)
    slowest: float = 0.0
    memory: int = 0


def main() -> None:
    options = arguments(__doc__, files=FILES)
    count = min(QUICK, options.files) if options.quick else options.files
    total, crashed = Tally(), []
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        bases = write_bases(Path(folder))
        waiting = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
        while waiting:
            waiting = _run(bases, waiting, total, crashed)
        damaged = total.outcomes.total()
        lies = write_lying(Path(folder))
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            lying = pool.submit(read_lying, lies).result()
    seconds = time.perf_counter() - began
    console = Console(stderr=True, highlight=False)
    for line in [
        *total.unnamed[:20],
        *total.hangs[:20],
        *lying.unnamed,
        *lying.hangs,
        *(f"file {index} ends the process" for index in crashed[:20]),
    ]:
        console.print(line, markup=False)
    console.print(", ".join(f"{name} {n}" for name, n in total.outcomes.most_common()), markup=False)
    conclude(
        [
            Figure("damaged files tried", damaged, "", f"{len(bases)} whole files", f"{count}", damaged == count),
            Figure("crashes", len(crashed), "", "-", "0", not crashed),
            Figure("outcomes without a name", len(total.unnamed), "", "-", "0", not total.unnamed),
            Figure(f"reads over {HANG:.0f} s", len(total.hangs), "", "-", "0", not total.hangs),
            Figure("slowest read", total.slowest, "s", "-", f"{HANG:.0f} s", total.slowest <= HANG),
            Figure("peak memory", total.memory / 2**20, "MiB", "damaged files", "1024 MiB", total.memory < MEMORY),
            Figure("lying files tried", lying.outcomes.total(), "", "-", "-", not lying.unnamed),
            Figure("slowest read of a lying file", lying.slowest, "s", "-", f"{HANG:.0f} s", not lying.hangs),
            Figure("peak memory", lying.memory / 2**20, "MiB", "lying files", "1024 MiB", lying.memory < MEMORY),
            Figure("wall time", seconds, "s", "-", "-", True),
        ],
        options,
    )


def write_bases(folder: Path) -> list[Path]:
    """Write the phantom's files to `folder`, and return them and the real ones, sorted."""
    from ichx.phantom.encoded_files import valid_files

    for name, content in valid_files(folder).items():
        (folder / f"{name}.dcm").write_bytes(content)
    real = os.environ.get("ICHX_TEST_DATA")
    found = []
    if real:
        rsna = sorted((Path(real) / "rsna_mini").rglob("*.dcm"))
        found = [*sorted((Path(real) / "transfer_syntaxes").iterdir()), *rsna[::13]]
    return [*sorted(folder.glob("*.dcm")), *found]


def _run(bases: list[Path], waiting: list[range], total: Tally, crashed: list[int]) -> list[range]:
    """Read the chunks in another process until it ends or is done; return what is left of them."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for number, chunk in enumerate(waiting):
            try:
                part = pool.submit(read_chunk, bases, chunk).result()
            except BrokenProcessPool:
                if len(chunk) == 1:
                    crashed.append(chunk[0])
                    total.outcomes["crash"] += 1
                    return waiting[number + 1 :]
                return [range(index, index + 1) for index in chunk] + waiting[number + 1 :]
            total.outcomes += part.outcomes
            total.unnamed += part.unnamed
            total.hangs += part.hangs
            total.slowest = max(total.slowest, part.slowest)
            total.memory = max(total.memory, part.memory)
    return []


def read_chunk(bases: list[Path], chunk: range) -> Tally:
    """Read the files of `chunk`."""
    from ichx.phantom.encoded_files import damaged

    warnings.simplefilter("ignore")
    tally = Tally()
    for index in chunk:
        rng = np.random.default_rng([20, index])
        content = damaged(bases[index % len(bases)].read_bytes(), rng)
        signal.alarm(KILLED_AFTER)
        tally.outcomes[_outcome(lambda content=content: io.BytesIO(content), f"file {index}", tally)] += 1
        signal.alarm(0)
    tally.memory = _peak()
    return tally


def write_lying(folder: Path) -> list[Path]:
    """Write the files that ask for too much to `folder`, and return them."""
    from ichx.phantom.encoded_files import lying_files

    paths = []
    for name, content in lying_files():
        paths.append(folder / f"{name}.lie")
        paths[-1].write_bytes(content)
    return paths


def read_lying(paths: list[Path]) -> Tally:
    """Read the files at `paths`, in a process of their own."""
    warnings.simplefilter("ignore")
    tally = Tally()
    for path in paths:
        tally.outcomes[_outcome(lambda path=path: path, path.stem, tally)] += 1
    tally.memory = _peak()
    return tally


def _outcome(source: Callable[[], Path | BinaryIO], name: str, tally: Tally) -> str:
    """Return "slice" or the defect's name; `source` gives the file anew."""
    from ichx.ct.dicom import DEFECTS, DicomDefectError, read_headers, read_slice

    frames, outcome = [0], "slice"
    for read in ("headers", "first", "last"):
        began = time.perf_counter()
        try:
            if read == "headers":
                frames = [header.frame for header in read_headers(source())]
            else:
                read_slice(source(), frames[0 if read == "first" else -1])
        except DicomDefectError as defect:
            outcome = defect.reason
            if outcome not in DEFECTS:
                tally.unnamed.append(f"{name}: {defect}")
        except Exception as error:
            outcome = "unnamed"
            tally.unnamed.append(f"{name}: {type(error).__name__}: {error}")
        seconds = time.perf_counter() - began
        tally.slowest = max(tally.slowest, seconds)
        if seconds > HANG:
            tally.hangs.append(f"{name}: {read} took {seconds:.1f} s, {outcome}")
        if frames == [0] and read == "first":
            break
    return outcome


def _peak() -> int:
    """Return the peak memory in bytes of this process and the largest one that it has started."""
    own, peak = (1024 * resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text(encoding="ascii").split():
            status = Path(f"/proc/{child}/status").read_text(encoding="utf-8").splitlines()
            peak = max(peak, *(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM")))
    return own + peak


if __name__ == "__main__":
    main()
