"""Hooks of the docs site: pages that are stored outside `docs/`, and the list of design decisions."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
ROOT_PAGES = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}


def on_config(config: Any) -> None:
    """Append the pages in `docs/decisions` to the section on development."""
    decisions = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("*.md"))
    if decisions:
        section = next(entry["Development"] for entry in config.nav if "Development" in entry)
        section.append({"Decisions": [f"decisions/{name}" for name in decisions]})


def on_files(files: Files, config: Any) -> None:
    """Add the pages of the repository's root, with links that are valid within the site."""
    for uri, name in ROOT_PAGES.items():
        text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
        for linked_uri, linked_name in ROOT_PAGES.items():
            text = text.replace(f"]({linked_name}", f"]({linked_uri}")
        files.append(File.generated(config, uri, content=text))
