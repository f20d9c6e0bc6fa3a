"""Weights: which ones a fold starts from, and the final ones as safetensors.

All folds of an experiment start from the same kind of weights; the first run's choice is remembered beside them.
"""

import hashlib
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import safetensors
import safetensors.torch
import torch
from torch import nn

from ichx.errors import IchxError
from ichx.experiment_files import START_FILE
from ichx.training.weight_matching import LEAST, few, fit, told

if TYPE_CHECKING:
    from ichx.plugins import Plugin
    from ichx.recipe import Recipe


ENTRIES: Final = ("state_dict_ema", "model_ema", "ema", "state_dict", "model_state_dict", "model")
"""Where training programs keep the weights in their checkpoints; averaged ones, where they are kept, are the better."""


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
    path = folder / START_FILE
    if path.exists():
        remembered = Start(**json.loads(path.read_text(encoding="utf-8")))
        if wanted is not None and (wanted.kind, wanted.sha256) != (remembered.kind, remembered.sha256):
            raise IchxError(
                f"this experiment's folds started from {remembered}, not from {wanted}",
                "leave out the option to go on, or register another experiment for the other weights",
            )
        if wanted is not None:
            return wanted  # the same weights, perhaps in another place
        if remembered.kind == "file" and not Path(remembered.path).is_file():
            raise IchxError(
                f"the weights {remembered.path}, from which this experiment's folds started, are gone",
                f"name them with --weights FILE; their SHA-256 is {remembered.sha256}",
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
            draft.replace(folder / START_FILE)
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
    """Load what fits `model` of a safetensors or `.pth` file, adapted, and tell what was loaded, adapted and not.

    See `ichx.training.weight_matching` for what fits. Raises `IchxError` for a file that is missing, damaged or holds
    code, and for one that has less than half of the backbone's weights.
    """
    entry, given = _read(path)
    fitted = fit(model, given)
    if fitted.share < LEAST:
        wrong = few(fitted.fresh or fitted.head)
        raise IchxError(
            f"{path} has {100 * fitted.share:.0f} % of this backbone's weights ({len(fitted.tensors)} tensors of "
            f"{len(model.state_dict())} fit): the rest, such as {wrong}, would be random",
            "give weights of the same backbone, or leave out --weights",
        )
    model.load_state_dict(fitted.tensors, strict=False)
    note(f"{path.name}{f', its {entry}' if entry else ''}: {told(fitted)}")


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
    """Return the tensors in `path` by name; never runs code that a file may hold. Raises `IchxError`.

    Of a training program's checkpoint these are the ones of the first of `ENTRIES` that it has.
    """
    return _read(path)[1]


def _read(path: Path) -> tuple[str, dict[str, torch.Tensor]]:
    """Return the entry of the file that the tensors are in, `a/b` for one in another, and the tensors by name."""
    try:
        if path.suffix == ".safetensors":
            return "", safetensors.torch.load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise IchxError(f"there is no weights file {path}", "give a .safetensors or .pth file") from error
    except pickle.UnpicklingError as error:
        raise IchxError(
            f"{path} is refused: it is damaged or holds more than tensors",
            "convert it to safetensors on a machine you trust",
        ) from error
    except Exception as error:  # of a damaged file, torch's unpickler raises anything, also assertions
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise IchxError(
            f"the weights file {path} cannot be read: {reason}", "give a whole .safetensors or .pth file"
        ) from error
    entry, tensors = _tensors(loaded)
    if not tensors:
        raise IchxError(f"{path} holds no state dict", "give a .safetensors or .pth file of weights")
    return entry, tensors


def _tensors(loaded: object, depth: int = 3) -> tuple[str, dict[str, torch.Tensor]]:
    """Return the tensors of a state dict, or those of the first of `ENTRIES` that has some, with its name."""
    if not isinstance(loaded, dict) or depth == 0:  # a damaged file's dict may hold itself
        return "", {}
    for key in ENTRIES:
        entry, tensors = _tensors(loaded.get(key), depth - 1)
        if tensors:
            return f"{key}/{entry}".rstrip("/"), tensors
    found = {str(name): value for name, value in loaded.items() if isinstance(value, torch.Tensor)}
    return "", {
        name: value for name, value in found.items() if value.layout == torch.strided and not value.is_quantized
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
        share_as_others(draft)
        draft.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        draft.unlink(missing_ok=True)
        raise IchxError(f"cannot write the weights {path}: {error}", "free some space, then run again") from error


def share_as_others(path: Path) -> None:
    """Give a file the rights that others get: safetensors makes it for its owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise IchxError(
            f"cannot read the weights file {path}: {error.strerror}", "give a .safetensors or .pth file"
        ) from error
