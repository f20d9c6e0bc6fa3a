"""Defects: the reasons why a file, or a frame of it, is not a usable CT slice."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

SMALLEST, LARGEST = 16, 8192
"""Allowed range of rows and columns of a CT slice."""

MOST_FRAMES: Final = 65_536
"""Maximum number of frames; no scanner writes more."""

INFLATED_LIMIT: Final = 2**30
"""Maximum size in bytes of an inflated file."""

DEFECTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "unreadable": "the operating system cannot read the file",
        "not_dicom": "neither a DICOM nor a NIfTI file",
        "damaged_header": "the header cannot be parsed",
        "no_slice_id": "no SOPInstanceUID",
        "not_ct": "another modality, or an object that is not a CT image",
        "localizer": "a localizer (scout), not an axial slice",
        "multi_frame": "several frames in one file, and the requested frame is not among them",
        "several_volumes": "a NIfTI of several volumes (4D), not one CT",
        "monochrome1": "MONOCHROME1: inverted grey values, not HU",
        "unsupported_pixels": "colour, floating point, or an impossible number of bits",
        "absurd_size": f"rows or columns outside {SMALLEST} to {LARGEST}, or too many frames, pixels or inflated bytes",
        "bad_rescale": "rescale slope or intercept is missing, zero, not a number or implausible",
        "modality_lut": "a Modality LUT Sequence: its values are not HU",
        "not_hu": "the Rescale Type names another unit than HU, or the values of a NIfTI are not those of a CT",
        "no_pixels": "no PixelData",
        "truncated": "the pixels are fewer than rows, columns and frames require",
        "unsupported_syntax": "no decoder for the transfer syntax",
        "undecodable": "the compressed pixels cannot be decoded",
        "constant_image": "every pixel has the same value",
        "duplicate_instance": "another file, earlier by path, has the same SOPInstanceUID",
        "no_label": "the label CSV has no row for this slice",
        "series_left_out": "another series of the study was selected, or none (`ichx data add --series auto`)",
    }
)
"""Reasons for which files are refused, with explanations. The last three depend on the complete dataset.

Missing geometry (position, orientation, spacing) is not a defect: a single slice is complete without it.
"""


class DicomDefectError(Exception):
    """The file is not a usable CT slice; `reason` is a key of `DEFECTS`, `detail` describes what was found.

    Control characters in the detail, which may contain a value of the file, are escaped.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        detail = detail if detail.isprintable() else repr(detail)[1:-1]
        super().__init__(f"{reason}: {detail or DEFECTS[reason]}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type["DicomDefectError"], tuple[str, str]]:
        """Keep both parts when the error crosses a process boundary."""
        return type(self), (self.reason, self.detail)
