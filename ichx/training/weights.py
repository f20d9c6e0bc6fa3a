"""Weights: which ones a fold starts from, and the final ones as safetensors.

All folds of an experiment start from the same kind of weights; the first run's choice is remembered beside them.
"""

import hashlib
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors
import safetensors.torch
import torch
from torch import nn

from ichx.errors import IchxError

if TYPE_CHECKING:
    from ichx.plugins import Plugin
    from ichx.recipe import Recipe


ENCODER = "encoder.model."
"""Where a network with a decoder has the backbone that it shares with a classifier."""


@dataclass(frozen=True)
class Start:
    """What a fold's weights start from: `pretrained` (from the hub), `random`, or `file` with its path and SHA-256."""

    kind: str
    path: str = ""
    sha256: str = ""

    def __str__(self) -> str:
        words = {"pretrained": "pretrained weights", "random": "random weights"}
        return words.get(self.kind, f"the weights {self.path}")


def choose_start(folder: Path, recipe: "Recipe", *, pretrained: bool | None, weights: Path | None) -> Start:
    """Return what to start from: the options, or what the experiment in `folder` started from before, or the recipe.

    Raises `IchxError` when the options contradict each other or the folds that are there.
    """
    if weights is not None and pretrained:
        raise IchxError("--weights and --pretrained contradict each other", "give one of them")
    if weights is not None:
        wanted: Start | None = Start("file", str(weights.resolve()), _sha256(weights))
    elif pretrained is None:
        wanted = None
    else:
        wanted = Start("pretrained" if pretrained else "random")
    path = folder / "start.json"
    if path.exists():
        remembered = Start(**json.loads(path.read_text(encoding="utf-8")))
        if wanted is not None and (wanted.kind, wanted.sha256) != (remembered.kind, remembered.sha256):
            raise IchxError(
                f"this experiment's folds started from {remembered}, not from {wanted}",
                "leave out the option to go on, or register another experiment for the other weights",
            )
        if remembered.kind == "file" and _sha256(Path(remembered.path)) != remembered.sha256:
            raise IchxError(f"{remembered.path} has changed since the first fold started from it", "restore that file")
        return remembered
    return wanted or Start("pretrained" if recipe.model.pretrained else "random")


def remember_start(folder: Path, start: Start) -> None:
    """Write down what the experiment in `folder` starts from; raises `IchxError` where that is not possible."""
    draft = folder / f"start.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(json.dumps(asdict(start)) + "\n", encoding="utf-8")
            draft.replace(folder / "start.json")
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise IchxError(
            f"cannot write to {folder}: {error.strerror}", "free some space or make it writable, then run again"
        ) from error


def make_model(plugin: "Plugin", recipe: "Recipe", start: Start, note: Callable[[str], None]) -> nn.Module:
    """Return the plugin's network with the weights of `start`; what a file's weights filled is told through `note`."""
    if start.kind == "pretrained":
        note(f"loading the pretrained weights of {recipe.model.backbone}; what is not on this machine is downloaded")
    model = plugin.build(recipe, start.kind == "pretrained")
    if start.kind == "file":
        load_file(model, Path(start.path), note)
    return model


def load_file(model: nn.Module, path: Path, note: Callable[[str], None]) -> None:
    """Load the weights of a safetensors or `.pth` file that fit `model` by name and shape, and tell which did not.

    Raises `IchxError` for a file that is missing, damaged, holds code, or fits nowhere.
    """
    own = model.state_dict()
    given = _named_as(own, read_weights(path))
    fitting = {name: value for name, value in given.items() if name in own and own[name].shape == value.shape}
    if not fitting:
        raise IchxError(f"no tensor in {path} fits this model", "give weights of the same backbone")
    model.load_state_dict(fitting, strict=False)
    skipped = sorted(set(given) - set(fitting))
    fresh = sorted(set(own) - set(fitting))
    line = f"{path.name}: {len(fitting)} of {len(own)} tensors loaded"
    if fresh:
        line += f"; random: {_few(fresh)}"
    if skipped:
        line += f"; not used: {_few(skipped)}"
    note(line)


def _named_as(own: Mapping[str, object], given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tensors `given`, those of a classifier by the names that a network with an encoder has for them."""
    return {
        name if name in own or f"{ENCODER}{name}" not in own else f"{ENCODER}{name}": value
        for name, value in given.items()
    }


def load_exactly(model: nn.Module, path: Path) -> None:
    """Load a fold's own final weights; raises `IchxError` unless every tensor of `model` is there, and no other."""
    try:
        model.load_state_dict(read_weights(path))
    except RuntimeError as error:
        raise IchxError(
            f"{path} does not hold the weights of this model: {str(error).splitlines()[0]}",
            "remove that file: the fold is trained anew by the next `ichx run`",
        ) from error


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors in `path` by name; never runs code that a file may hold. Raises `IchxError`."""
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise IchxError(f"there is no weights file {path}", "give a .safetensors or .pth file") from error
    except pickle.UnpicklingError as error:
        raise IchxError(
            f"{path} is refused: it is damaged or holds more than tensors",
            "convert it to safetensors on a machine you trust",
        ) from error
    except (OSError, RuntimeError, EOFError, KeyError, zipfile.BadZipFile, safetensors.SafetensorError) as error:
        raise IchxError(
            f"the weights file {path} cannot be read: {error}", "give a .safetensors or .pth file"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    if not isinstance(loaded, dict):
        raise IchxError(f"{path} holds no state dict", "give a .safetensors or .pth file of weights")
    return {
        str(name).removeprefix("module."): value for name, value in loaded.items() if isinstance(value, torch.Tensor)
    }


def save_weights(path: Path, model: nn.Module, metadata: dict[str, str]) -> None:
    """Write the model's weights as safetensors, atomically; raises `IchxError` on a full disk."""
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    draft = path.with_suffix(".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(tensors, draft, metadata=metadata)
        with draft.open("rb+") as handle:
            os.fsync(handle.fileno())
        draft.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        draft.unlink(missing_ok=True)
        raise IchxError(f"cannot write the weights {path}: {error}", "free some space, then run again") from error


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise IchxError(
            f"cannot read the weights file {path}: {error.strerror}", "give a .safetensors or .pth file"
        ) from error


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
