"""The contract of a format: where a dataset's slices, labels and masks are, and how to write a replica of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ichx.datasets.formats.files import FormatFiles
from ichx.datasets.label_table import LabelTable
from ichx.datasets.series_rules import SeriesChoice


@dataclass(frozen=True)
class FileIds:
    """Ids of the slices of one file that the file itself lacks, and what a table states about its patient."""

    volume: str = ""
    """Name of a NIfTI volume, the start of its slice ids `volume#017`; by default from the file's name."""
    patient: str = ""
    """PatientID; a volume without one is a patient."""
    study: str = ""
    """StudyInstanceUID; a volume without one is a study."""
    sex: str = ""
    """`F`, `M` or `O`; empty if unknown."""
    age: str = ""
    """A DICOM age, e.g. `047Y`; stored as a band of ten years."""


@dataclass(frozen=True)
class MaskPair:
    """A NIfTI volume and the file with its mask."""

    volume: str
    """Name of the volume's file, relative to `FormatContents.folder`."""
    mask: str
    """Name of the mask's file, relative to the source."""


@dataclass(frozen=True)
class FormatContents:
    """What a source in some format contains."""

    folder: str = ""
    """Folder of the source with the slices; empty for the source itself."""
    include: str = ""
    """Regular expression that is found in the names of files with slices, relative to `folder`; empty for all files."""
    ids: Mapping[str, FileIds] = field(default_factory=dict)
    """Ids by name of the file, relative to `folder`."""
    labels: tuple[LabelTable, ...] = ()
    """Tables of labels, joined in this order; empty if there are none."""
    masks: tuple[MaskPair, ...] = ()
    """Masks of volumes."""
    mask_values: Mapping[int, str] = field(default_factory=dict)
    """Subtype by value of a mask, of all values but 0. Without any, masks are binary: they mark bleeds of the subtype
    of the slice's labels."""
    labels_from_masks: bool = False
    """The masks are complete: slices of volumes with a mask are labelled by its content."""
    readers: Mapping[str, LabelTable] = field(default_factory=dict)
    """Labels of single readers by name, if the dataset has several."""
    flags: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """What else is known of studies, e.g. `chronic_bleed`: by name of the flag and folder of the study, 0 or 1."""
    series: SeriesChoice = "all"
    """Which series of a study are added unless the user chooses."""
    notes: tuple[str, ...] = ()
    """What a user should know about how the source was read, one sentence each."""


@dataclass(frozen=True)
class ReplicaOptions:
    """How large a replica is."""

    patients: int
    seed: int
    size: int
    """Rows and columns of a slice."""


@dataclass(frozen=True)
class DatasetFormat:
    """The format of a public dataset."""

    name: str
    """In lower case, for `--format`."""
    title: str
    """Name and content in one line."""
    licence: str
    """Terms of use as far as they are known, in one line."""
    read: Callable[[FormatFiles], FormatContents]
    """Returns what a source contains. Raises `IchxError` if it has another layout."""
    options: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Choices of each option by its name, the default first; `FormatFiles.option` returns the user's."""
    write_replica: Callable[[Path, ReplicaOptions, Callable[[int, int], None]], int] | None = None
    """Writes a miniature replica of synthetic studies into an empty folder and reports (done, total) studies; returns
    the number of slices. See `ichx.datasets.formats.replica.replica_studies`."""
