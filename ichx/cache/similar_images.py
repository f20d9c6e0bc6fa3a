"""Pairs of similar slices by their perceptual hashes (`ichx.cache.image_hash`), in blocks of a matrix product.

Cosines are first estimated in a random projection to few dimensions, then in one to more. Each loses a pair at the
threshold with a probability of about `LOSS`, and one well above it hardly ever. Only the pairs that remain are compared
exactly. The time grows with the square of the number of slices.
"""

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from ichx.cache.image_hash import LENGTH, SIMILAR
from ichx.datasets.ingest import ProgressCallback
from ichx.worker_pool import worker_count

LOSS: Final = 3.0
"""How far an estimate may be below the least cosine, in standard deviations: a loss of 0.13 % at the threshold."""
UNRELATED: Final = 3.6
"""How far the estimates of unrelated slices must be below that, in standard deviations: 1 of 6,000 remains."""
FINER: Final = 4
"""How many times more dimensions the second projection has."""
ROWS, COLUMNS = 1024, 2048
"""Slices per block: its estimates fit into the cache of a core."""
PART: Final = 4096
"""Pairs or slices that are processed at a time otherwise."""
MOST: Final = 0.999
"""Estimates are compared with at most about this cosine."""
ROUNDING: Final = 1e-6
"""How far the cosine of two equal hashes may be below 1."""

Hashes = npt.NDArray[np.int8]
FloatMatrix = npt.NDArray[np.float32]
Pairs = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], FloatMatrix]
"""First slices, second slices and cosines."""


@dataclass(frozen=True)
class SimilarPairs:
    """Pairs of similar slices."""

    first: npt.NDArray[np.int64]
    """Rows of the first dataset, (P,)."""
    second: npt.NDArray[np.int64]
    """Rows of the second one, or of the same, then above `first`."""
    similarity: npt.NDArray[np.float32]
    """Cosines, (P,)."""


def find_similar(
    hashes: Hashes,
    others: Hashes | None = None,
    *,
    groups: npt.NDArray[np.int64] | None = None,
    least: float = SIMILAR,
    processes: int | None = None,
    progress: ProgressCallback | None = None,
) -> SimilarPairs:
    """Return the pairs of slices whose cosine is at least `least`.

    Args:
        hashes: (N, LENGTH); rows of zeros have no hash.
        others: (M, LENGTH) of another dataset; None to compare `hashes` among themselves.
        groups: (N,) patients, if `others` is None: pairs of one patient are not returned.
        least: Least cosine, at least 0.5.
        processes: Threads; one per core when None.
        progress: Receives (done, total) blocks of rows.
    """
    search = _Search.of(hashes, others, groups if others is None else None, least)
    starts = range(0, len(search.left.coarse), ROWS)
    found = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
    threads = ThreadPoolExecutor(worker_count(processes, max(1, len(starts))), thread_name_prefix="ichx-similar")
    try:
        with threadpool_limits(1, "blas"):  # threads of BLAS would compete with these
            for done, pairs in enumerate(threads.map(search.pairs_of, starts), 1):
                found += pairs
                if progress is not None:
                    progress(done, len(starts))
    finally:
        threads.shutdown(cancel_futures=True)
    first, second, similarity = (np.concatenate(of) for of in zip(*found, strict=True))
    order = np.lexsort([second, first])
    return SimilarPairs(first[order], second[order], similarity[order])


