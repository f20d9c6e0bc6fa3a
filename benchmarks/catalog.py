"""Time to add data: the catalog of 752,803 slices, the index of a large zip, headers and slices from folder and zip.

python benchmarks/catalog.py [--quick] [--json FILE]
"""

import io
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from common import Figure, arguments, conclude

from ichx.cache.decode_check import DecodeJob, decode_chunk
from ichx.ct.dicom import read_headers, read_slice
from ichx.datasets.catalog import build_catalog, read_catalog, usable_slices, write_catalog
from ichx.datasets.file_list import list_files
from ichx.datasets.ingest import SCANNED, scan_source
from ichx.datasets.sources import SourceFiles
from ichx.datasets.zip_archive import END, END64, ENTRY, LOCATOR64
from ichx.phantom.dicom_files import write_phantom

T = TypeVar("T")

READ_INDEX = """
import resource, sys, time, zipfile
from pathlib import Path
from ichx.datasets.zip_archive import read_zip_index

def peak():  # on Linux, ru_maxrss includes the memory of the parent process
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) / 1000
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6

path, before, began = Path(sys.argv[2]), peak(), time.process_time()
index = read_zip_index(path) if sys.argv[1] == "ichx" else zipfile.ZipFile(path)
print(time.process_time() - began, peak() - before)
"""

SLICES, MEMBERS = 752_803, 884_085
"""Training slices of the RSNA challenge, and members of its zip."""


