"""A recipe as text: its TOML form and the settings `NAME=VALUE`, read with every problem told at once."""

import dataclasses
import tomllib
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from ichx.errors import did_you_mean, raise_problems
from ichx.recipe import WINDOW_PARTS, Recipe, settable
from ichx.recipe import literal as literal  # part of the text form: named here, too
from ichx.recipe_rules import invalid_values


def to_toml(recipe: Recipe) -> str:
    """Return the recipe as TOML with nothing implied; `from_toml` reads it back to an equal recipe."""
    tables: dict[str, Any] = dataclasses.asdict(recipe)
    stages = tables.pop("stage")
    lines = [f"{name} = {literal(value)}" for name, value in tables.items() if not isinstance(value, dict)]
    for title, table in tables.items():
        if isinstance(table, dict):
            lines += ["", f"[{title}]", *(f"{name} = {literal(value)}" for name, value in table.items())]
    for stage in stages:
        lines += ["", "[[stage]]", *(f"{name} = {literal(value)}" for name, value in stage.items())]
    return "\n".join(lines) + "\n"


def from_toml(text: str, base: Recipe | None = None, *, source: str = "the recipe") -> Recipe:
    """Return the recipe in `text`; what it leaves out comes from `base`, or from the fields' defaults.

    Raises `IchxError` with every problem: not TOML, unknown names, wrong types, values out of range.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise_problems([f"{source} is not valid TOML: {error}"], "mend the file")
        raise AssertionError from error  # raise_problems has raised
    problems: list[str] = []
    recipe: Recipe = _build(Recipe, _merge(dataclasses.asdict(base) if base else {}, tables), "", problems)
    remedy = "see `ichx plugin show NAME --toml` for a whole recipe" if problems else "correct these values"
    problems += invalid_values(recipe)
    raise_problems([f"{source}: {problem}" for problem in problems], remedy)
    return recipe


def apply_settings(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """Return `recipe` with `NAME=VALUE` settings, such as `stage.balanced.lr=5e-4`, applied in order.

    Raises `IchxError` with all unknown names and wrong values at once.
    """
    known = settable(recipe)
    problems: list[str] = []
    tables: dict[str, Any] = dataclasses.asdict(recipe)
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals:
            problems.append(f"{setting!r} is not of the form NAME=VALUE")
        elif name not in known:
            problems.append(f"a recipe has no value {name!r}; {did_you_mean(name, list(known))}".rstrip("; "))
        else:
            _assign(tables, name, _parse_value(text.strip()))
    built: Recipe = _build(Recipe, tables, "", problems)
    problems += invalid_values(built)
    raise_problems(problems, "`ichx plugin show NAME --toml` lists every name and value")
    return built


def _parse_value(text: str) -> object:
    """Return `text` read as a TOML value; what is none is a plain text, so that quotes may be left out."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _merge(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in over.items():
        old = merged.get(name)
        merged[name] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _assign(tables: dict[str, Any], name: str, value: object) -> None:
    *path, last = name.split(".")
    if path and path[0] == "stage":
        target = next(stage for stage in tables["stage"] if stage["name"] == path[1])
    elif path[:2] == ["input", "windows"]:
        windows = [list(window) for window in tables["input"]["windows"]]
        windows[int(path[2]) - 1][WINDOW_PARTS.index(last)] = value
        tables["input"]["windows"] = windows
        return
    else:
        target = tables[path[0]] if path else tables
    target[last] = value


def _build(kind: type, raw: object, name: str, problems: list[str]) -> Any:
    """Return `raw` (tables and lists as TOML has them) as a dataclass `kind`, noting what does not fit.

    What does not fit is replaced by values that have no fault, so that faults of the others can be told with it.
    """
    if not isinstance(raw, dict):
        problems.append(f"{name} = {literal(raw)}: must be a table")
        return _build(kind, {}, name, [])
    hints = typing.get_type_hints(kind)
    specs = {spec.name: spec for spec in dataclasses.fields(kind)}
    dotted = f"{name}." if name else ""
    problems += [
        f"a recipe has no value {dotted + key!r}; {did_you_mean(key, list(specs))}".rstrip("; ")
        for key in raw
        if key not in specs
    ]
    values: dict[str, Any] = {}
    for key, spec in specs.items():
        before = len(problems)
        if key in raw:
            values[key] = _convert(hints[key], raw[key], dotted + key, problems)
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            problems.append(f"{dotted + key} is missing")
        if key not in values or (len(problems) > before and not _holds_tables(hints[key])):
            values[key] = _faultless(spec, hints[key])
    return kind(**values)


def _faultless(spec: dataclasses.Field[Any], hint: Any) -> Any:
    """Return a value for a field that has no fault, by itself or beside the others: its default where it has one."""
    if spec.default is not dataclasses.MISSING:
        return spec.default
    if spec.default_factory is not dataclasses.MISSING:
        return spec.default_factory()
    if typing.get_origin(hint) is tuple:
        return (_build(typing.get_args(hint)[0], {}, spec.name, []),)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, {}, spec.name, [])
    return {str: "all", int: 4096, float: 1.0}[hint]  # a sampling, a size or number of epochs, a rate


def _holds_tables(hint: Any) -> bool:
    return any(dataclasses.is_dataclass(kind) for kind in (hint, *typing.get_args(hint)))


def _convert(hint: Any, value: object, name: str, problems: list[str]) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, name, problems)
    if typing.get_origin(hint) is tuple:
        inner, *rest = typing.get_args(hint)
        if not isinstance(value, list | tuple):
            problems.append(f"{name} = {literal(value)}: must be a list")
            return (_build(inner, {}, name, []),) if _holds_tables(hint) else ()
        if rest != [...] and len(value) != 1 + len(rest):
            problems.append(f"{name} = {literal(value)}: must have {1 + len(rest)} values")
            return ()
        return tuple(_convert(inner, item, _item_name(name, item), problems) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        problems.append(f"{name} = {literal(value)}: must be {words[hint]}")
    return value


def _item_name(name: str, item: object) -> str:
    """Return the dotted name of a stage table; other list items go by their list's name."""
    return f"stage.{item.get('name', '?')}" if name == "stage" and isinstance(item, dict) else name
