"""What an epoch trains on, in which order, and the addressed randomness behind it. Not for folds or for loading."""

import hashlib
import struct

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]

NEGATIVES, ORDER, AUGMENTATION, WINDOWS, MIXING = range(5)
"""What a draw is for: the first number of its address, so that no two purposes share one."""


def generator(*address: int) -> np.random.Generator:
    """Return the random generator at `address`, numbers from 0 to 2^64 - 1; equal addresses give equal draws.

    Raises `ValueError` for a number outside that range.
    """
    if any(not 0 <= number < 2**64 for number in address):
        raise ValueError(f"an address has numbers from 0 to 2^64 - 1, not {address}")
    # The length keeps (1,) and (1, 0) apart. A key from a hash costs half of what NumPy's own seeding does.
    packed = struct.pack(f"<{1 + len(address)}Q", len(address), *address)
    key = np.frombuffer(hashlib.blake2b(packed, digest_size=16).digest(), "<u8")
    return np.random.Generator(np.random.Philox(key=key))


def id_number(slice_id: str) -> int:
    """Return the number, 0 to 2^64 - 1, by which a slice stands in an address."""
    return int.from_bytes(hashlib.blake2b(slice_id.encode(), digest_size=8).digest(), "little")


def epoch_rows(
    any_positive: npt.NDArray[np.bool_],
    rows: Int64Array,
    sampling: str,
    *,
    seed: int,
    fold: int,
    stage: int,
    epoch: int,
) -> Int64Array:
    """Return the rows (M,) int64 of an epoch, shuffled: a pure function of the arguments.

    `any_positive` (n,) is indexed by the candidates `rows`, whose order does not matter. `fixed` takes all positive
    candidates and as many negatives, which depend on `seed` and `fold` only; `redrawn` draws the negatives from `stage`
    and `epoch` too; `all` takes every candidate. Where negatives are fewer than positives, all of them are taken.
    """
    candidates = np.sort(np.asarray(rows, np.int64))
    if sampling == "all":
        chosen = candidates
    elif sampling in ("fixed", "redrawn"):
        positive = np.asarray(any_positive, bool)[candidates]
        positives, negatives = candidates[positive], candidates[~positive]
        address = (seed, fold) if sampling == "fixed" else (seed, fold, stage, epoch)
        count = min(len(positives), len(negatives))
        drawn = generator(NEGATIVES, *address).choice(negatives, count, replace=False)
        chosen = np.concatenate([positives, drawn])
        chosen.sort()
    else:
        raise ValueError(f"sampling is fixed, redrawn or all, not {sampling!r}")
    return generator(ORDER, seed, fold, stage, epoch).permutation(chosen)
