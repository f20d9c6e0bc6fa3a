"""Mixtures: datasets whose slices are those of other datasets, the parts. They are created in `mix`.

The catalog of a mixture has the usable slices of versions of its parts, and the column `part`. Files and caches stay
those of the parts: no slice is decoded or stored twice. The pinned parts are in the summary of the mixture's version.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.errors import ChangedDataError
from ichx.files import path_of
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.store import DatasetVersion

PART: Final = "part"
"""Column of a catalog: the name of the dataset of which a slice is; empty outside mixtures."""
SOURCE: Final = "source"
"""Column of loaded slices of a mixture: the source of the part."""
SHARE: Final = "share"
"""Column of loaded slices of a mixture: the share of the part's slices that an epoch samples, in (0, 1]."""


@dataclass(frozen=True)
class MixturePart:
    """A part of a mixture: a pinned version of a dataset."""

    dataset: str
    number: int
    """Number of its version."""
    digest: str
    label_digest: str
    source: str
    """Of its files."""
    path: str
    """Folder of its version in the workspace."""
    slices: int
    patients: int
    weight: float = 1.0
    """Relative to those of other parts; see `shares`."""
    train_only: bool = False
    """Whether its slices train in every fold and are scored in none."""
    folds: str | None = None
    """Name of its folds; None for a part that trains only."""
    masks: str | None = None
    """Digest of its masks, if it has any."""
    separate: bool = False
    """Whether its patients are other people even where their ids are those of other parts."""

    def __str__(self) -> str:
        facts = [f"weight {self.weight:g}"] * (self.weight != 1) + ["trains only"] * self.train_only
        return f"{self.dataset} version {self.number}" + (f" ({', '.join(facts)})" if facts else "")

    def to_dict(self) -> dict[str, Any]:
        """Return the part as JSON values for the summary of a version."""
        return asdict(self)


@dataclass(frozen=True)
class PartSlices:
    """The slices of a mixture that are of one part."""

    part: MixturePart
    rows: npt.NDArray[np.int64]
    """Their rows in the mixture, ascending."""
    slices: pd.DataFrame
    """These rows, numbered from 0: in the order in which the part has them."""

    @property
    def source(self) -> Path:
        """The source of the part's files."""
        return path_of(self.part.source)


def mixture_parts(version: "DatasetVersion") -> tuple[MixturePart, ...]:
    """Return the parts of a version, sorted by name; none if it is not a mixture."""
    return summary_parts(version.summary)


def summary_parts(summary: Mapping[str, Any]) -> tuple[MixturePart, ...]:
    """Return the parts that the summary of a version names."""
    return tuple(MixturePart(**part) for part in summary.get("mixture", {}).get("parts", ()))


def describe_parts(parts: tuple[MixturePart, ...]) -> str:
    """Return e.g. `bhsd version 1 (trains only), rsna version 3`."""
    return ", ".join(map(str, parts))


def list_parts(version: "DatasetVersion") -> list[dict[str, Any]]:
    """Return the parts of a version as JSON values with their `share`; none if it is not a mixture."""
    parts = mixture_parts(version)
    share = shares(parts) if parts else {}
    return [part.to_dict() | {"share": share[part.dataset]} for part in parts]


def shares(parts: tuple[MixturePart, ...]) -> dict[str, float]:
    """Return the share of the slices of each part that an epoch samples: its weight over the largest one."""
    largest = max(part.weight for part in parts)
    return {part.dataset: part.weight / largest for part in parts}


def with_parts(slices: pd.DataFrame, version: "DatasetVersion") -> pd.DataFrame:
    """Return `slices` of a version with the columns `SOURCE` and `SHARE` if it is a mixture.

    Raises `ChangedDataError` if a slice is of no part.
    """
    parts = mixture_parts(version)
    if not parts:
        return slices
    code = pd.Index([part.dataset for part in parts]).get_indexer(pd.Index(slices[PART]))
    if (code < 0).any():
        raise ChangedDataError(
            f"The catalog of {version.dataset} version {version.number} was changed: "
            f"{format_count(int((code < 0).sum()), 'slice')} of no part.",
            "Restore the file from a backup, or mix the parts again with `ichx data mix`.",
        )
    share = shares(parts)
    return slices.assign(
        **{
            SOURCE: np.array([part.source for part in parts], object)[code],
            SHARE: np.array([share[part.dataset] for part in parts])[code],
        }
    )


def split_parts(version: "DatasetVersion", slices: pd.DataFrame) -> list[PartSlices]:
    """Return the `slices` of a version by part; nothing if it is not a mixture. Parts without a slice are left out."""
    found = []
    for part in mixture_parts(version):
        rows = np.flatnonzero(slices[PART].to_numpy(object) == part.dataset)
        if len(rows):
            found.append(PartSlices(part, rows.astype(np.int64), slices.iloc[rows].reset_index(drop=True)))
    return found