def main() -> None:
    options = arguments(__doc__ or "")
    part = 20 if options.quick else 1
    with tempfile.TemporaryDirectory() as folder:
        figures = [*catalog(Path(folder), SLICES // part), *index(Path(folder), MEMBERS // part)]
        figures += files(Path(folder), 2 if options.quick else 12)
    conclude(figures, options)


def catalog(folder: Path, n: int) -> list[Figure]:
    scan = synthetic_scan(n)
    seconds, (built, _) = timed(lambda: build_catalog(scan, b"k" * 32))
    used = peak()
    path = folder / "catalog.parquet"
    writing, _ = timed(lambda: write_catalog(built, path))
    reading, _ = timed(lambda: usable_slices(read_catalog(path)))
    limit = max(2.0, 10 * n / SLICES)
    return [
        Figure(f"catalog of {n:,} slices", seconds, "s", "", f"<= {limit:g} s", seconds <= limit),
        Figure("peak memory with the scan", used, "MB", "", "<= 2000 MB", used <= 2000),
        Figure("catalog written", writing, "s", "", f"<= {limit:g} s", writing <= limit),
        Figure("catalog read and sorted", reading, "s", "", f"<= {limit:g} s", reading <= limit),
    ]


def index(folder: Path, n: int) -> list[Figure]:
    path = folder / "large.zip"
    write_index(path, n)
    runs = [(read_in_process("ichx", path), read_in_process("zipfile", path)) for _ in range(3)]
    seconds, peer, memory, peer_memory = (
        statistics.median(run[reader][figure] for run in runs) for figure in (0, 1) for reader in (0, 1)
    )
    return [
        Figure(f"index of {n:,} members", seconds, "s", f"zipfile {peer:.3g} s", "<= zipfile", seconds <= peer),
        Figure("its peak memory", memory, "MB", f"zipfile {peer_memory:.0f} MB", "<= zipfile", memory <= peer_memory),
    ]


def read_in_process(reader: str, path: Path) -> tuple[float, float]:
    """Return the CPU seconds and the additional peak memory in MB of a process that reads the index at `path`."""
    command = [sys.executable, "-c", READ_INDEX, reader, str(path)]
    seconds, memory = map(float, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    return seconds, memory


def files(folder: Path, patients: int) -> list[Figure]:
    phantom = write_phantom(folder / "phantom", patients=patients, seed=1, size=512)
    archive = folder / "phantom.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(phantom.train.iterdir()):
            packed.write(file, file.name)
    n = len(list_files(archive).names)
    sources = {"folder": phantom.train, "zip": archive}
    jobs = {
        name: DecodeJob(0, SourceFiles(source, scan_source(source, processes=1)).select(range(n)))
        for name, source in sources.items()
    }
    work: dict[str, Callable[[], object]] = {
        "folder": lambda: scan_source(phantom.train, processes=1),
        "zip": lambda: scan_source(archive, processes=1),
        "zipfile": lambda: read_with_zipfile(archive, read_headers),
        "decoded": lambda: decode_chunk(jobs["folder"]),
        "decoded zip": lambda: decode_chunk(jobs["zip"]),
        "decoded zipfile": lambda: read_with_zipfile(archive, lambda member: read_slice(io.BytesIO(member.read()))),
    }
    rates: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(5):
        for name, run in work.items():
            began = time.process_time()  # one process: independent of other work on the machine
            run()
            rates[name].append(n / (time.process_time() - began))
    folder_rate, zip_rate, peer_headers, decoded, decoded_zip, peer = map(statistics.median, rates.values())
    return [
        Figure("headers from a folder, one process", folder_rate, "files/s", "", ">= 200", folder_rate >= 200),
        Figure(
            "headers from a zip, one process",
            zip_rate,
            "files/s",
            f"zipfile {peer_headers:.0f}",
            ">= half of folder",
            zip_rate >= folder_rate / 2,
        ),
        Figure("slices decoded from a folder", decoded, "files/s", "", ">= 50", decoded >= 50),
        Figure(
            "slices decoded from a zip",
            decoded_zip,
            "files/s",
            f"zipfile {peer:.0f}",
            ">= 0.9 of it",
            decoded_zip >= 0.9 * peer,
        ),
    ]


def read_with_zipfile(archive: Path, read: Callable[[Any], object]) -> None:
    """Let `read` read every member, opened by the standard library."""
    with zipfile.ZipFile(archive) as packed:
        for name in packed.namelist():
            with packed.open(name) as member:
                read(member)


def synthetic_scan(n: int) -> pd.DataFrame:
    """Return the scan of `n` slices in series of 34, half of them tilted, in random order."""
    random = np.random.default_rng(0)
    number = random.permutation(n)
    series, position = number // 34, number % 34
    tilt = np.where(series % 2, np.radians(15), 0)
    values: dict[str, object] = dict.fromkeys(SCANNED, 0)
    values |= {
        "file": [f"ID_{i * 7919:09x}.dcm" for i in range(n)],
        "slice_id": [f"ID_{i * 7919:09x}" for i in range(n)],
        "patient_id": [f"ID_p{s // 2}" for s in series],
        "study_id": [f"ID_t{s}" for s in series],
        "series_id": [f"ID_s{s}" for s in series],
        "pos_x": -120.0,
        "pos_y": -position * 5 * np.sin(tilt),
        "pos_z": position * 5 * np.cos(tilt),
        "orientation_0": 1.0,
        "orientation_4": np.cos(tilt),
        "orientation_5": np.sin(tilt),
        "transfer_syntax": "1.2.840.10008.1.2.1",
        "defect": "",
    }
    return pd.DataFrame(values)[list(SCANNED)].astype(SCANNED)


def write_index(path: Path, n: int) -> None:
    """Write the index of a zip64 with `n` members like the challenge's zip, without their content."""
    entries = bytearray()
    for number in range(n):
        name = b"rsna-intracranial-hemorrhage-detection/stage_2_train/ID_%09x.dcm" % (number * 7919)
        wide = struct.pack("<HHQ", 1, 8, number * 200_000)
        numbers = (45, 45, 0, 8, 0, 0, number, 200_000, 525_000, len(name), len(wide), 0, 0, 0, 0, 0xFFFFFFFF)
        entries += ENTRY.pack(b"PK\1\2", *numbers) + name + wide
    end = END64.pack(b"PK\6\6", 44, 45, 45, 0, 0, n, n, len(entries), 4)
    end += LOCATOR64.pack(b"PK\6\7", 0, 4 + len(entries), 1)
    end += END.pack(b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(b"PK\3\4" + bytes(entries) + end)


def timed(work: Callable[[], T]) -> tuple[float, T]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def peak() -> float:
    """Return the peak memory of this process in MB."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (1 << 20 if sys.platform == "darwin" else 1 << 10)


if __name__ == "__main__":
    main()
