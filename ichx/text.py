"""Counts, examples and sizes in messages, text that is safe to print, and JSON and TOML of unknown origin.

Tables and colours are in `ichx.cli`.
"""

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any, Final

UNSAFE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that control a terminal, change the direction of text, or belong to no encoding; not tab and newline."""

_FORMULA_STARTS: Final = "=+-@\t\n"
EXAMPLES: Final = 3
"""Maximum number of rows or ids that a message names."""

UNITS: Final = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
"""Units of sizes in bytes."""


def format_count(count: int, one: str, many: str = "") -> str:
    """Return e.g. `1 study` or `1,234 studies`; `many` defaults to `one` with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def format_examples(examples: Iterable[str], count: int | None = None) -> str:
    """Return `: a, b`, or `, e.g. a, b, c` if there are more; `count` is the number of all of them.

    Semicolons separate examples that contain commas.
    """
    found = list(examples)
    total = len(found) if count is None else count
    shown = found[:EXAMPLES]
    separator = "; " if any("," in example for example in shown) else ", "
    return (", e.g. " if total > EXAMPLES else ": ") + separator.join(shown)


def format_folds(folds: Sequence[int]) -> str:
    """Return e.g. `fold 0` or `folds 0, 1`."""
    return f"{'fold' if len(folds) == 1 else 'folds'} {', '.join(map(str, folds))}"


def format_command(command: str, *arguments: object) -> str:
    """Return a command in backticks, its arguments quoted for a shell, e.g. `ichx init 'head ct'`."""
    return f"`{shlex.join([*command.split(), *map(str, arguments)])}`"


def format_bytes(count: int) -> str:
    """Return a size with its unit: `812 B`, `4.2 kB`, `31 MB`, `91.2 GB`, `1.5 TB`."""
    if count < 1000:
        return f"{count} B"
    unit, name = next((size, unit) for size, unit in UNITS if count >= 0.9995 * size or unit == "kB")
    return f"{count / unit:,.0f} {name}" if name != "GB" and count >= 10 * unit else f"{count / unit:,.1f} {name}"


def parse_duration(text: str) -> float | None:
    """Return the seconds in e.g. `90s`, `5m`, `1.5h` or `2d`; None for another text."""
    found = re.fullmatch(r"(\d{1,12}(?:\.\d+)?)([smhd])", text.strip())
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]] if found else None


def parse_bytes(text: str) -> int | None:
    """Return the bytes in e.g. `24GB`, `800 MB` or `1T`; None for another text."""
    found = re.fullmatch(r"(\d{1,12}(?:\.\d+)?) ?([MGT])B?", text.strip(), flags=re.IGNORECASE)
    return round(float(found[1]) * {"M": 1e6, "G": 1e9, "T": 1e12}[found[2].upper()]) if found else None


def escape(text: str, *, lines: bool = False) -> str:
    r"""Return `text` with `UNSAFE` characters as escape sequences, e.g. `\x1b`; with `lines`, tab and newline too."""
    text = UNSAFE.sub(_escaped, text)
    return text.replace("\n", "\\n").replace("\t", "\\t") if lines else text


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


def csv_text(text: str) -> str:
    """Return `text` for a CSV field: escaped, and with an apostrophe if a spreadsheet would compute it."""
    text = escape(text)
    if len(text) < 2 or text[0] not in _FORMULA_STARTS:
        return text
    try:
        float(text)
    except ValueError:
        return f"'{text}"
    return text


def parse_json(content: str | bytes) -> Any:
    """Return the value of a JSON text. Raises `ValueError` for every invalid one, also one nested too deeply."""
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def parse_toml(text: str) -> dict[str, Any]:
    """Return the tables of a TOML text.

    Raises `TOMLDecodeError` for every invalid one, also one nested too deeply or with a number of too many digits.
    """
    import tomllib  # only here: most users of this module read no TOML

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        raise
    except RecursionError as error:
        raise tomllib.TOMLDecodeError("it is nested too deeply") from error
    except ValueError as error:
        raise tomllib.TOMLDecodeError(str(error)) from error
