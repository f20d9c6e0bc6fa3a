"""What formats of NIfTI volumes share: finding volumes and masks, and writing synthetic ones."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from ichx.datasets.formats.contract import MaskPair
from ichx.datasets.formats.files import FormatFiles
from ichx.datasets.volumes import SUFFIX
from ichx.phantom.study import PhantomStudy
from ichx.text import format_count, format_examples

BINARY_NOTE = (
    "Masks are binary: the labels are `any` of each slice; subtypes are 0 in negative slices and unknown in others."
)
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def plain_name(name: str) -> str:
    """Return the name of a volume's file without folders and suffix."""
    return SUFFIX.sub("", PurePosixPath(name).name)


def common_folder(files: FormatFiles, names: Sequence[str], depth: int = 1) -> str:
    """Return the folder `depth` levels above all of `names`, relative to the source.

    Raises `InvalidInputError` if they are in several folders: the source has several copies or parts.
    """
    folders = {"/".join(name.split("/")[:-depth]) for name in names}
    if len(folders) > 1:
        listed = ", ".join(sorted(folder or "." for folder in folders)[:3])
        raise files.unlike(f"its volumes are in several folders ({listed}); give one of them")
    return folders.pop()


def relative(name: str, folder: str) -> str:
    """Return `name` relative to `folder`; both are relative to the source."""
    return name[len(folder) + 1 :] if folder else name


def mask_pairs(volumes: Mapping[str, str], masks: Mapping[str, str]) -> tuple[MaskPair, ...]:
    """Return the volumes that have a mask, with it; both are files by the name of their case."""
    return tuple(MaskPair(name, masks[case]) for case, name in volumes.items() if case in masks)


def unlabelled_note(cases: Collection[str]) -> list[str]:
    """Return the note about the `cases` without a mask; none if there are none."""
    if not cases:
        return []
    return [f"{format_count(len(cases), 'volume')} without a mask has no labels{format_examples(sorted(cases))}."]


def write_volume(path: Path, values: npt.NDArray[np.int16] | npt.NDArray[np.uint8], study: PhantomStudy) -> None:
    """Write `values` (slices, rows, columns) of a synthetic study as converters store them: (x, y, z) in RAS."""
    from nibabel.nifti1 import Nifti1Image

    rows, columns = values.shape[1:]
    affine = np.diag([study.spacing, study.spacing, study.thickness, 1.0])
    affine[:2, 3] = -study.spacing * (columns - 1) / 2, -study.spacing * (rows - 1) / 2
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Nifti1Image(values.transpose(2, 1, 0), _LPS_TO_RAS @ affine)  # type: ignore[no-untyped-call]
    image.to_filename(path)
