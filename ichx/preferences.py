"""Choices of the user that apply to all workspaces: a JSON file in the user's folder for settings."""

import json
import os
from pathlib import Path
from typing import Any

from ichx.files import write_text
from ichx.text import parse_json


def preferences_file() -> Path:
    """Return the path of the file, by default `~/.config/ichx/preferences.json`."""
    folder = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(os.path.expanduser(folder)) / "ichx" / "preferences.json"  # noqa: PTH111  # never raises


def read_preference(name: str) -> Any:
    """Return the choice `name`, or None. A file that cannot be read contains no choice."""
    return _read().get(name)


def save_preference(name: str, value: Any) -> None:
    """Save `value`, a JSON value, as the choice `name`; None removes it.

    Raises:
        StorageError: The file cannot be written.
    """
    kept = {key: known for key, known in _read().items() if key != name}
    changed = kept if value is None else kept | {name: value}
    write_text(preferences_file(), json.dumps(changed, indent=1) + "\n", "your choice")


def _read() -> dict[str, Any]:
    try:
        found = parse_json(preferences_file().read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
