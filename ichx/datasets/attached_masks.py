"""The NIfTI masks that a request or a format attaches to the volumes of a catalog."""

from pathlib import Path

import pandas as pd

from ichx.datasets.file_list import FileLocation
from ichx.datasets.formats.contract import FormatContents
from ichx.datasets.ingest_report import IngestReport
from ichx.datasets.masks import list_masks
from ichx.datasets.volume_masks import MaskOfVolume, VolumeMasks, pair_masks, read_volume_masks
from ichx.datasets.volumes import SUFFIX
from ichx.text import format_count, format_examples


def attached_volume_masks(
    masks: Path | None, source: Path, contents: FormatContents, catalog: pd.DataFrame, report: IngestReport
) -> VolumeMasks | None:
    """Return the NIfTI masks of the volumes of `catalog`; None if there are none.

    Args:
        masks: Folder or zip of masks that the user names, or None.
        source: What the user adds, with the masks that `contents` names.
        contents: What the format of `source` found.
        catalog: The catalog of the files in `contents.folder`.
        report: Receives warnings of masks without a volume.

    Raises:
        InvalidInputError: Masks are rejected, or none has a volume.
    """
    if masks is not None:
        found = _locations(masks)
        names = [name for name in found if SUFFIX.search(name)]
        if not names:
            return None
        pairs, others = pair_masks(masks, names, catalog)
        if others:
            report.warn(f"Ignored {format_count(len(others), 'mask')} without a volume{format_examples(others)}.")
        if skipped := len(found) - len(names):
            report.warn(f"Ignored {format_count(skipped, 'file')} that are not NIfTI next to the masks.")
    elif contents.masks:
        found = {name: at for name, at in _locations(source).items() if name in {pair.mask for pair in contents.masks}}
        pairs = [(pair.volume, pair.mask) for pair in contents.masks]
    else:
        return None
    usable = set(catalog.loc[catalog["defect"].isna(), "file"])
    volumes = _locations(source / contents.folder)
    return read_volume_masks(
        [MaskOfVolume(one, volumes[one], other, found[other]) for one, other in pairs if one in usable],
        catalog,
        contents.mask_values,
    )


def _locations(source: Path) -> dict[str, FileLocation]:
    files = list_masks(source)
    return {name: files.locate(number) for number, name in enumerate(files.names)}
