"""Assumptions: what a reader has to assume where a header is missing, ambiguous or not followed by its pixels."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

ASSUMPTIONS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "rescale_missing": "no rescale slope or intercept: read as 1 and 0, because the values are plainly HU",
        "rescale_type": "the Rescale Type is unspecified (US) or modified HU (HU_MOD): read as HU",
        "rescale_type_unknown": "an unknown Rescale Type: read as HU, because the values are plainly HU",
        "bit_layout": "HighBit is not BitsStored - 1: read from the upper bits, unless all values fit the lower ones",
        "padding_bits": "PixelPaddingValue exceeds BitsStored: compared with all allocated bits",
        "padding_range": "PixelPaddingRangeLimit: every value from PixelPaddingValue to it is read as air",
        "encoding": "the transfer syntax is missing or wrong: the encoding is that of the first element",
        "affine_missing": "a NIfTI without an affine: its axes run to the left, to the front and to the head",
        "intercept_repaired": "a wrong intercept, as in some RSNA files: repaired",
        "window_missing": "no usable window: replaced by the brain window [40, 80]",
    }
)
"""Names of reading assumptions and their meanings. A slice with one is used; an assumption is not a defect."""
