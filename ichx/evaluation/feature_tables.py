"""Feature tables: the pooled features of all slices of a dataset, in one fold's network, as one memory-mapped file.

`NAME.npy` has a row of float16 per slice, in the order of the catalog; rows of slices that cannot be decoded are zero.
`NAME.json` is its manifest. While a table is created, `NAME.part` has its first rows and `NAME.progress` their number,
which is saved after them. The networks run in `ichx.experiments.member_features`.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BufferedRandom, BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from ichx import __version__
from ichx.errors import ChangedDataError, CorruptFileError
from ichx.files import flush_folder, write_error, write_text
from ichx.text import parse_json

FORMAT: Final = 1
FLUSH_BYTES: Final = 16_000_000
"""Bytes of rows after which they are saved: a kill loses at most these."""
_REMEDY: Final = "Delete it; the next run that needs these features computes them again."

Rows = npt.NDArray[np.int64]
Values = npt.NDArray[np.float16]


@dataclass(frozen=True)
class FeatureSource:
    """What the values of a feature table depend on."""

    experiment: str
    """Id of the experiment, which copies of its store have too."""
    fold: int
    weights: str
    """SHA-256 of the fold's weights."""
    recipe: str
    """Digest of the recipe."""
    folds: str
    """Digest of the folds."""
    dataset: str
    version: int
    catalog: str
    """Digest of the dataset version."""
    view: str
    precision: str
    """Precision of the network, e.g. `fp32`."""


@dataclass(frozen=True)
class FeatureTable:
    """A complete feature table."""

    path: Path
    source: FeatureSource
    slices: int
    width: int
    invalid: tuple[int, ...]
    """Rows of slices that cannot be decoded."""
    digest: str
    """SHA-256 of the file."""

    @property
    def valid(self) -> npt.NDArray[np.bool_]:
        """Which rows have features, `(slices,)`."""
        valid = np.ones(self.slices, bool)
        valid[list(self.invalid)] = False
        return valid

    def open(self) -> Values:
        """Return the features `(slices, width)`, mapped into memory: only rows that are read take memory.

        Raises:
            ChangedDataError: The file is missing, or has another size.
        """
        try:
            values: Values = np.load(self.path, mmap_mode="r")
        except FileNotFoundError as error:
            raise ChangedDataError(f"The feature table {self.path} is missing.", _REMEDY) from error
        except (OSError, ValueError) as error:
            raise CorruptFileError(f"Cannot read the feature table {self.path}: {error}.", _REMEDY) from error
        if values.shape != (self.slices, self.width) or values.dtype != np.float16:
            raise ChangedDataError(
                f"The feature table {self.path} has shape {values.shape} and type {values.dtype}, not "
                f"{(self.slices, self.width)} and float16.",
                _REMEDY,
            )
        return values


def manifest_path(path: Path) -> Path:
    """Return the manifest of the feature table `path`."""
    return path.with_suffix(".json")


def part_path(path: Path) -> Path:
    """Return the file of the first rows while the feature table `path` is created."""
    return path.with_suffix(".part")


def table_bytes(slices: int, width: int) -> int:
    """Return the size of a table's file in bytes."""
    return len(_header(slices, width)) + 2 * slices * width


