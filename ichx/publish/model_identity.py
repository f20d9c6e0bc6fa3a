"""What identifies the networks behind a result: the digest of their weights, and licences of pretrained weights."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from ichx.files import sha256_file
from ichx.inference.ready_model import ReadyModel
from ichx.inference.trained import Trained


def weights_digest(model: ReadyModel) -> str:
    """Return the SHA-256 of all weights that predict, in the order of members and folds. Raises `StorageError`."""
    digest = hashlib.sha256()
    for trained in model.members.values():
        for path in weight_files(trained):
            digest.update(bytes.fromhex(sha256_file(path)))
    return digest.hexdigest()


def weight_files(trained: Trained) -> Iterator[Path]:
    """Yield the weights of the folds of `trained`, those of its members first."""
    for member in trained.members:
        yield from weight_files(member)
    yield from trained.weights.values()


def all_experiments(members: Iterable[Trained]) -> list[int]:
    """Return the numbers of `members` and of what they read, sorted."""
    found: set[int] = set()
    for trained in members:
        found |= {trained.experiment.number, *all_experiments(trained.members)}
    return sorted(found)
