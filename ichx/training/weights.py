"""Start weights and final weights of a fold. Files are read without running code that they may contain.

All folds of an experiment start from the same weights; the first run's choice is stored in the experiment's folder.
"""

import argparse
import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import nn

from ichx.errors import (
    ChangedDataError,
    ConflictError,
    CorruptFileError,
    InvalidInputError,
    NotFoundError,
    StorageError,
)
from ichx.experiment_files import START_FILE, read_start
from ichx.files import absolute_path, atomic_path, open_file, read_announced, write_text
from ichx.training.mean_network import newest_weights
from ichx.training.recomputation import check_recomputation
from ichx.training.weight_matching import MIN_SHARE, first_names, match_weights

if TYPE_CHECKING:
    from ichx.plugins import Plugin
    from ichx.recipe import Recipe


ENTRIES: Final = ("state_dict_ema", "model_ema", "ema", "state_dict", "model_state_dict", "model")
"""Keys under which training programs store weights in checkpoints; averaged weights come first."""

USE_WEIGHTS: Final = "Use a .safetensors or .pth file of weights."


@dataclass(frozen=True)
class Start:
    """The start weights of a fold."""

    kind: str
    """`pretrained` (from the hub), `random` or `file`."""
    path: str = ""
    sha256: str = ""

    def __str__(self) -> str:
        names = {"pretrained": "pretrained weights", "random": "random weights"}
        return names.get(self.kind, f"the weights {self.path}")


def choose_start(folder: Path, recipe: "Recipe", *, pretrained: bool | None, weights: Path | None) -> Start:
    """Return the start weights: of the options, of the experiment's earlier runs, or of the recipe.

    Args:
        folder: The experiment's folder.
        recipe: Its recipe.
        pretrained: The option `--pretrained` or `--no-pretrained`; None if not given.
        weights: The option `--weights`.

    Raises:
        InvalidInputError: The options contradict each other.
        ConflictError: Earlier folds started from other weights.
        ChangedDataError: The weights file is gone or has changed.
    """
    if weights is not None and pretrained:
        raise InvalidInputError("--weights and --pretrained contradict each other.", "Use one of them.")
    if weights is not None:
        requested: Start | None = Start("file", str(absolute_path(weights)), _sha256(weights))
    elif pretrained is None:
        requested = None
    else:
        requested = Start("pretrained" if pretrained else "random")
    path = folder / START_FILE
    if (found := read_start(path)) is None:
        return requested or Start("pretrained" if recipe.model.pretrained else "random")
    stored = Start(**found)
    if requested is not None and (requested.kind, requested.sha256) != (stored.kind, stored.sha256):
        raise ConflictError(
            f"The folds of this experiment started from {stored}, not from {requested}.",
            "Leave out the option to resume, or register another experiment for the other weights.",
        )
    if requested is not None:
        return requested  # the same weights, perhaps at another path
    if stored.kind == "file" and not Path(stored.path).is_file():
        raise ChangedDataError(
            f"The start weights of this experiment are gone: {stored.path}.",
            f"Pass the file with --weights; its SHA-256 is {stored.sha256}.",
        )
    if stored.kind == "file" and _sha256(Path(stored.path)) != stored.sha256:
        raise ChangedDataError(
            f"The weights {stored.path} have changed since the first fold started from them.", "Restore that file."
        )
    return stored


def remember_start(folder: Path, start: Start) -> None:
    """Store the start weights of the experiment in `folder`. Raises `StorageError`."""
    write_text(folder / START_FILE, json.dumps(asdict(start)) + "\n", "the choice of start weights")


def make_model(plugin: "Plugin", recipe: "Recipe", start: Start, note: Callable[[str], None]) -> nn.Module:
    """Return the plugin's network with its start weights; `note` receives what a file provided."""
    if start.kind == "pretrained":
        note(f"loading the pretrained weights of {recipe.model.backbone}; missing files are downloaded")
    model = plugin.build(recipe, start.kind == "pretrained")
    check_recomputation(model, recipe)
    if start.kind == "file":
        load_file(model, Path(start.path), note)
    return model


