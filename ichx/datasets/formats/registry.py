"""Finds formats: the built-in ones, and those that packages declare in the entry-point group `ichx.formats`."""

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Final

from ichx.datasets.formats.contract import DatasetFormat, FormatContents
from ichx.datasets.formats.files import FormatFiles
from ichx.errors import NotFoundError, raise_problems

GROUP: Final = "ichx.formats"
"""Entry-point group. An entry point names a `DatasetFormat`."""

BUILT_IN: Final[tuple[str, ...]] = ("bhsd", "bhx", "cq500", "ct_ich", "instance22", "mbh_seg", "seg_cq500")
"""Modules of this package with a constant `FORMAT`."""


@dataclass(frozen=True)
class FormatRegistry:
    """All formats by name, and one line for each entry point that could not be used."""

    formats: dict[str, DatasetFormat]
    warnings: tuple[str, ...]

    def get(self, name: str) -> DatasetFormat:
        """Return the format called `name`; raises `NotFoundError` with the nearest names."""
        if name not in self.formats:
            raise NotFoundError.named("format", name, self.formats, "`ichx data formats` lists them all.")
        return self.formats[name]


def load_formats(points: Iterable[EntryPoint] | None = None) -> FormatRegistry:
    """Return the built-in formats and those of `points` (all installed ones); the first of a name counts."""
    found: dict[str, DatasetFormat] = {}
    for module in BUILT_IN:
        built_in: DatasetFormat = importlib.import_module(f"{__package__}.{module}").FORMAT
        found[built_in.name] = built_in
    warnings: list[str] = []
    ordered = sorted(entry_points(group=GROUP) if points is None else points, key=lambda p: (p.value, p.name))
    for point in ordered:
        try:
            declared = point.load()
        except Exception as error:  # a third party's code may raise anything
            warnings.append(f"format {point.name!r} ({point.value}) cannot be used: {type(error).__name__}: {error}")
            continue
        if not isinstance(declared, DatasetFormat):
            warnings.append(f"format {point.name!r} ({point.value}) is a {type(declared).__name__}, no DatasetFormat")
        elif declared.name in found:
            warnings.append(f"format {point.name!r} ({point.value}): the name {declared.name!r} is taken; skipped")
        else:
            found[declared.name] = declared
    return FormatRegistry(dict(sorted(found.items())), tuple(warnings))


def read_format(name: str, source: Path, options: Mapping[str, str] | None = None) -> FormatContents:
    """Return what `source` contains in the format `name`, with `options` of the format by name.

    Raises `NotFoundError` for an unknown format, `InvalidInputError` for an option that it does not have, and
    `IchxError` if the source has another layout.
    """
    declared = load_formats().get(name)
    problems = []
    for option, value in (options or {}).items():
        choices = declared.options.get(option)
        if choices is None:
            known = ", ".join(declared.options) or "none"
            problems.append(f"The format {name!r} has no option {option!r}. Its options: {known}.")
        elif value not in choices:
            problems.append(f"Invalid value of {option!r}: {value!r}. Use {' or '.join(choices)}.")
    raise_problems(problems, "Use --format-option NAME=VALUE with a name and a value of the format.")
    chosen = {option: choices[0] for option, choices in declared.options.items()} | dict(options or {})
    return declared.read(FormatFiles(source, name, chosen))
