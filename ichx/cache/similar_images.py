"""Pairs of similar slices by their perceptual hashes (`ichx.cache.image_hash`), in blocks of a matrix product.

Cosines are first estimated in a random projection to few dimensions, which loses a copy with a probability below 1e-3;
only pairs above a lower threshold are compared exactly. The time grows with the square of the number of slices.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt

from ichx.cache.image_hash import LENGTH, SIMILAR
from ichx.datasets.ingest import ProgressCallback

DIMENSIONS: Final = 64
"""Dimensions of the projection."""
MARGIN: Final = 0.13
"""How far an estimate may be below the exact cosine: almost four standard deviations of the projection's error."""
BLOCK: Final = 4096
"""Slices per block."""
EXACT: Final = 65_536
"""Pairs that are compared exactly at a time."""

Hashes = npt.NDArray[np.int8]
FloatMatrix = npt.NDArray[np.float32]


@dataclass(frozen=True)
class SimilarPairs:
    """Pairs of similar slices."""

    first: npt.NDArray[np.int64]
    """Rows of the first dataset, (P,)."""
    second: npt.NDArray[np.int64]
    """Rows of the second one, or of the same, then above `first`."""
    similarity: npt.NDArray[np.float32]
    """Cosines, (P,)."""

    def take(self, rows: npt.NDArray[np.bool_]) -> "SimilarPairs":
        """Return the pairs of a mask."""
        return SimilarPairs(self.first[rows], self.second[rows], self.similarity[rows])


def find_similar(
    hashes: Hashes,
    others: Hashes | None = None,
    *,
    groups: npt.NDArray[np.int64] | None = None,
    least: float = SIMILAR,
    progress: ProgressCallback | None = None,
) -> SimilarPairs:
    """Return the pairs of slices whose cosine is at least `least`.

    Args:
        hashes: (N, LENGTH); rows of zeros have no hash.
        others: (M, LENGTH) of another dataset; None to compare `hashes` among themselves.
        groups: (N,) patients, if `others` is None: pairs of one patient are not returned.
        least: Least cosine.
        progress: Receives (done, total) blocks.
    """
    with_hash = np.flatnonzero(hashes.any(axis=1))
    others_with_hash = with_hash if others is None else np.flatnonzero(others.any(axis=1))
    compared = hashes if others is None else others
    left = _projected(hashes, with_hash)
    right = left if others is None else _projected(compared, others_with_hash)
    found: list[SimilarPairs] = []
    blocks = [(a, b) for a in range(0, len(left), BLOCK) for b in range(a if others is None else 0, len(right), BLOCK)]
    for done, (a, b) in enumerate(blocks, 1):
        for rows, columns in _candidates(left[a : a + BLOCK], right[b : b + BLOCK], least - MARGIN):
            first, second = with_hash[a + rows], others_with_hash[b + columns]
            if others is None:
                use = first < second
                if groups is not None:
                    use &= groups[first] != groups[second]
                first, second = first[use], second[use]
            similarity = _cosines(hashes, first, compared, second)
            found.append(SimilarPairs(first, second, similarity).take(similarity >= least))
        if progress is not None:
            progress(done, len(blocks))
    parts = [(p.first, p.second, p.similarity) for p in found]
    empty = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    first, second, similarity = (np.concatenate(of) for of in zip(empty, *parts, strict=True))
    order = np.lexsort([second, first])
    return SimilarPairs(first[order], second[order], similarity[order])


def _candidates(
    left: FloatMatrix, right: FloatMatrix, least: float
) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Yield rows and columns of the pairs whose estimated cosine is at least `least`."""
    places = np.flatnonzero(left @ right.T >= least)
    for start in range(0, len(places), EXACT):
        rows, columns = np.divmod(places[start : start + EXACT], len(right))
        yield rows, columns


def _cosines(
    hashes: Hashes, first: npt.NDArray[np.int64], others: Hashes, second: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32]:
    """Return the exact cosines of pairs, (P,)."""
    found = np.empty(len(first), np.float32)
    for start in range(0, len(first), BLOCK):
        part = slice(start, start + BLOCK)
        a, b = hashes[first[part]].astype(np.float32), others[second[part]].astype(np.float32)
        lengths = np.sqrt(np.einsum("ij,ij->i", a, a) * np.einsum("ij,ij->i", b, b))
        found[part] = np.einsum("ij,ij->i", a, b) / lengths
    return found


def _projected(hashes: Hashes, rows: npt.NDArray[np.int64]) -> FloatMatrix:
    """Return unit vectors of the random projection of `rows`, (n, DIMENSIONS)."""
    found = np.empty((len(rows), DIMENSIONS), np.float32)
    for start in range(0, len(rows), BLOCK):
        part = hashes[rows[start : start + BLOCK]].astype(np.float32) @ _projection()
        found[start : start + BLOCK] = part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-6)
    return found


@lru_cache(maxsize=1)
def _projection() -> FloatMatrix:
    """Return orthonormal columns, (LENGTH, DIMENSIONS), the same in every process."""
    random = np.random.Generator(np.random.Philox(20190901)).standard_normal((LENGTH, DIMENSIONS))
    return np.linalg.qr(random)[0].astype(np.float32)
