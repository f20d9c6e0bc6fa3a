"""Adding a replica of CQ500 as a format, compared with adding the same DICOM files as a plain folder.

The replica has the names, folders, columns and five series per study of CQ500, with few and small images. As a format,
`reads.csv` is read, series are selected, labels, readers and flags are joined, and patients are compared. Both are
measured in CPU time, workers included, so that other work on the machine counts less; the first round warms up.
"""

import os
import shutil
import statistics
import tempfile
from pathlib import Path

import numpy as np
from common import Figure

from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.formats.cq500 import write_reads, write_study
from ichx.labels import LABELS
from ichx.phantom.study import PhantomStudy
from ichx.project import Project
from ichx.store import open_store
from ichx.workspace import init_workspace

STUDIES = 491
SLICES = 8
SIZE = 32
REPEATS = 3


def measure(quick: bool) -> list[Figure]:
    """Return the figures of the replica."""
    count = 40 if quick else STUDIES
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        source = root / "cq500"
        files = _write(source, count)
        seconds: dict[str, list[float]] = {"plain": [], "cq500": []}
        for number in range(REPEATS + 1):
            for kind, of in seconds.items():
                spent = _add(root / f"{kind}-{number}", source, None if kind == "plain" else kind)
                if number:
                    of.append(spent)
    plain, found = (statistics.median(of) for of in seconds.values())
    ratio = found / plain
    what = f"plain {plain:.3g} s, as cq500 {found:.3g} s; {count} studies, {files:,} files"
    return [Figure("CQ500 replica: catalog against plain DICOM, CPU time", ratio, "x", what, "1.2 x", ratio <= 1.2)]


def _write(folder: Path, count: int) -> int:
    """Write a replica of `count` studies of random images; return the number of files."""
    random = np.random.default_rng(0)
    folder.mkdir()
    truth, files = [], 0
    for number in range(count):
        labels = np.zeros((SLICES, len(LABELS)), np.uint8)
        labels[:, int(random.integers(0, len(LABELS)))] = random.random() < 0.5
        labels[:, -1] = labels.max(axis=1)
        hu = random.integers(-100, 200, (SLICES, SIZE, SIZE)).astype(np.int16)
        study = PhantomStudy(hu, np.zeros(hu.shape, np.uint8), labels, 0.5, 3.0)
        files += write_study(folder, number, study)
        truth.append(labels.max(axis=0))
    write_reads(folder, truth, 0)
    return files


def _add(root: Path, source: Path, name: str | None) -> float:
    """Add the replica to a new workspace; return the CPU seconds of this process and its workers."""
    workspace = init_workspace(root)
    with open_store(workspace) as store:
        before = sum(os.times()[:4])
        add_dataset(Project(workspace, store), AddRequest("cq500", source, folds=0, format=name))
        spent = sum(os.times()[:4]) - before
    shutil.rmtree(root)
    return spent
