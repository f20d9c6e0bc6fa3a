"""The masks of a dataset, centred and resized like the slices of an HU cache, in one file next to its shards.

Only drawn masks are stored; the empty mask of a negative slice takes no space. `mask_cache` builds the file.
"""

import hashlib
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from ichx.cache.shards import ShardFiles, read_table, unpack
from ichx.errors import CorruptFileError

MASK_FORMAT: Final = 1
"""Version of the file: raise it when the same masks and slices would give another file."""

_PARTS: Final = "pseudo-masks-"


class MaskCache:
    """The masks of a dataset at the size of a cache, open for reading. It can be pickled to worker processes."""

    def __init__(self, path: Path, size: int, rows: npt.NDArray[np.int64], known: npt.NDArray[np.bool_]) -> None:
        """Open the file at `path`, which has the masks of `rows` (ascending) at `size` pixels.

        Raises `OSError`, or `ValueError` if the file is damaged.
        """
        self.path, self.size, self._rows = path, size, rows
        self.known = known
        """Whether each slice has a mask, possibly an empty one, (n,)."""
        self._places = read_table(path).places
        if len(self._places) != len(rows):
            raise ValueError(f"{path} has {len(self._places)} masks instead of {len(rows)}")
        self._files = ShardFiles([path])

    def __reduce__(self) -> tuple[type["MaskCache"], tuple[Path, int, npt.NDArray[np.int64], npt.NDArray[np.bool_]]]:
        return type(self), (self.path, self.size, self._rows, self.known)

    def read(self, row: int) -> npt.NDArray[np.uint8] | None:
        """Return the mask of slice `row`, (size, size) uint8, or None if it is empty or, see `known`, unknown.

        Raises:
            CorruptFileError: The file is damaged or missing.
        """
        place = int(np.searchsorted(self._rows, row))
        if place == len(self._rows) or self._rows[place] != row:
            return None
        offset, length, checksum = self._places[place].tolist()
        image = np.empty((self.size, self.size), np.int16)
        try:
            unpack(self._files.read(0, offset, length), checksum, image)
        except (OSError, ValueError, RuntimeError) as error:
            raise CorruptFileError(
                f"Cannot read the mask of slice {row} in {self.path}: {error}.",
                "Delete that file. The next use rebuilds it.",
            ) from error
        return image.astype(np.uint8)


def masks_path(folder: Path, digest: str) -> Path:
    """Return the file with the masks of this digest in the folder of a cache."""
    name = hashlib.sha256(f"{MASK_FORMAT} {digest}".encode()).hexdigest()[:12]
    return folder / f"masks-{name}.shard"


def mask_parts_folder(folder: Path, stamp: str) -> Path:
    """Return the folder in that of a cache with the pseudo-masks that an unfinished prediction has saved."""
    return folder / f"{_PARTS}{stamp}"


def mask_parts_folders(folder: Path) -> list[Path]:
    """Return all such folders of a cache."""
    return sorted(path for path in folder.glob(f"{_PARTS}*") if path.is_dir())


def fold_masks_key(digest: str) -> str:
    """Return the digest under which a cache has the pseudo-masks of a fold, whose own digest is `digest`."""
    return f"pseudo {digest}"