def load_file(model: nn.Module, path: Path, note: Callable[[str], None]) -> None:
    """Load what fits `model` from a safetensors or `.pth` file, as `match_weights` finds it, and report it.

    Raises:
        NotFoundError: There is no such file.
        CorruptFileError: The file is damaged or contains code.
        InvalidInputError: It has less than half of the backbone's weights.
    """
    entry, tensors = _read(path)
    report = match_weights(model, newest_weights(tensors))
    if report.share < MIN_SHARE:
        random = first_names(report.missing or report.head)
        raise InvalidInputError(
            f"{path} has only {100 * report.share:.0f} % of the weights of this backbone ({len(report.tensors)} of "
            f"{len(model.state_dict())} tensors fit); the rest would be random: {random}.",
            "Use weights of the same backbone, or leave out --weights.",
        )
    model.load_state_dict(report.tensors, strict=False)
    note(f"{path.name}{f', entry {entry}' if entry else ''}: {report.describe()}")


def load_exactly(model: nn.Module, path: Path) -> None:
    """Load a fold's final weights. Raises `CorruptFileError` unless the file has exactly the tensors of `model`."""
    try:
        model.load_state_dict(read_weights(path))
    except RuntimeError as error:
        raise CorruptFileError(
            f"{path} does not contain the weights of this model: {str(error).splitlines()[0]}",
            "Remove that file; the next `ichx run` trains the fold from scratch.",
        ) from error


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file by name; of a checkpoint those under the first of `ENTRIES` that it has.

    Raises:
        NotFoundError: There is no such file.
        CorruptFileError: The file is damaged or contains code.
    """
    return _read(path)[1]


def save_weights(path: Path, model: nn.Module, metadata: dict[str, str]) -> None:
    """Write the weights of `model` as safetensors, atomically. Raises `StorageError`."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    try:
        with atomic_path(path) as draft:
            safetensors.torch.save_file(tensors, draft, metadata=metadata)
    except (OSError, safetensors.SafetensorError) as error:
        raise StorageError(f"Cannot write the weights {path}: {error}", "Free some space, then run again.") from error


def _read(path: Path) -> tuple[str, dict[str, torch.Tensor]]:
    """Return the key under which the tensors are, `a/b` for a nested one, and the tensors by name."""
    try:
        if path.suffix == ".safetensors":
            return "", read_announced(path, lambda: safetensors.torch.load_file(path))
        with torch.serialization.safe_globals(_plain_types()):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise NotFoundError(f"There is no weights file {path}.", USE_WEIGHTS) from error
    except pickle.UnpicklingError as error:
        raise CorruptFileError(
            f"{path} is refused: it is damaged or contains more than tensors and plain values.",
            "On a machine that trusts it, load the file with torch, and write its state dict with "
            "`safetensors.torch.save_file(state_dict, 'weights.safetensors')`.",
        ) from error
    except Exception as error:  # for a damaged file torch's unpickler raises anything, also assertions
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CorruptFileError(f"Cannot read the weights file {path}: {reason}", USE_WEIGHTS) from error
    entry, tensors = _find_tensors(loaded)
    if not tensors:
        raise CorruptFileError(f"{path} contains no state dict.", USE_WEIGHTS)
    return entry, tensors


def _plain_types() -> list[Any]:
    """Return the types besides tensors that training scripts save and that run no code: arguments, NumPy scalars."""
    scalar = np.float64().__reduce__()[0]  # a checkpoint may come from NumPy 1, whose path differs
    scalars: list[Any] = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [argparse.Namespace, np.dtype, *scalars, *{type(np.dtype(kind)) for kind in "?bhilqBHILQefd"}]


def _find_tensors(loaded: object, depth: int = 3) -> tuple[str, dict[str, torch.Tensor]]:
    """Return the tensors of a state dict, or those under the first of `ENTRIES` that has some, with the key."""
    if not isinstance(loaded, dict) or depth == 0:  # a damaged file's dict may contain itself
        return "", {}
    for key in ENTRIES:
        entry, tensors = _find_tensors(loaded.get(key), depth - 1)
        if tensors:
            return f"{key}/{entry}".rstrip("/"), tensors
    found = {str(name): value for name, value in loaded.items() if isinstance(value, torch.Tensor)}
    return "", {
        name: value for name, value in found.items() if value.layout == torch.strided and not value.is_quantized
    }


def _sha256(path: Path) -> str:
    try:
        with open_file(path) as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        problem = f"Cannot read the weights file {path}: {error.strerror}."
        kind = NotFoundError if isinstance(error, FileNotFoundError) else StorageError
        raise kind(problem, USE_WEIGHTS) from error
