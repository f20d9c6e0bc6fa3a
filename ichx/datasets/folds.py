"""Patient-grouped folds, stratified over all six labels. Folds are read in `dataset` and imported in `fold_import`."""

import hashlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.fold_numbers import TRAIN_ONLY
from ichx.errors import InvalidInputError
from ichx.labels import LABELS
from ichx.text import format_count

MOVE_PASSES: Final = 20
"""Maximum number of passes that move single patients; a pass without a change is the last one."""

SWAP_PASSES: Final = 4
SWAP_PAIRS: Final = 4_000_000
"""Maximum number of passes that swap two patients, and of pairs per pass: more would take longer than reading."""


def assign_folds(
    slice_ids: npt.NDArray[np.object_],
    patients: npt.NDArray[np.object_],
    labels: npt.NDArray[np.float32],
    k: int,
    seed: int = 0,
) -> npt.NDArray[np.int16]:
    """Return the fold of each slice, (N,) from 0 to `k` - 1; the slices of a patient are in one fold.

    A greedy assignment, large patients first, is followed by moves of single patients and swaps of two. All minimize
    the sum over folds of the squared shares of slices and of positives of each label. The result depends neither on the
    order of rows nor on the names of patients.

    Args:
        slice_ids: (N,)
        patients: (N,)
        labels: (N, 6)
        k: Number of folds.
        seed: Seed of the order of patients with equal shares.

    Raises:
        InvalidInputError: There are fewer than two folds, or fewer patients than folds.
    """
    if k < 2:
        raise InvalidInputError(f"Invalid number of folds: {k}.", "Use at least 2.")
    order = np.argsort(slice_ids.astype(str), kind="stable")
    _, first, patient = np.unique(patients[order].astype(str), return_index=True, return_inverse=True)
    renumber = np.empty(len(first), np.int64)
    renumber[np.argsort(first, kind="stable")] = np.arange(len(first))
    patient = renumber[patient]  # by their first slice id, independent of names
    if len(first) < k:
        raise InvalidInputError(
            f"Cannot split {format_count(len(first), 'patient')} into {k} folds.",
            f"Use fewer folds, or add slices of at least {format_count(k - len(first), 'more patient')}.",
        )
    counts = np.zeros((len(first), 1 + len(LABELS)))
    np.add.at(counts, patient, np.column_stack([np.ones(len(order)), labels[order] > 0.5]))
    totals = counts.sum(axis=0)
    shares = counts / np.where(totals > 0, totals, 1)
    fold = _swap(shares, _move(shares, _assign(shares, k, seed), k), k)
    result = np.empty(len(order), np.int16)
    result[order] = fold[patient]
    return result


def rare_labels(patients: npt.NDArray[np.object_], labels: npt.NDArray[np.float32], k: int) -> dict[str, int]:
    """Return the labels that fewer than `k` patients have, with the number of these patients."""
    positive = {name: len(np.unique(patients[labels[:, i] > 0.5].astype(str))) for i, name in enumerate(LABELS)}
    return {name: count for name, count in positive.items() if count < k}


def fold_prevalences(labels: npt.NDArray[np.float32], folds: npt.NDArray[np.int16], k: int) -> npt.NDArray[np.float64]:
    """Return the share of positive slices among the known ones, per fold from 0 and label, (k, 6); NaN without any."""
    labels, folds = labels[folds >= 0], folds[folds >= 0]

    def count(rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        return np.stack([np.bincount(folds, weights=column, minlength=k) for column in rows.T], 1)

    known, positives = count(~np.isnan(labels)), count(labels > 0.5)
    shares = np.divide(positives, known, out=np.full(positives.shape, np.nan), where=known > 0)
    return np.asarray(shares, np.float64)


@dataclass(frozen=True)
class Leak:
    """A patient with slices in more than one fold."""

    patient: str
    slices: int
    folds: dict[int, int]
    """Number of slices by fold."""
    examples: dict[int, str]
    """A slice id by fold."""


def find_leaks(
    slice_ids: npt.NDArray[np.object_], patients: npt.NDArray[np.object_], folds: npt.NDArray[np.int16]
) -> list[Leak]:
    """Return the patients with slices in more than one fold, those with the most slices first.

    `TRAIN_ONLY` counts as a fold: its slices train every fold that scores other slices of the patient. The arguments
    are (N,). Raises `ValueError` for another negative fold.
    """
    if len(folds) and folds.min() < TRAIN_ONLY:
        raise ValueError("a slice has no fold")
    codes, names = pd.factorize(patients)
    k = int(folds.max(initial=TRAIN_ONLY)) + 2
    cell, first, count = np.unique(codes * k + folds + 1, return_index=True, return_counts=True)
    owner, starts, parts = np.unique(cell // k, return_index=True, return_counts=True)
    leaks = []
    for split in np.flatnonzero(parts > 1):
        of_patient = range(starts[split], starts[split] + parts[split])
        sizes = {int(cell[c] % k) - 1: int(count[c]) for c in of_patient}
        examples = {int(cell[c] % k) - 1: str(slice_ids[first[c]]) for c in of_patient}
        leaks.append(Leak(str(names[owner[split]]), sum(sizes.values()), sizes, examples))
    return sorted(leaks, key=lambda leak: (-leak.slices, leak.patient))


def fold_digest(slice_ids: npt.NDArray[np.object_], folds: npt.NDArray[np.int16]) -> str:
    """Return 16 hex digits of the slice ids and their folds, independent of the order of rows."""
    order = np.argsort(slice_ids.astype(str), kind="stable")
    lines = (f"{slice_id}\t{fold}\n" for slice_id, fold in zip(slice_ids[order], folds[order], strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def _assign(shares: npt.NDArray[np.float64], k: int, seed: int) -> npt.NDArray[np.int64]:
    """Return each patient's fold, (P,): large shares first, each to the fold where the sum of squares grows least.

    Growth is least in an empty fold, so that no fold remains empty.
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
    """Return `fold` after moving single patients, each to the fold that reduces the sum of squares most."""
    fold, filled = fold.copy(), _filled(shares, fold, k)
    for _ in range(MOVE_PASSES):
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
    """Return `fold` after swapping pairs of patients, each patient with the one that reduces the sum of squares most.

    This balances labels of few patients, where no single move helps. In a large dataset only the patients with the
    largest shares are swapped, with any other patient.
    """
    fold, filled = fold.copy(), _filled(shares, fold, k)
    candidates = np.argsort(-shares.max(axis=1), kind="stable")[: max(SWAP_PAIRS // len(shares), 1)]
    for _ in range(SWAP_PASSES):
        swapped = 0
        for patient in candidates:
            here = int(fold[patient])
            gain = shares - shares[patient]
            # Swapping p of a and q of b changes the sum of squares by twice (q - p).(F_a - F_b + q - p).
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
    """Return the sums of `shares` by fold, (k, 7)."""
    sums = [np.bincount(fold, weights=shares[:, i], minlength=k) for i in range(shares.shape[1])]
    return np.stack(sums, axis=1).astype(np.float64)


def _overlap(filled: npt.NDArray[np.float64], share: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the scalar products of the rows of `filled` (..., 7) with `share` (7,), or with its rows.

    The rounding of `@` depends on the processor: near ties would be resolved differently on another machine.
    """
    return np.asarray((filled * share).sum(axis=-1))
