"""Measured speed and memory of plugins on this machine, stored per user: one file per recipe, device and version.

Reading needs no torch. `ichx.training.network_measure` measures.
"""

import hashlib
import json
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from ichx import __version__
from ichx.errors import IchxError
from ichx.files import expand_user, write_text
from ichx.recipe import digest
from ichx.text import parse_json

if TYPE_CHECKING:
    from ichx.recipe import Recipe

LIBRARIES = ("torch", "timm")
"""Packages whose versions a measure depends on, besides ichx."""


@dataclass(frozen=True, kw_only=True)
class NetworkMeasure:
    """Speed and memory of a network on one device, uncompiled and without loading."""

    device: str
    """Name of the device with the precision."""
    batch: int
    """Images per training step that `train_gb` is for: the recipe's batch."""
    measured_batch: int
    """Images per measured step. If it is smaller, memory was extended from two smaller batches."""
    train_rate: float
    """Images per second."""
    train_gb: float
    """Peak in GB (1e9 bytes): of the device, on a CPU of the tensors."""
    predict_batch: int
    predict_rate: float
    predict_gb: float


def find_measure(recipe: "Recipe") -> NetworkMeasure | None:
    """Return the newest measure of `recipe` by this machine and these versions, or None if there is none."""
    newest = None
    for path in _folder().glob(f"{digest(recipe)}-*.json"):
        try:
            found = parse_json(path.read_text(encoding="utf-8"))
            changed = path.stat().st_mtime_ns
            if found.pop("machine") == _machine() and (newest is None or changed > newest[0]):
                newest = changed, NetworkMeasure(**found)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            continue  # removed meanwhile, damaged, or of another version
    return None if newest is None else newest[1]


def save_measure(recipe: "Recipe", measure: NetworkMeasure) -> bool:
    """Store `measure`; return whether that was possible."""
    machine = _machine()
    name = hashlib.sha256(json.dumps([machine, measure.device]).encode()).hexdigest()[:12]
    path = _folder() / f"{digest(recipe)}-{name}.json"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps({"machine": machine, **asdict(measure)}), "the measure")
    except (OSError, IchxError):
        return False
    return True


def _folder() -> Path:
    return expand_user(os.environ.get("XDG_STATE_HOME") or "~/.local/state") / "ichx" / "measures"


def _machine() -> list[str]:
    """Return what a measure must have in common with this process."""
    return [platform.node(), f"ichx {__version__}", *(f"{name} {version(name)}" for name in LIBRARIES)]
