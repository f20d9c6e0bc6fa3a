"""Combinations of header values as texts, for tables. They are counted in `summary`."""

from collections.abc import Mapping
from typing import Any, Final

SYNTAX_NAMES: Final = {
    "1.2.840.10008.1.2": "implicit VR",
    "1.2.840.10008.1.2.1": "explicit VR",
    "1.2.840.10008.1.2.1.99": "deflated",
    "1.2.840.10008.1.2.2": "big endian",
    "1.2.840.10008.1.2.5": "RLE",
    "1.2.840.10008.1.2.4.50": "JPEG 8 bit",
    "1.2.840.10008.1.2.4.51": "JPEG 12 bit",
    "1.2.840.10008.1.2.4.57": "JPEG lossless",
    "1.2.840.10008.1.2.4.70": "JPEG lossless",
    "1.2.840.10008.1.2.4.80": "JPEG-LS",
    "1.2.840.10008.1.2.4.81": "JPEG-LS lossy",
    "1.2.840.10008.1.2.4.90": "JPEG 2000",
    "1.2.840.10008.1.2.4.91": "JPEG 2000 lossy",
    "1.2.840.10008.1.2.4.201": "HTJ2K",
    "1.2.840.10008.1.2.4.202": "HTJ2K",
    "1.2.840.10008.1.2.4.203": "HTJ2K lossy",
}
"""Short names of transfer syntaxes."""
FAMILY_HEADS: Final = ("pixels", "slope", "intercept", "size", "transfer syntax", "slices")


def family_texts(family: Mapping[str, Any]) -> dict[str, Any]:
    """Return the cells of a row of `ichx.datasets.summary.header_families` by `FAMILY_HEADS`."""
    cells = (
        f"{family['bits_stored']} bit {'signed' if family['signed'] else 'unsigned'}",
        f"{family['slope']:g}",
        f"{family['intercept']:g}",
        f"{family['rows']} x {family['columns']}",
        SYNTAX_NAMES.get(family["transfer_syntax"], family["transfer_syntax"]),
        family["slices"],
    )
    return dict(zip(FAMILY_HEADS, cells, strict=True))
