"""Rules by which one series per study is selected, and reading them from TOML. They are applied in `series_selection`.

The default rules, with a description of the format, are in `series_rules.toml`.
"""

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, Literal

from ichx.errors import InvalidInputError, NotFoundError, StorageError, did_you_mean, raise_problems
from ichx.files import read_text
from ichx.text import parse_toml

RULES_FILE: Final = "series_rules.toml"
"""The default rules, a file of this package."""

SeriesChoice = Literal["auto", "all"]
"""Which series of a study are added: one, by rules, or all."""
SERIES_CHOICES: Final = ("auto", "all")

TEXTS: Final = ("folder", "kernel", "image_type", "body_part")
"""Conditions on a text of a series: regular expressions."""
RANGES: Final = ("thickness", "slices")
"""Conditions on a number: least and most."""
FLAGS: Final = ("axial", "contrast")
"""Conditions on what holds for a series or not."""
CONDITIONS: Final = (*TEXTS, *(f"not_{name}" for name in TEXTS), *RANGES, *FLAGS)
LISTS: Final = ("leave_out", "prefer")


@dataclass(frozen=True)
class SeriesRule:
    """A series meets a rule if it meets all of its conditions."""

    name: str
    """What the rule says about the series: the reason why it is left out or preferred."""
    texts: Mapping[str, re.Pattern[str]]
    """Conditions of `TEXTS`, with or without `not_`."""
    ranges: Mapping[str, tuple[float, float]]
    flags: Mapping[str, bool]


@dataclass(frozen=True)
class SeriesRules:
    """Rules of a selection of series."""

    leave_out: tuple[SeriesRule, ...]
    prefer: tuple[SeriesRule, ...]
    digest: str
    """16 hex digits of the rules' text."""


def default_rules_text() -> str:
    """Return the default rules as TOML with comments."""
    return files("ichx.datasets").joinpath(RULES_FILE).read_text(encoding="utf-8")


def read_series_rules(path: Path | None = None) -> SeriesRules:
    """Return the rules in the TOML file at `path`, or the default ones.

    Raises:
        NotFoundError: There is no such file.
        StorageError: It cannot be read.
        InvalidInputError: It has invalid rules; the message lists all problems.
    """
    if path is None:
        return parse_series_rules(default_rules_text(), RULES_FILE)
    try:
        return parse_series_rules(read_text(path), str(path))
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist.", "Give a file with rules for --series-rules.") from error
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{path} is not a text in UTF-8.", "Give a TOML file with rules.") from error
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror}.", "Give a readable file.") from error


def parse_series_rules(text: str, source: str) -> SeriesRules:
    """Return the rules in `text`, the content of the file `source`.

    Raises:
        InvalidInputError: See `read_series_rules`.
    """
    try:
        tables = parse_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInputError(f"Invalid TOML in {source}: {error}.", "Correct the syntax.") from error
    problems = [
        f"{source}: unknown table [[{name}]]. {did_you_mean(name, LISTS)}Use [[leave_out]] and [[prefer]]."
        for name in tables
        if name not in LISTS
    ]
    found: dict[str, tuple[SeriesRule, ...]] = {}
    for kind in LISTS:
        entries = tables.get(kind, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            problems.append(f"{source}: `{kind}` is not a list of rules. Write [[{kind}]] in double brackets.")
            continue
        rules = [
            _parse_rule(entry, f"{source}: [[{kind}]] {number}", problems) for number, entry in enumerate(entries, 1)
        ]
        found[kind] = tuple(rules)
    if not problems and not any(found.values()):
        problems.append(f"{source} has no rules.")
    raise_problems(problems, "`ichx data series-rules` prints the default rules with a description of the format.")
    return SeriesRules(found["leave_out"], found["prefer"], hashlib.sha256(text.encode()).hexdigest()[:16])


def _parse_rule(entry: Mapping[str, Any], where: str, problems: list[str]) -> SeriesRule:
    """Return the rule in `entry`; add to `problems`."""
    texts, ranges, flags = dict[str, re.Pattern[str]](), dict[str, tuple[float, float]](), dict[str, bool]()
    name = entry.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= 100 or not name.isprintable():
        problems.append(f"{where}: `name` must be a text of 1 to 100 characters.")
        name = ""
    for key, value in entry.items():
        if key.removeprefix("not_") in TEXTS and isinstance(value, str):
            try:
                texts[key] = re.compile(value, re.IGNORECASE)
            except re.error as error:
                problems.append(f"{where}: `{key}` is an invalid regular expression: {error}.")
        elif key in RANGES and _is_range(value):
            ranges[key] = (float(value[0]), float(value[1]))
        elif key in FLAGS and isinstance(value, bool):
            flags[key] = value
        elif key in CONDITIONS:
            wanted = "true or false" if key in FLAGS else "[least, most]" if key in RANGES else "a regular expression"
            problems.append(f"{where}: invalid value for `{key}`: {value!r}. Use {wanted}.")
        elif key != "name":
            hint = did_you_mean(key, CONDITIONS)
            problems.append(f"{where}: unknown condition `{key}`. {hint}Use {', '.join(CONDITIONS)}.")
    if len(entry) <= ("name" in entry):
        problems.append(f"{where}: a rule needs a condition.")
    return SeriesRule(name, texts, ranges, flags)


def _is_range(value: object) -> bool:
    """Whether `value` is a list of two numbers, the least first."""
    if not isinstance(value, list) or len(value) != 2 or not all(type(one) in (int, float) for one in value):
        return False
    least, most = value
    return bool(least <= most)
