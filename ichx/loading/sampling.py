"""Sampling: the rows and the order of an epoch, and the addressed random generators behind all random draws."""

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from ichx.labels import ANY, LABEL_GROUP, LABELS
from ichx.recipe import StageRecipe
from ichx.recipe_rules import PRIOR_SAMPLINGS

if TYPE_CHECKING:
    import pandas as pd

Int64Array = npt.NDArray[np.int64]

NEGATIVES, ORDER, AUGMENTATION, WINDOWS, MIXING, PLUGIN = range(6)
SERIES, COMPONENTS, STUDIES, SUBTYPES_DRAWN, PARTS, GROUPS = range(6, 12)
"""Purpose of a draw: the first number of its address, so that no two purposes share an address."""


class EpochAddress(NamedTuple):
    """The address of the random draws of an epoch."""

    seed: int
    fold: int
    stage: int
    epoch: int


def generator(*address: int) -> np.random.Generator:
    """Return the random generator at `address`, numbers from 0 to 2^64 - 1. Equal addresses give equal draws.

    Raises:
        ValueError: A number is out of range.
    """
    if any(not 0 <= number < 2**64 for number in address):
        raise ValueError(f"numbers of an address are 0 to 2^64 - 1, not {address}")
    # The length distinguishes (1,) from (1, 0). A hash as key takes half the time of NumPy's own seeding.
    packed = struct.pack(f"<{1 + len(address)}Q", len(address), *address)
    key = np.frombuffer(hashlib.blake2b(packed, digest_size=16).digest(), "<u8")
    return np.random.Generator(np.random.Philox(key=key))


