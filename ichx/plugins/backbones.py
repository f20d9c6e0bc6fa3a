"""Names and weight licences of backbones, listed without torch: timm's are cached per user and version of timm."""

import json
import os
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ichx.errors import IchxError, NotFoundError, did_you_mean
from ichx.files import expand_user, write_text
from ichx.text import parse_json

if TYPE_CHECKING:
    from ichx.plugins.contract import Plugin
    from ichx.recipe import Recipe

PREFIXES: Final = ("hf-hub:", "hf_hub:", "local-dir:")
"""Names that timm resolves outside its own list."""


def check_backbone(plugin: "Plugin", recipe: "Recipe") -> None:
    """Raise `NotFoundError`, with the nearest names, if `plugin` cannot build the backbone of `recipe`.

    Nothing is listed for the default backbone, and nothing is checked if the plugin does not declare its backbones.
    """
    backbone = recipe.model.backbone
    if backbone == plugin.recipe.model.backbone or plugin.backbones is None or backbone.startswith(PREFIXES):
        return
    if plugin.backbones != "timm":
        if backbone not in plugin.backbones:
            known = f"{plugin.name} has {', '.join(plugin.backbones)}."
            raise NotFoundError.named("backbone", backbone, plugin.backbones, known)
        return
    known_names = timm_backbones()
    if backbone not in known_names:
        near = did_you_mean(backbone.lower().replace("-", "_"), list(known_names))
        raise NotFoundError(
            f"timm {version('timm')} has no backbone {backbone!r}.", f"{near}`timm.list_models()` lists all names."
        )


@cache
def timm_backbones() -> Mapping[str, str]:
    """Return the licence that timm states for the weights of each name that it knows, with and without weight tags.

    The first call for a version of timm imports it, which takes seconds.
    """
    path = cache_file()
    found = read_names(path)
    if found is None:
        found = _list_timm()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, json.dumps(found, indent=0), "the list of backbones")
        except (OSError, IchxError):
            pass  # a home that cannot be written costs the import of timm each time
    return found


def cache_file() -> Path:
    """Return the file with the names of the installed timm."""
    folder = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expand_user(folder) / "ichx" / f"timm-{version('timm')}-backbones.json"


def read_names(path: Path) -> dict[str, str] | None:
    """Return the content of the cache at `path`; None if it is missing or damaged."""
    try:
        found = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    valid = isinstance(found, dict) and bool(found) and all(isinstance(value, str) for value in found.values())
    return found if valid else None


def _list_timm() -> dict[str, str]:
    import timm
    from timm.models import _registry

    deprecated = getattr(_registry, "_deprecated_models", {})  # still work, with a warning
    names = {*timm.list_models(), *timm.list_models(include_tags=True)}
    found = {name: _licence(timm.get_pretrained_cfg(name)) for name in sorted(names)}
    return found | {str(name): "" for name, current in deprecated.items() if current and name not in found}


def _licence(config: object) -> str:
    return str(getattr(config, "license", None) or "")
