"""Transfer syntaxes: how a file's pixels are stored, and which codec undoes it. Not for decoding itself."""

from typing import Final

IMPLICIT_LITTLE: Final = "1.2.840.10008.1.2"
EXPLICIT_LITTLE: Final = "1.2.840.10008.1.2.1"
EXPLICIT_BIG: Final = "1.2.840.10008.1.2.2"
DEFLATED: Final = "1.2.840.10008.1.2.1.99"

NATIVE: Final = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED})
"""Transfer syntaxes with uncompressed pixels, after inflating the file."""

ENCAPSULATED_UNCOMPRESSED: Final = "1.2.840.10008.1.2.1.98"

_JPEG = "1.2.840.10008.1.2.4."

CODECS: Final = {
    "1.2.840.10008.1.2.5": "rle",
    **{_JPEG + end: "jpeg" for end in ("50", "51", "53", "55", "57", "70")},
    **{_JPEG + end: "jpegls" for end in ("80", "81")},
    **{_JPEG + end: "jpeg2k" for end in ("90", "91", "201", "202", "203")},
    **{_JPEG + end: "jpegxl" for end in ("110", "111", "112")},
}
"""The codec of each compressed syntax: JPEG of 8, 12 and 16 bits, JPEG-LS, JPEG 2000 and HTJ2K, JPEG XL, RLE."""

LOSSLESS: Final = frozenset(
    {"1.2.840.10008.1.2.5", *(_JPEG + end for end in ("57", "70", "80", "90", "201", "202", "110"))}
)
"""Compressed syntaxes that give back each bit."""

_NAMES: Final = {
    _JPEG + "110": "JPEG XL Lossless",
    _JPEG + "111": "JPEG XL JPEG Recompression",
    _JPEG + "112": "JPEG XL",
}
"""Names that pydicom does not know yet."""

_ELSEWHERE: Final = {
    "pylibjpeg-libjpeg decodes it": tuple(_JPEG + str(end) for end in (52, 54, 56, *range(58, 67))),
    "PyAV decodes it": tuple(f"{_JPEG}{end}" for end in range(100, 109)),
    "its pixels are on a server": tuple(f"{_JPEG}{end}" for end in (94, 95, 204, 205)),
}
"""What can be done about syntaxes that are not decoded here."""


def supported(syntax: str) -> bool:
    """Whether pixels of the transfer syntax can be read."""
    return syntax in NATIVE or syntax in CODECS or syntax == ENCAPSULATED_UNCOMPRESSED


def describe(syntax: str) -> str:
    """Return the DICOM name and the UID of a transfer syntax or SOP class, for people."""
    from pydicom import config
    from pydicom.uid import UID

    name = _NAMES.get(syntax) or UID(syntax[:64], config.IGNORE).name
    return f"{name if name != syntax[:64] else 'unknown or private'} ({syntax[:64]})"


def remedy(syntax: str) -> str:
    """Return which package decodes an unsupported transfer syntax."""
    for hint, known in _ELSEWHERE.items():
        if syntax in known or syntax.rpartition(".")[0] in known:
            return hint
    return "no Python package is known to decode it"