def id_number(slice_id: str) -> int:
    """Return the number of a slice in an address, 0 to 2^64 - 1."""
    return int.from_bytes(hashlib.blake2b(slice_id.encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Population:
    """What samplings need to know of the rows of a dataset."""

    labels: npt.NDArray[np.float64]
    """`(n, 6)`, NaN where unknown."""
    studies: npt.NDArray[np.int64] | None = None
    """Code of the study of each row, `(n,)`; only for the samplings `studies` and `grouped`. It is that of the
    series where series are labelled."""
    shares: npt.NDArray[np.float64] | None = None
    """Share of the rows like this one that an epoch has, `(n,)` in (0, 1]; None: all. See `thinned`."""

    @classmethod
    def of(cls, slices: "pd.DataFrame", stages: Sequence[StageRecipe]) -> "Population":
        """Return what `stages` need to know of `slices`, rows of a dataset."""
        by_study = any(stage.sampling in ("studies", "grouped") for stage in stages)
        names = slices["study"]
        if LABEL_GROUP in slices:
            names = names.where(slices[LABEL_GROUP] == "", slices[LABEL_GROUP])
        studies = names.factorize()[0].astype(np.int64) if by_study else None
        shares = slices["share"].to_numpy(np.float64) if "share" in slices else None
        return cls(slices[list(LABELS)].to_numpy(np.float64), studies, shares)

    @property
    def any_positive(self) -> npt.NDArray[np.bool_]:
        """Whether each row has a hemorrhage, `(n,)`."""
        positive: npt.NDArray[np.bool_] = self.labels[:, LABELS.index(ANY)] > 0.5
        return positive


def sampled_rows(population: Population, rows: Int64Array, stage: StageRecipe, address: EpochAddress) -> Int64Array:
    """Return the rows (M,) of an epoch of `stage`, shuffled. The result depends only on the arguments.

    Args:
        population: Labels and studies of the dataset.
        rows: Candidates, in any order.
        stage: `sampling` `studies` draws `per_study` candidates of each study, or all that it has. `labels` draws as
            many rows as `redrawn`: half of them negative for `any`, a tenth positive for each subtype, with replacement
            if a subtype has fewer. Subtypes without a candidate leave their share to the others. `grouped` draws
            `per_study` candidates of each study, spread over its slices, which stay next to each other; slices of a
            study with fewer are repeated. For all other samplings see `epoch_rows`.
        address: The epoch.
    """
    candidates = np.sort(np.asarray(rows, np.int64))
    if stage.sampling == "grouped":
        return _grouped(population, candidates, stage.per_study, address)
    if stage.sampling == "studies":
        chosen = _of_each_study(population, candidates, stage.per_study, generator(STUDIES, *address))
    elif stage.sampling == "labels":
        chosen = _of_each_label(population, candidates, address)
    else:
        return epoch_rows(population.any_positive, rows, stage.sampling, address, population.shares)
    return generator(ORDER, *address).permutation(thinned(chosen, population.shares, address))


def thinned(chosen: Int64Array, shares: npt.NDArray[np.float64] | None, address: EpochAddress) -> Int64Array:
    """Return the sorted rows of `chosen` that remain when only a share of each part of a mixture is sampled.

    Of `m` chosen rows with the share `s`, `round(s m)` remain, drawn for each epoch, but at least one. Parts with the
    same share count as one.

    Args:
        chosen: Rows, ascending.
        shares: The share of every row of the dataset, `(n,)`; None: all rows remain.
        address: The epoch.
    """
    if shares is None or not len(chosen) or (of_rows := shares[chosen]).min() >= 1:
        return chosen
    rng, kept = generator(PARTS, *address), []
    for share in np.unique(of_rows):
        rows = chosen[of_rows == share]
        kept.append(rows if share >= 1 else rng.choice(rows, max(1, round(share * len(rows))), replace=False))
    return np.sort(np.concatenate(kept))


def negative_share(any_positive: npt.NDArray[np.bool_], rows: Int64Array, sampling: str) -> float:
    """Return the share of the rows negative for `any` that an epoch of `fixed` or `redrawn` has; 1 for the others."""
    positives = int(any_positive[rows].sum())
    negatives = len(rows) - positives
    return min(positives, negatives) / negatives if sampling in PRIOR_SAMPLINGS and positives and negatives else 1.0


def _of_each_study(population: Population, candidates: Int64Array, count: int, rng: np.random.Generator) -> Int64Array:
    """Return up to `count` of the candidates of each study."""
    if population.studies is None:
        raise ValueError("the sampling studies needs the study of each row")
    studies = population.studies[candidates]
    # In random order within each study: the first `count` of each are a draw without replacement.
    order = np.lexsort((rng.random(len(candidates)), studies))
    starts = np.flatnonzero(np.r_[True, np.diff(studies[order]) != 0])
    places = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return np.sort(candidates[order[places < count]])


def _grouped(population: Population, candidates: Int64Array, count: int, address: EpochAddress) -> Int64Array:
    """Return `count` of the candidates of each study, in order and spread evenly; studies are in random order."""
    if population.studies is None:
        raise ValueError("the sampling grouped needs the study of each row")
    studies = population.studies[candidates]
    order = np.argsort(studies, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(studies[order]) != 0]) if len(order) else np.empty(0, np.int64)
    sizes = np.diff(np.r_[starts, len(order)])
    rng = generator(GROUPS, *address)
    places = (np.arange(count) + rng.random((len(starts), count))) * sizes[:, None] / count
    rows: Int64Array = candidates[order[starts[:, None] + np.minimum(places.astype(np.int64), sizes[:, None] - 1)]]
    rows = rows[np.isin(rows[:, 0], thinned(rows[:, 0], population.shares, address))]  # all of a study or nothing
    shuffled: Int64Array = rows[generator(ORDER, *address).permutation(len(rows))].reshape(-1)
    return shuffled


def _of_each_label(population: Population, candidates: Int64Array, address: EpochAddress) -> Int64Array:
    """Return as many negatives as positives, these evenly from the subtypes, with replacement."""
    positive = population.any_positive[candidates]
    negatives = candidates[~positive]
    count = min(int(positive.sum()), len(negatives))
    drawn = [generator(NEGATIVES, *address).choice(negatives, count, replace=False)]
    subtypes = [k for k, label in enumerate(LABELS) if label != ANY]
    groups = [candidates[population.labels[candidates, k] > 0.5] for k in subtypes]
    groups = [group for group in groups if len(group)] or [candidates[positive]]
    rng = generator(SUBTYPES_DRAWN, *address)
    for number, group in enumerate(groups):
        share = count // len(groups) + (number < count % len(groups))
        drawn.append(rng.choice(group, share, replace=share > len(group)))
    return np.sort(np.concatenate(drawn))


def epoch_rows(
    any_positive: npt.NDArray[np.bool_],
    rows: Int64Array,
    sampling: str,
    address: EpochAddress,
    shares: npt.NDArray[np.float64] | None = None,
) -> Int64Array:
    """Return the rows (M,) of an epoch, shuffled. The result depends only on the arguments.

    Args:
        any_positive: Label `any` of every row of the dataset, (n,).
        rows: Candidates, in any order.
        sampling: `fixed` takes all positive candidates and as many negatives, drawn by seed and fold. `redrawn` draws
            the negatives for each stage and epoch. `all` takes every candidate. If there are fewer negatives than
            positives, all of them are taken.
        address: The epoch.
        shares: See `thinned`.

    Raises:
        ValueError: `sampling` is unknown.
    """
    candidates = np.sort(np.asarray(rows, np.int64))
    if sampling == "all":
        chosen = candidates
    elif sampling in ("fixed", "redrawn"):
        positive = np.asarray(any_positive, bool)[candidates]
        positives, negatives = candidates[positive], candidates[~positive]
        count = min(len(positives), len(negatives))
        of_draw = address[:2] if sampling == "fixed" else address
        drawn = generator(NEGATIVES, *of_draw).choice(negatives, count, replace=False)
        chosen = np.concatenate([positives, drawn])
        chosen.sort()
    else:
        raise ValueError(f"sampling must be fixed, redrawn or all, not {sampling!r}")
    return generator(ORDER, *address).permutation(thinned(chosen, shares, address))
