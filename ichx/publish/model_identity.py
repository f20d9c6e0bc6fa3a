"""What identifies the networks behind a result: the digest of their weights, and licences of pretrained weights."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from ichx.files import sha256_file
from ichx.inference.ready_model import ReadyModel
from ichx.inference.trained import Trained


def weights_digest(model: ReadyModel) -> str:
    """Return the SHA-256 of all weights that predict, in the order of members and folds. Raises `StorageError`."""
    return digest_of(model.members.values())


def digest_of(members: Iterable[Trained]) -> str:
    """Return `weights_digest` of the members of a model."""
    digest = hashlib.sha256()
    for trained in members:
        for path in weight_files(trained):
            digest.update(bytes.fromhex(sha256_file(path)))
    return digest.hexdigest()


def weight_files(trained: Trained) -> Iterator[Path]:
    """Yield the weights of the folds of `trained`, those of its members first."""
    for member in trained.members:
        yield from weight_files(member)
    yield from trained.weights.values()
