"""Patient-grouped folds, stratified over all six labels.

A patient's slices stay together. The assignment is a pure function of slice ids, patients, labels, `k` and `seed`; it
does not depend on the order of the rows or on how patients are named. Not for reading or storing folds
(`ichx.datasets.dataset`).
"""

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.errors import IchxError
from ichx.labels import LABELS
from ichx.text import format_count

SWEEPS: Final = 20
"""Most passes of moving single patients; they stop earlier when a pass changes nothing."""

SWAP_SWEEPS: Final = 4
SWAP_PAIRS: Final = 4_000_000
"""Most passes of exchanging two patients, and most pairs that a pass looks at: more would take longer than reading."""


def assign_folds(
    slice_ids: npt.NDArray[np.object_],
    patients: npt.NDArray[np.object_],
    labels: npt.NDArray[np.float32],
    k: int,
    seed: int = 0,
) -> npt.NDArray[np.int16]:
    """Return the fold, 0 to k - 1, of each slice, (N,).

    `slice_ids` and `patients` are (N,), `labels` (N, 6). First the patients who hold the largest share of anything are
    dealt to the fold that lacks it most, then single patients are moved, and pairs of them exchanged, while that evens
    the folds out. What is evened out is, squared and relative to the whole, each fold's number of slices and of
    positives of each label.

    Raises `IchxError` for fewer than two folds or fewer patients than folds.
    """
    if k < 2:
        raise IchxError(f"{format_count(k, 'fold')} cannot be made", "use at least 2")
    order = np.argsort(slice_ids.astype(str), kind="stable")
    _, first, patient = np.unique(patients[order].astype(str), return_index=True, return_inverse=True)
    renumber = np.empty(len(first), np.int64)
    renumber[np.argsort(first, kind="stable")] = np.arange(len(first))
    patient = renumber[patient]  # numbered by their first slice id, so that no name counts
    if len(first) < k:
        raise IchxError(
            f"{format_count(len(first), 'patient')} cannot be divided into {k} folds",
            f"use fewer folds, or add slices of at least {format_count(k - len(first), 'more patient')}",
        )
    counts = np.zeros((len(first), 1 + len(LABELS)))
    np.add.at(counts, patient, np.column_stack([np.ones(len(order)), labels[order] > 0.5]))
    totals = counts.sum(axis=0)
    shares = counts / np.where(totals > 0, totals, 1)
    fold = _swap(shares, _move(shares, _deal(shares, k, seed), k), k)
    result = np.empty(len(order), np.int16)
    result[order] = fold[patient]
    return result


def rare_labels(patients: npt.NDArray[np.object_], labels: npt.NDArray[np.float32], k: int) -> dict[str, int]:
    """Return the labels that occur in fewer patients than `k` folds, with the number of those patients."""
    positive = {name: len(np.unique(patients[labels[:, i] > 0.5].astype(str))) for i, name in enumerate(LABELS)}
    return {name: count for name, count in positive.items() if count < k}


def fold_prevalences(labels: npt.NDArray[np.float32], folds: npt.NDArray[np.int16], k: int) -> npt.NDArray[np.float64]:
    """Return each fold's share of positive slices per label, (k, 6); NaN for a fold without slices."""
    slices = np.bincount(folds, minlength=k).astype(float)
    positives = np.stack([np.bincount(folds, weights=labels[:, i] > 0.5, minlength=k) for i in range(len(LABELS))], 1)
    shares = np.divide(positives, slices[:, None], out=np.full(positives.shape, np.nan), where=slices[:, None] > 0)
    return np.asarray(shares, np.float64)


@dataclass(frozen=True)
class Leak:
    """A patient with slices in more than one fold: `folds` counts them, `examples` names a slice of each fold."""

    patient: str
    slices: int
    folds: dict[int, int]
    examples: dict[int, str]


