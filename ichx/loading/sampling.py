"""Sampling: the rows and the order of an epoch, and the addressed random generators behind all random draws."""

import hashlib
import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]

NEGATIVES, ORDER, AUGMENTATION, WINDOWS, MIXING, PLUGIN, SERIES, COMPONENTS = range(8)
"""Purpose of a draw: the first number of its address, so that no two purposes share an address."""


class EpochAddress(NamedTuple):
    """The address of the random draws of an epoch."""

    seed: int
    fold: int
    stage: int
    epoch: int


def generator(*address: int) -> np.random.Generator:
    """Return the random generator at `address`, numbers from 0 to 2^64 - 1. Equal addresses give equal draws.

    Raises:
        ValueError: A number is out of range.
    """
    if any(not 0 <= number < 2**64 for number in address):
        raise ValueError(f"numbers of an address are 0 to 2^64 - 1, not {address}")
    # The length distinguishes (1,) from (1, 0). A hash as key takes half the time of NumPy's own seeding.
    packed = struct.pack(f"<{1 + len(address)}Q", len(address), *address)
    key = np.frombuffer(hashlib.blake2b(packed, digest_size=16).digest(), "<u8")
    return np.random.Generator(np.random.Philox(key=key))


def id_number(slice_id: str) -> int:
    """Return the number of a slice in an address, 0 to 2^64 - 1."""
    return int.from_bytes(hashlib.blake2b(slice_id.encode(), digest_size=8).digest(), "little")


def epoch_rows(
    any_positive: npt.NDArray[np.bool_], rows: Int64Array, sampling: str, address: EpochAddress
) -> Int64Array:
    """Return the rows (M,) of an epoch, shuffled. The result depends only on the arguments.

    Args:
        any_positive: Label `any` of every row of the dataset, (n,).
        rows: Candidates, in any order.
        sampling: `fixed` takes all positive candidates and as many negatives, drawn by seed and fold. `redrawn` draws
            the negatives for each stage and epoch. `all` takes every candidate. If there are fewer negatives than
            positives, all of them are taken.
        address: The epoch.

    Raises:
        ValueError: `sampling` is unknown.
    """
    candidates = np.sort(np.asarray(rows, np.int64))
    if sampling == "all":
        chosen = candidates
    elif sampling in ("fixed", "redrawn"):
        positive = np.asarray(any_positive, bool)[candidates]
        positives, negatives = candidates[positive], candidates[~positive]
        count = min(len(positives), len(negatives))
        of_draw = address[:2] if sampling == "fixed" else address
        drawn = generator(NEGATIVES, *of_draw).choice(negatives, count, replace=False)
        chosen = np.concatenate([positives, drawn])
        chosen.sort()
    else:
        raise ValueError(f"sampling must be fixed, redrawn or all, not {sampling!r}")
    return generator(ORDER, *address).permutation(chosen)
