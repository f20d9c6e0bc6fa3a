"""Several readers of the same studies: how they agree, and the model's calls against each of them.

For each reader the reference is the majority of the *other* readers: it judges reader and model alike. Studies on which
the others are divided, or which fewer than two of them read, are left out there and counted.
"""

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.reader_labels import ReaderLabels
from ichx.evaluation.bootstrap import Interval
from ichx.evaluation.kappa import cohen_kappa, fleiss_kappa
from ichx.evaluation.metric import FloatArray
from ichx.evaluation.paired_scores import RateDifference, rate_difference, rates
from ichx.evaluation.patient_sums import DRAWS

if TYPE_CHECKING:
    from collections.abc import Mapping

MIN_OTHERS: Final = 2
"""Readers besides one whose majority is a reference."""


@dataclass(frozen=True)
class ReaderPair:
    """Agreement of two readers."""

    first: str
    second: str
    studies: int
    """Read by both."""
    agreement: float | None
    """Share of studies with the same value."""
    kappa: Interval
    """Cohen's."""


@dataclass(frozen=True)
class ModelAndReader:
    """The model's calls and one reader."""

    reader: str
    studies: int
    """That this reader read."""
    kappa: Interval
    """Cohen's, of model and reader."""
    sensitivity: Interval
    """Of the model, if the reader is right."""
    specificity: Interval
    compared: int
    """Studies with a majority of the other readers."""
    positives: int
    """Positive ones among them."""
    divided: int
    """Studies that are left out, because the others are divided or too few."""
    against_others: dict[str, RateDifference]
    """`sensitivity` and `specificity` of the reader (`first`) and of the model (`second`), if the majority of the
    others is right; empty without such studies."""


@dataclass(frozen=True)
class ReaderComparison:
    """The readers of one label, and the model."""

    label: str
    readers: tuple[str, ...]
    studies: int
    """With a prediction and at least one reader."""
    patients: int
    read_by_all: int
    fleiss: Interval
    """Kappa over the studies that all have read."""
    pairs: tuple[ReaderPair, ...]
    threshold: float | None
    """The stored threshold behind the calls; None without one."""
    models: tuple[ModelAndReader, ...]
    """By reader; empty without a threshold."""


def compare_readers(
    read: ReaderLabels,
    studies: npt.NDArray[np.object_],
    patients: npt.NDArray[np.object_],
    calls: "Mapping[str, tuple[float, npt.NDArray[np.bool_]]]",
    *,
    draws: int = DRAWS,
) -> list[ReaderComparison]:
    """Return the comparison for each label that was read.

    Args:
        read: The readers' labels.
        studies: Ids of the predicted studies, `(S,)`.
        patients: Their patients, `(S,)`.
        calls: By label, the threshold and which studies reach it `(S,)`; labels without a threshold are absent.
        draws: Draws of patients for the intervals.
    """
    row = pd.Index(studies).get_indexer(pd.Index(read.studies))
    known = row >= 0
    owners = patients[row[known]]
    found = []
    for label, values in read.values.items():
        threshold, called = calls.get(label, (None, None))
        found.append(
            _compare(
                label,
                read.readers,
                values[known],
                owners,
                (threshold, None if called is None else called[row[known]]),
                draws,
            )
        )
    return found


def _compare(
    label: str,
    readers: tuple[str, ...],
    values: FloatArray,
    patients: npt.NDArray[np.object_],
    calls: tuple[float | None, npt.NDArray[np.bool_] | None],
    draws: int,
) -> ReaderComparison:
    has = ~np.isnan(values)
    complete, some = has.all(axis=1), has.any(axis=1)
    if len(readers) > 1:
        fleiss = fleiss_kappa(values[complete] > 0.5, patients[complete], draws=draws)
    else:
        fleiss = Interval(None, None, None, None, "only one reader")
    pairs = []
    for i, j in combinations(range(len(readers)), 2):
        both = has[:, i] & has[:, j]
        one, two = values[both, i] > 0.5, values[both, j] > 0.5
        agreement = float((one == two).mean()) if both.any() else None
        kappa = cohen_kappa(one, two, patients[both], draws=draws)
        pairs.append(ReaderPair(readers[i], readers[j], int(both.sum()), agreement, kappa))
    threshold, called = calls
    models = (
        ()
        if called is None
        else tuple(_against(readers, i, values, patients, called, draws) for i in range(len(readers)))
    )
    return ReaderComparison(
        label=label,
        readers=readers,
        studies=int(some.sum()),
        patients=len(pd.unique(patients[some])),
        read_by_all=int(complete.sum()),
        fleiss=fleiss,
        pairs=tuple(pairs),
        threshold=threshold,
        models=models,
    )


def _against(
    readers: tuple[str, ...],
    index: int,
    values: FloatArray,
    patients: npt.NDArray[np.object_],
    called: npt.NDArray[np.bool_],
    draws: int,
) -> ModelAndReader:
    own, others = values[:, index], np.delete(values, index, axis=1)
    read = ~np.isnan(own)
    truth, owners = own[read] > 0.5, patients[read]
    (sensitivity,) = rates(truth, [called[read]], owners, draws)
    (specificity,) = rates(~truth, [~called[read]], owners, draws)
    votes, count = np.nansum(others, axis=1), (~np.isnan(others)).sum(axis=1)
    decided = read & (count >= MIN_OTHERS) & (2 * votes != count)
    reference = 2 * votes[decided] > count[decided]
    against: dict[str, RateDifference] = {}
    if decided.any():
        for name, right in (("sensitivity", True), ("specificity", False)):
            hits = [(own[decided] > 0.5) == right, called[decided] == right]
            against[name] = rate_difference(reference == right, hits, patients[decided], draws)
    return ModelAndReader(
        reader=readers[index],
        studies=int(read.sum()),
        kappa=cohen_kappa(truth, called[read], owners, draws=draws),
        sensitivity=sensitivity,
        specificity=specificity,
        compared=int(decided.sum()),
        positives=int(reference.sum()),
        divided=int((read & ~decided).sum()),
        against_others=against,
    )
