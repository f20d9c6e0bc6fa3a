"""What a network over series learns from and predicts: series of slices, and what other networks make of each slice."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ichx.evaluation.scored_rows import Truth
from ichx.labels import LABELS
from ichx.plugins.contract import SequenceWidths
from ichx.recipe import Recipe

IntArray = npt.NDArray[np.int64]

NO_PART = -1
"""Part of a series that no head has to leave out."""


@dataclass(frozen=True)
class SequenceData:
    """N slices in series. The inputs are read when they are needed, so features may be memory-mapped."""

    series: Sequence[IntArray]
    """Rows of each series' slices, in their order along the head; no slice is in two of them."""
    slice_ids: npt.NDArray[np.object_]
    """`(N,)`."""
    labels: npt.NDArray[np.float64]
    """`(N, 6)`, NaN where unknown."""
    position: npt.NDArray[np.float64]
    """`(N,)` in mm along the head; NaN where unknown."""
    study: IntArray
    """`(N,)` number of the study of each slice."""
    features: Sequence[npt.NDArray[np.float16]] = ()
    """`(N, D)` of each member."""
    logits: npt.NDArray[np.float32] | None = None
    """`(N, M, 6)` of M members."""
    part: IntArray | None = None
    """`(N,)` part of the patient, from 0: its heads predict the slice and never learn from it. `NO_PART` is predicted
    by all heads, and all learn from it. None for `NO_PART` everywhere."""
    study_labels: npt.NDArray[np.float64] | None = None
    """`(N, 6)`: label of the study or series of each slice, NaN where unknown; None if only slices are labelled."""
    group: IntArray | None = None
    """`(N,)` number of the labelled study or series of each slice, -1 for none."""
    shares: npt.NDArray[np.float64] | None = None
    """`(N,)` share of the series like that of each slice that an epoch samples: `ichx.loading.sampling.thinned`."""
    scored: Truth | None = None
    """What scores of the slices are computed from; None for all labels and study labels."""
    series_part: IntArray = field(init=False, repr=False)
    """Part of each series."""

    def __post_init__(self) -> None:
        """Refuse arrays that do not fit together."""
        count = len(self.slice_ids)
        shapes = {"labels": self.labels.shape == (count, len(LABELS))}
        shapes |= {name: getattr(self, name).shape == (count,) for name in ("position", "study")}
        shapes |= {f"features {at}": part.ndim == 2 and len(part) == count for at, part in enumerate(self.features)}
        if self.logits is not None:
            shapes["logits"] = self.logits.shape == (count, self.logits.shape[1], len(LABELS))
        if self.part is not None:
            shapes["part"] = self.part.shape == (count,)
        if self.shares is not None:
            shapes["shares"] = self.shares.shape == (count,)
        shapes["series"] = all(len(rows) for rows in self.series)
        if wrong := [name for name, fits in shapes.items() if not fits]:
            raise ValueError(f"{', '.join(wrong)} of {count} slices: wrong shape")
        parts = [NO_PART if self.part is None else int(self.part[rows[0]]) for rows in self.series]
        object.__setattr__(self, "series_part", np.asarray(parts, np.int64))

    @property
    def truth(self) -> Truth:
        """What scores of the slices are computed from."""
        if self.scored is not None:
            return self.scored
        names = self.study.astype(object)
        if self.study_labels is None:
            return Truth(self.labels, self.labels, names)
        labels = np.where(np.isnan(self.study_labels), self.labels, np.nan)
        return Truth(labels, np.where(np.isnan(self.labels), self.study_labels, self.labels), names)

    def widths(self, recipe: Recipe) -> SequenceWidths:
        """Return the sizes of the network of `recipe` for this data.

        Raises:
            ValueError: The data lacks an input of the recipe.
        """
        given = recipe.sequence
        assert given is not None
        features = tuple(part.shape[1] for part in self.features) if "features" in given.inputs else ()
        members = self.logits.shape[1] if self.logits is not None and "logits" in given.inputs else 0
        if ("features" in given.inputs and not features) or ("logits" in given.inputs and not members):
            raise ValueError(f"the data lacks inputs of the recipe: {', '.join(given.inputs)}")
        return SequenceWidths(features, members, given.heads)