def read_table(path: Path) -> FeatureTable | None:
    """Return the table at `path` as its manifest describes it; None if it is missing, incomplete or of another version.

    Raises:
        CorruptFileError: The manifest is damaged.
    """
    manifest = manifest_path(path)
    try:
        found: dict[str, Any] = parse_json(manifest.read_bytes())
        if found["format"] != FORMAT or path.stat().st_size != table_bytes(found["slices"], found["width"]):
            return None
        return FeatureTable(
            path,
            FeatureSource(**found["source"]),
            int(found["slices"]),
            int(found["width"]),
            tuple(map(int, found["invalid"])),
            str(found["sha256"]),
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(f"{manifest} is damaged: {error}.", _REMEDY) from error


class TableWriter:
    """Context manager that writes the rows of a table, and continues where an earlier writer has ended.

    The file of an older table, of other weights, is removed first. All methods raise `StorageError` if a file cannot be
    written.
    """

    def __init__(
        self, path: Path, source: FeatureSource, rows: Rows, shape: tuple[int, int], *, batch: int = 1
    ) -> None:
        """Create the writer; no other process may write this table.

        Args:
            path: The file of the table.
            source: What its values depend on.
            rows: The rows that get values, ascending.
            shape: Slices and width.
            batch: A resumed writer starts at a multiple of this number of rows, so that batches stay the same.
        """
        self.path, self.source, self.rows, self.shape = path, source, rows, shape
        self._batch = batch
        self._pending: list[Values] = []
        self._header = _header(*shape)
        self.done = 0
        """Number of `rows` that need not be computed."""

    def __enter__(self) -> Self:
        with self._storage_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            for stale in (manifest_path(self.path), self.path):
                stale.unlink(missing_ok=True)
            saved = self._saved()
            self.done = saved if saved == len(self.rows) else saved // self._batch * self._batch
            self._file: BufferedRandom = self._part.open("r+b" if self.done else "w+b")
            if not self.done:
                self._file.write(self._header)
                self._file.truncate(table_bytes(*self.shape))
        return self

    def __exit__(self, *_: object) -> None:
        """Save the pending rows."""
        try:
            self._flush()
        finally:
            self._file.close()

    def add(self, slice_ids: npt.NDArray[np.object_], values: Values) -> None:
        """Write the features `values` (n, width) of the next n rows; their ids are not stored."""
        if values.shape[1] != self.shape[1]:
            raise ValueError(f"{values.shape[1]} features, not {self.shape[1]}")
        self._pending.append(values)
        if sum(part.nbytes for part in self._pending) >= FLUSH_BYTES:
            self._flush()

    def finish(self) -> FeatureTable:
        """Complete the table: its file, then its manifest."""
        self._flush()
        if self.done != len(self.rows):
            raise ValueError(f"{self.done} of {len(self.rows)} rows")
        with self._storage_errors():
            self._file.seek(0)
            digest = hashlib.file_digest(self._file, "sha256").hexdigest()
        slices, width = self.shape
        invalid = tuple(np.setdiff1d(np.arange(slices), self.rows).tolist())
        manifest = {
            "format": FORMAT,
            "ichx": __version__,
            "source": asdict(self.source),
            "slices": slices,
            "width": width,
            "invalid": invalid,
            "sha256": digest,
        }
        write_text(manifest_path(self.path), json.dumps(manifest) + "\n", "the manifest of the features")
        with self._storage_errors():
            self._part.replace(self.path)  # last: without it a writer resumes
            flush_folder(self.path.parent)
            self._progress.unlink(missing_ok=True)
        return FeatureTable(self.path, self.source, slices, width, invalid, digest)

    @property
    def _part(self) -> Path:
        return part_path(self.path)

    @property
    def _progress(self) -> Path:
        return self.path.with_suffix(".progress")

    def _saved(self) -> int:
        """Return the number of rows that an earlier writer of the same table has saved."""
        try:
            found = parse_json(self._progress.read_bytes())
            complete = self._part.stat().st_size == table_bytes(*self.shape)
            return int(found["done"]) if complete and found["of"] == self._of() else 0
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return 0

    def _of(self) -> dict[str, Any]:
        """Return the facts by which a writer recognizes an unfinished file of this table."""
        rows = hashlib.sha256(np.ascontiguousarray(self.rows, np.int64).tobytes()).hexdigest()
        return {"format": FORMAT, "source": asdict(self.source), "shape": list(self.shape), "rows": rows}

    def _flush(self) -> None:
        """Save the pending rows, then their number."""
        if not self._pending:
            return
        values = np.concatenate(self._pending)
        rows = self.rows[self.done : self.done + len(values)]
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)
        with self._storage_errors():
            for start, stop in pairwise([*starts.tolist(), len(rows)]):
                self._file.seek(len(self._header) + 2 * self.shape[1] * int(rows[start]))
                self._file.write(np.ascontiguousarray(values[start:stop], "<f2").tobytes())
            self._file.flush()
            os.fsync(self._file.fileno())
        self._pending = []
        self.done += len(values)
        text = json.dumps({"of": self._of(), "done": self.done}) + "\n"
        write_text(self._progress, text, "the progress of the features")

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise write_error(self.path, "the features", error) from error


def _header(slices: int, width: int) -> bytes:
    """Return the header of a `.npy` file of float16 `(slices, width)`."""
    header = BytesIO()
    description = {"descr": "<f2", "fortran_order": False, "shape": (slices, width)}
    np.lib.format.write_array_header_1_0(header, description)
    return header.getvalue()
