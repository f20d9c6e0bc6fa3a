"""What only the authors know about a model: `about.toml` next to a model card. An empty value is an open field."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ichx.errors import InvalidInputError, did_you_mean, raise_problems
from ichx.files import write_text

ABOUT_FILE: Final = "about.toml"


@dataclass(frozen=True)
class AboutField:
    """A field of `about.toml`."""

    title: str
    help: str
    many: bool = False
    """Whether its value is a list of texts."""


FIELDS: Final = {
    "name": AboutField("name", "name of the model, at least 4 characters; empty: the name in ichx"),
    "link": AboutField("link", "URL of code or weights; RSNA ATLAS requires it"),
    "authors": AboutField("authors", 'names, e.g. ["A. Author", "B. Author"]', many=True),
    "organizations": AboutField("organizations", "names of sponsoring or supporting organizations", many=True),
    "contact": AboutField("contact", "how readers reach the authors"),
    "version": AboutField("version", "version of the model; empty: that of ichx and of the weights"),
    "license": AboutField("licence of the model", "name or text of the licence of the trained weights"),
    "license_url": AboutField("URL of that licence", "URL"),
    "data_license": AboutField("licence and terms of the data", "text"),
    "data_source": AboutField("source of the data", "institutions, dates, eligibility, consecutive or selected"),
    "reference_standard": AboutField("reference standard", "who labelled, how, with which qualification"),
    "funding": AboutField("funding", "sources of funding and their role"),
    "ethics": AboutField("ethical review", "approval or waiver, with number"),
    "references": AboutField("references", "titles or citations of papers about the model", many=True),
    "indications": AboutField("indications for use", "condition, population, place"),
    "intended_uses": AboutField("intended uses", 'e.g. ["Detection"]; 4 to 64 characters each', many=True),
    "excluded_uses": AboutField("uses out of scope", "4 to 64 characters each", many=True),
    "intended_users": AboutField("intended users", 'e.g. ["Researcher"]; 4 to 64 characters each', many=True),
    "clinical_benefit": AboutField("clinical benefit", "text"),
    "instructions": AboutField("instructions", "how to use the model"),
    "limitations": AboutField("limitations", "known biases, failures, gaps in the data"),
    "regulatory": AboutField("regulatory information", "status with FDA, CE or others"),
    "availability": AboutField("availability", "where and how the model is available"),
}
"""All fields by key."""

_SHORT: Final = ("intended_uses", "excluded_uses", "intended_users")
"""Lists whose texts have 4 to 64 characters in ATLAS."""


@dataclass(frozen=True)
class About:
    """The authors' facts; absent ones are open."""

    values: dict[str, Any] = field(default_factory=dict)

    def text(self, key: str) -> str | None:
        """Return a text, or None if it is open."""
        value = self.values.get(key)
        return value if isinstance(value, str) and value else None

    def texts(self, key: str) -> list[str]:
        """Return a list of texts; empty if it is open."""
        value = self.values.get(key)
        return list(value) if isinstance(value, list) else []

    @property
    def open(self) -> list[str]:
        """The titles of open fields that nothing else fills."""
        filled = ("name", "version")
        return [one.title for key, one in FIELDS.items() if not self.values.get(key) and key not in filled]


def read_about(path: Path) -> About:
    """Return the facts in `path`; none if there is no such file.

    Raises `InvalidInputError` with all problems of the file.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        return About()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidInputError(
            f"Cannot read {path}: {error}.", "Fix the file, or remove it to start again."
        ) from error
    problems = [f"{path}: {problem}" for key, value in found.items() for problem in _problems(key, value)]
    raise_problems(problems, f"The fields are {', '.join(FIELDS)}.")
    stripped = {key: value.strip() if isinstance(value, str) else value for key, value in found.items()}
    return About({key: value for key, value in stripped.items() if value})


def write_template(path: Path) -> bool:
    """Write an empty file for the authors; return False if there is a file already. Raises `StorageError`."""
    if path.exists():
        return False
    lines = ["# What only the authors know. Fill in what you can, and rerun `ichx card`: empty fields stay open.", ""]
    for key, one in FIELDS.items():
        lines += [f"# {one.title}: {one.help}", f"{key} = {'[]' if one.many else repr('')}", ""]
    write_text(path, "\n".join(lines).replace("''", '""'), "the fields for the authors")
    return True


def _problems(key: str, value: object) -> list[str]:
    if key not in FIELDS:
        return [f"unknown field {key!r}. {did_you_mean(key, list(FIELDS))}".rstrip()]
    if not FIELDS[key].many:
        if not isinstance(value, str):
            return [f"{key} is {value!r}, not a text."]
        if key in ("link", "license_url") and value and not value.startswith(("https://", "http://")):
            return [f"{key} is {value!r}, not a URL."]
        if key == "link" and len(value) > 256:
            return ["link has more than 256 characters."]
        if key == "name" and value and not 4 <= len(value) <= 256:
            return [f"name has {len(value)} characters, not 4 to 256."]
        return []
    if not isinstance(value, list) or not all(isinstance(one, str) and one for one in value):
        return [f"{key} is {value!r}, not a list of texts."]
    if key in _SHORT and (wrong := [one for one in value if not 4 <= len(one) <= 64]):
        return [f"{key} has texts without 4 to 64 characters: {', '.join(map(repr, wrong))}."]
    if key in _SHORT and len(set(value)) < len(value):
        return [f"{key} has the same text twice."]
    return []