@dataclass(frozen=True)
class _Projected:
    """Slices that have a hash."""

    hashes: Hashes
    """Those of all slices, (N, LENGTH)."""
    rows: npt.NDArray[np.int64]
    """The slices that have one, (n,)."""
    coarse: FloatMatrix
    """Unit vectors of the first projection, (n, k), then zeros up to complete blocks."""
    fine: FloatMatrix
    """Those of the second one, (n, FINER * k)."""

    @classmethod
    def of(cls, hashes: Hashes, dimensions: int) -> "_Projected":
        """Project `hashes`; `dimensions` are those of the first projection."""
        rows = np.flatnonzero(hashes.any(axis=1))
        coarse = np.zeros((-(-len(rows) // COLUMNS) * COLUMNS, dimensions), np.float32)
        fine = np.empty((len(rows), FINER * dimensions), np.float32)
        for start in range(0, len(rows), PART):
            part = slice(start, min(start + PART, len(rows)))
            projected = hashes[rows[part]].astype(np.float32) @ _projection(FINER * dimensions)
            fine[part] = _unit(projected)
            coarse[part] = _unit(projected[:, :dimensions])
        return cls(hashes, rows, coarse, fine)


@dataclass(frozen=True)
class _Search:
    """The search for similar pairs in blocks."""

    left: _Projected
    right: _Projected
    """The same object if the pairs within one set are searched."""
    groups: npt.NDArray[np.int64] | None
    least: float

    @classmethod
    def of(cls, hashes: Hashes, others: Hashes | None, groups: npt.NDArray[np.int64] | None, least: float) -> "_Search":
        """Prepare the search."""
        # The more similar the pairs, the fewer dimensions separate them from others.
        needed = ((LOSS + UNRELATED) / math.atanh(min(least, MOST))) ** 2 + 3
        dimensions = min(LENGTH // FINER, 16 * math.ceil(needed / 16))
        left = _Projected.of(hashes, dimensions)
        return cls(left, left if others is None else _Projected.of(others, dimensions), groups, least)

    def pairs_of(self, start: int) -> list[Pairs]:
        """Return the pairs of the block of rows from `start`: slices and cosines."""
        left, right = self.left.coarse[start : start + ROWS], self.right.coarse
        lowest = _lowest(self.least, left.shape[1])
        cosines, similar = np.empty((ROWS, COLUMNS), np.float32), np.empty((ROWS, COLUMNS), bool)
        found: list[Pairs] = []
        first_column = start // COLUMNS * COLUMNS if self.left is self.right else 0  # each pair once
        for column in range(first_column, len(right), COLUMNS):
            np.matmul(left, right[column : column + COLUMNS].T, out=cosines)
            np.greater_equal(cosines, lowest, out=similar)
            words = np.flatnonzero(similar.reshape(-1).view(np.uint64))  # eight flags each: almost all are 0
            places = (words[:, None] * 8 + np.arange(8)).ravel()
            rows, columns = np.divmod(places[similar.reshape(-1)[places]], COLUMNS)
            for part in range(0, len(rows), PART):
                found.append(self._exact(start + rows[part : part + PART], column + columns[part : part + PART]))
        return [pairs for pairs in found if len(pairs[0])]

    def _exact(self, a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> Pairs:
        """Return those pairs of the rows `a` and `b` of the projections that are similar."""
        left, right = self.left, self.right
        if left is right:
            use = a < b
            if self.groups is not None:
                use &= self.groups[left.rows[a]] != self.groups[right.rows[b]]
            a, b = a[use], b[use]
        use = np.einsum("ij,ij->i", left.fine[a], right.fine[b]) >= _lowest(self.least, left.fine.shape[1])
        first, second = left.rows[a[use]], right.rows[b[use]]
        x, y = left.hashes[first].astype(np.float32), right.hashes[second].astype(np.float32)
        cosines = np.einsum("ij,ij->i", x, y) / np.sqrt(np.einsum("ij,ij->i", x, x) * np.einsum("ij,ij->i", y, y))
        use = cosines >= self.least - ROUNDING
        return first[use], second[use], cosines[use]


def _lowest(least: float, dimensions: int) -> np.float32:
    """Return the least estimate of a pair with the cosine `least`, by the transform of Fisher for correlations."""
    return np.float32(math.tanh(math.atanh(min(least, MOST)) - LOSS / math.sqrt(dimensions - 3)))


def _unit(vectors: FloatMatrix) -> FloatMatrix:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.float32(1e-6)), np.float32)


@lru_cache(maxsize=4)
def _projection(dimensions: int) -> FloatMatrix:
    """Return orthonormal columns, (LENGTH, dimensions), the same in every process."""
    random = np.random.Generator(np.random.Philox(20190901)).standard_normal((LENGTH, dimensions))
    return np.linalg.qr(random)[0].astype(np.float32)