def find_leaks(
    slice_ids: npt.NDArray[np.object_], patients: npt.NDArray[np.object_], folds: npt.NDArray[np.int16]
) -> list[Leak]:
    """Return each patient whose slices are in more than one fold, all (N,), by the number of slices, most first.

    Every slice is in a fold, 0 or more: raises `ValueError` for one that is in none.
    """
    if len(folds) and folds.min() < 0:
        raise ValueError("a slice is in no fold")
    codes, names = pd.factorize(patients)
    k = int(folds.max()) + 1
    cell, first, count = np.unique(codes * k + folds, return_index=True, return_counts=True)
    owner, starts, parts = np.unique(cell // k, return_index=True, return_counts=True)
    leaks = []
    for split in np.flatnonzero(parts > 1):
        of_patient = range(starts[split], starts[split] + parts[split])
        sizes = {int(cell[c] % k): int(count[c]) for c in of_patient}
        examples = {int(cell[c] % k): str(slice_ids[first[c]]) for c in of_patient}
        leaks.append(Leak(str(names[owner[split]]), sum(sizes.values()), sizes, examples))
    return sorted(leaks, key=lambda leak: (-leak.slices, leak.patient))


def fold_digest(slice_ids: npt.NDArray[np.object_], folds: npt.NDArray[np.int16]) -> str:
    """Return 16 hex digits that two assignments share exactly when the same slices are in the same folds."""
    order = np.argsort(slice_ids.astype(str), kind="stable")
    lines = (f"{slice_id}\t{fold}\n" for slice_id, fold in zip(slice_ids[order], folds[order], strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def _deal(shares: npt.NDArray[np.float64], k: int, seed: int) -> npt.NDArray[np.int64]:
    """Return each patient's fold, (P,): large shares first, each to the fold where the sum of squares grows least.

    An empty fold is always the least, so that none stays empty while there are as many patients as folds.
    """
    random = np.random.default_rng(seed)
    shuffled = random.permutation(len(shares))
    sequence = shuffled[np.argsort(-shares[shuffled].max(axis=1), kind="stable")]
    filled = np.zeros((k, shares.shape[1]))
    fold = np.empty(len(shares), np.int64)
    for patient in sequence:
        chosen = int(np.argmin(_overlap(filled, shares[patient])))
        filled[chosen] += shares[patient]
        fold[patient] = chosen
    return fold


def _move(shares: npt.NDArray[np.float64], fold: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.int64]:
    """Return `fold` after moving one patient at a time to where the sum of squared fold totals falls most."""
    fold, filled = fold.copy(), _filled(shares, fold, k)
    for _ in range(SWEEPS):
        moved = 0
        for patient in np.argsort(-shares.max(axis=1), kind="stable"):
            share, here = shares[patient], int(fold[patient])
            # Moving from a to b changes the sum of squares by 2 (s.F_b - s.F_a + s.s).
            overlap = _overlap(filled, share)
            change = overlap - overlap[here] + _overlap(share, share)
            change[here] = 0
            there = int(np.argmin(change))
            if change[there] < -1e-15:
                filled[here] -= share
                filled[there] += share
                fold[patient] = there
                moved += 1
        if not moved:
            break
    return fold


def _swap(shares: npt.NDArray[np.float64], fold: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.int64]:
    """Return `fold` after exchanging patients of two folds where the sum of squared fold totals falls most.

    It evens out the labels of few patients, of whom none can be moved alone. Of many patients, those with the largest
    shares look for a partner among all.
    """
    fold, filled = fold.copy(), _filled(shares, fold, k)
    seeking = np.argsort(-shares.max(axis=1), kind="stable")[: max(SWAP_PAIRS // len(shares), 1)]
    for _ in range(SWAP_SWEEPS):
        swapped = 0
        for patient in seeking:
            here = int(fold[patient])
            gain = shares - shares[patient]
            # Giving p of a for q of b changes the sum of squares by twice (q - p).(F_a - F_b + q - p).
            change = _overlap(gain, (filled[here] - filled)[fold] + gain)
            change[fold == here] = 0
            partner = int(np.argmin(change))
            if change[partner] < -1e-15:
                there = int(fold[partner])
                filled[here] += gain[partner]
                filled[there] -= gain[partner]
                fold[patient], fold[partner] = there, here
                swapped += 1
        if not swapped:
            break
    return fold


def _filled(shares: npt.NDArray[np.float64], fold: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.float64]:
    """Return each fold's total of `shares`, (k, 7)."""
    sums = [np.bincount(fold, weights=shares[:, i], minlength=k) for i in range(shares.shape[1])]
    return np.stack(sums, axis=1).astype(np.float64)


def _overlap(filled: npt.NDArray[np.float64], share: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the scalar products of the rows of `filled` (..., 7) with `share` (7,), or with its rows.

    Not by `@`: how that rounds depends on the processor, and near ties would fall another way on another machine.
    """
    return np.asarray((filled * share).sum(axis=-1))
