"""Slices as small PNGs in the brain window."""

from typing import Final

import numpy as np
import numpy.typing as npt

from ichx.web.png import encode_png

THUMBNAIL: Final = 96
"""Pixels of the edge of a thumbnail."""
BRAIN: Final = (40.0, 80.0)
"""Centre and width in HU of the window of thumbnails."""


def thumbnail_png(hu: npt.NDArray[np.int16]) -> bytes:
    """Return a slice in HU as a PNG of `THUMBNAIL` pixels, padded to a square with air."""
    from ichx.cache.resize import fit_square

    centre, width = BRAIN
    grey = np.clip((fit_square(hu, THUMBNAIL, "area") - centre) / width + 0.5, 0, 1) * 255
    return encode_png(np.round(grey).astype(np.uint8))
