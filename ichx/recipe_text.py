"""Recipes as text: the TOML form and `NAME=VALUE` settings. All problems of a text are reported together."""

import dataclasses
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Final

from ichx.errors import InvalidInputError, did_you_mean, raise_problems
from ichx.recipe import NO_IMAGE, WINDOW_PARTS, Recipe, has_part, literal, settable
from ichx.recipe_rules import invalid_values
from ichx.text import parse_toml

EVERY_STAGE: Final = "stage.*."
_REMEDY = "`ichx plugin show NAME --toml` shows a complete recipe."
_TYPE_NAMES = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}


def to_toml(recipe: Recipe) -> str:
    """Return `recipe` as TOML with every value written out; `from_toml` returns an equal recipe."""
    tables = {name: value for name, value in dataclasses.asdict(recipe).items() if has_part(recipe, name)}
    stages = tables.pop("stage")
    lines = [f"{name} = {literal(value)}" for name, value in tables.items() if not isinstance(value, dict)]
    for title, table in tables.items():
        if isinstance(table, dict):
            lines += ["", f"[{title}]", *(f"{name} = {literal(value)}" for name, value in table.items())]
    for stage in stages:
        lines += ["", "[[stage]]", *(f"{name} = {literal(value)}" for name, value in stage.items())]
    return "\n".join(lines) + "\n"


def from_toml(text: str, base: Recipe | None = None, *, source: str = "the recipe") -> Recipe:
    """Return the recipe in `text`.

    Args:
        text: A recipe as TOML. It may leave out values.
        base: Supplies the values that `text` leaves out; without it they have the defaults of the fields.
        source: What the text is, e.g. a path; used in messages.

    Raises:
        InvalidInputError: Invalid TOML, unknown or missing names, wrong types, invalid values: all of them together.
    """
    try:
        tables = parse_toml(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInputError(f"Invalid TOML in {source}: {error}.", "Correct the syntax.") from error
    problems: list[str] = []
    merged = _merge(dataclasses.asdict(base) if base else {}, tables)
    if merged.get("sequence") is not None:
        problems += [_unknown(name, name, ()) for name in NO_IMAGE if name in tables]
        merged |= {name: dataclasses.asdict(part) for name, part in NO_IMAGE.items()}
    recipe: Recipe = _build(Recipe, merged, "", problems)
    problems += invalid_values(recipe)
    raise_problems([f"{source}: {problem}" for problem in problems], _REMEDY)
    return recipe


def apply_settings(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """Return `recipe` changed by `NAME=VALUE` settings, e.g. `stage.balanced.lr=5e-4`, in their order.

    `stage.*.NAME` is a value of every stage.

    Raises:
        InvalidInputError: Unknown names and invalid values, all of them together.
    """
    known = settable(recipe)
    problems: list[str] = []
    tables: dict[str, Any] = dataclasses.asdict(recipe)
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        names = _of_stages(name, recipe)
        if not equals:
            problems.append(f"Invalid setting {setting!r}. Use the form NAME=VALUE.")
        elif not set(names) <= known.keys():
            problems.append(_unknown(name, names[0], known))
        else:
            for one in names:
                _assign(tables, one, _parse_value(text.strip()))
    changed: Recipe = _build(Recipe, tables, "", problems)
    problems += invalid_values(changed)
    raise_problems(problems, _REMEDY)
    return changed


def _of_stages(name: str, recipe: Recipe) -> list[str]:
    """Return the names that `name` stands for: several for `stage.*.NAME`."""
    if not name.startswith(EVERY_STAGE) or name == f"{EVERY_STAGE}name":
        return [name]
    return [f"stage.{stage.name}.{name.removeprefix(EVERY_STAGE)}" for stage in recipe.stage]


def _unknown(name: str, key: str, known: Iterable[str]) -> str:
    return f"Unknown recipe value {name!r}. {did_you_mean(key, list(known))}".strip()


def _parse_value(text: str) -> object:
    """Return `text` as a TOML value, or as a string if it is none: the quotes of a string may be left out."""
    try:
        return parse_toml(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _merge(base: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        old = merged.get(name)
        merged[name] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _assign(tables: dict[str, Any], name: str, value: object) -> None:
    *path, last = name.split(".")
    if path[:2] == ["input", "windows"]:
        windows = [list(window) for window in tables["input"]["windows"]]
        windows[int(path[2]) - 1][WINDOW_PARTS.index(last)] = value
        tables["input"]["windows"] = windows
        return
    if path[:1] == ["stage"]:
        target = next(stage for stage in tables["stage"] if stage["name"] == path[1])
    else:
        target = tables[path[0]] if path else tables
    target[last] = value


def _build(kind: type, raw: object, name: str, problems: list[str]) -> Any:
    """Return `raw` (tables and lists of TOML) as an instance of the dataclass `kind`.

    Each problem is appended to `problems`, and a valid placeholder replaces the value, so that `invalid_values` can
    check the other values of the recipe.
    """
    if not isinstance(raw, dict):
        problems.append(f"{name} = {literal(raw)}: must be a table")
        return _build(kind, {}, name, [])
    hints = typing.get_type_hints(kind)
    specs = {spec.name: spec for spec in dataclasses.fields(kind)}
    prefix = f"{name}." if name else ""
    problems += [_unknown(prefix + key, key, specs) for key in raw if key not in specs]
    values: dict[str, Any] = {}
    for key, spec in specs.items():
        before = len(problems)
        if key in raw:
            values[key] = _convert(hints[key], raw[key], prefix + key, problems)
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            problems.append(f"{prefix + key} is missing")
        if key not in values or (len(problems) > before and not _holds_tables(hints[key])):
            values[key] = _placeholder(spec, hints[key])
    return kind(**values)


def _placeholder(spec: dataclasses.Field[Any], hint: Any) -> Any:
    """Return a value of a field that no rule rejects: its default, if it has one."""
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
    if isinstance(hint, types.UnionType):
        return None if value is None else _convert(typing.get_args(hint)[0], value, name, problems)
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
        problems.append(f"{name} = {literal(value)}: must be {_TYPE_NAMES[hint]}")
    return value


def _item_name(name: str, item: object) -> str:
    """Return the dotted name of a stage; items of other lists have the name of their list."""
    return f"stage.{item.get('name', '?')}" if name == "stage" and isinstance(item, dict) else name
