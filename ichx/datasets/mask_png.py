"""The masks of a version as single PNGs; `masks` reads and validates the files that users attach."""

from pathlib import Path
from typing import Final

import imagecodecs
import numpy as np
import numpy.typing as npt

from ichx.errors import ChangedDataError, CorruptFileError

MASKS_FILE: Final = "masks.parquet"


def decode_mask(png: bytes) -> npt.NDArray[np.uint8]:
    """Return the pixels (H, W) uint8 of a grey 8-bit PNG. Raises `ValueError` if it is damaged."""
    try:
        pixels: npt.NDArray[np.uint8] = imagecodecs.png_decode(png)
    except (RuntimeError, ValueError) as error:  # imagecodecs raises RuntimeError
        raise ValueError(str(error)) from error
    return pixels


def read_stored_mask(folder: Path, slice_id: str) -> npt.NDArray[np.uint8] | None:
    """Return the mask (H, W) of one slice in the folder of a version; None if it has none.

    Raises:
        ChangedDataError: The file with the masks is missing.
        CorruptFileError: It is damaged.
    """
    import pyarrow.parquet as pq

    restore = "Restore the dataset's folder, or add a new version."
    try:
        table = pq.read_table(folder / MASKS_FILE, columns=["png"], filters=[("slice_id", "==", slice_id)])
        return decode_mask(table["png"][0].as_py()) if len(table) else None
    except FileNotFoundError as error:
        raise ChangedDataError("The file with the masks of the dataset is missing.", restore) from error
    except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are ValueErrors
        raise CorruptFileError(f"Cannot read the mask of slice {slice_id}.", restore) from error
