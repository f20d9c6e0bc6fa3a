"""A recipe: everything that determines a training, as frozen dataclasses with a TOML form.

Every value has a name (`batch`, `input.size`, `stage.balanced.lr`) by which it can be set, compared and read.
"""

import dataclasses
import hashlib
import json
import math
import tomllib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ichx.errors import did_you_mean, raise_problems

FILE_WINDOW = (-1.0, -1.0)
"""Stands for the file's own default window."""

REFERENCE_WINDOWS = (FILE_WINDOW, (80.0, 200.0), (600.0, 2800.0))
"""The reference's three channels, (centre, width) in HU: the file's default, subdural, bone."""

MOST_NEIGHBOURS = 3
"""Slices above, and as many below, that may be channels."""

CHOICES: Mapping[str, tuple[str, ...]] = {
    "input.window_kind": ("linear", "sigmoid"),
    "input.centre": ("none", "slice", "series"),
    "input.resize": ("bilinear", "area"),
    "input.normalize": ("none", "imagenet"),
    "optimizer.name": ("radam",),
    "stage.*.sampling": ("fixed", "redrawn", "all"),
    "stage.*.scheduler": ("multistep", "cosine"),
    "precision": ("auto", "fp32", "fp16", "bf16"),
}


def _added(default: Any) -> Any:
    """Return a field that recipes of earlier versions do not have: at its default it is no part of a digest."""
    return field(default=default, metadata={"added": True})


@dataclass(frozen=True)
class ModelRecipe:
    """The network. `backbone` is a timm name with its weight tag, or a name that the plugin's own builder knows.

    `mask_weight` is what the loss of the masks counts beside that of the labels, in a network that predicts masks.
    """

    backbone: str
    pretrained: bool = True
    dropout: float = 0.0
    mask_weight: float = _added(0.0)


@dataclass(frozen=True)
class InputRecipe:
    """What the network sees. `size` and `crop` in pixels; `crop = 0` keeps the whole image.

    `neighbours` is the number of slices above and below that are channels beside the slice itself, each in all of
    `windows`.
    """

    size: int
    crop: int = 0
    windows: tuple[tuple[float, float], ...] = REFERENCE_WINDOWS
    window_kind: str = "linear"
    centre: str = "slice"
    resize: str = "bilinear"
    normalize: str = "none"
    neighbours: int = _added(0)

    @property
    def pixels(self) -> int:
        """Edge length of the image that the network gets."""
        return self.crop or self.size

    @property
    def slices(self) -> int:
        """Slices that the network sees at once: one, or one with its neighbours."""
        return 2 * self.neighbours + 1

    @property
    def channels(self) -> int:
        """Channels of the image that the network gets: slice by slice in their order, each in all windows."""
        return self.slices * len(self.windows)


@dataclass(frozen=True)
class OptimizerRecipe:
    """The optimizer, made anew in each stage."""

    name: str = "radam"
    weight_decay: float = 0.0


@dataclass(frozen=True)
class AugmentationRecipe:
    """With `probability` exactly one, evenly drawn, of the transforms that are on.

    `shift` and `scale` are shares of the image, `rotate` degrees, `anchors` and `elastic_*` pixels; 0 turns one off.
    Beside it, in every sample, each window's centre moves by up to `window_shift` HU, and its width changes by up to
    the share `window_scale`.
    """

    probability: float = 0.75
    hflip: bool = True
    shift: float = 0.05
    scale: float = 0.075
    rotate: float = 25.0
    grid_steps: int = 20
    grid_limit: float = 0.25
    anchors: float = 5.0
    elastic_alpha: float = 0.0
    elastic_sigma: float = 15.0
    window_shift: float = 0.0
    window_scale: float = 0.0


@dataclass(frozen=True)
class StageRecipe:
    """One part of a training.

    `sampling`: `fixed` takes all `any`-positive slices and as many negatives, the same in every epoch; `redrawn` draws
    the negatives anew each epoch; `all` takes every slice. `scheduler`: `multistep` multiplies `lr` by `gamma` at each
    of `milestones`, counted in epochs of this stage; `cosine` lets `lr` fall to 0 over the stage.
    """

    name: str
    sampling: str
    epochs: int
    lr: float
    scheduler: str = "multistep"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a training, but the data."""

    plugin: str
    model: ModelRecipe
    input: InputRecipe
    stage: tuple[StageRecipe, ...]
    batch: int
    seed: int = 0
    precision: str = "auto"
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)
    augmentation: AugmentationRecipe = field(default_factory=AugmentationRecipe)

    @property
    def epochs(self) -> int:
        """Epochs of all stages together."""
        return sum(stage.epochs for stage in self.stage)


def flatten(recipe: Recipe) -> dict[str, Any]:
    """Return every value of `recipe` by its name, in the recipe's order."""
    flat: dict[str, Any] = {}
    for spec in dataclasses.fields(recipe):
        value = getattr(recipe, spec.name)
        if spec.name == "stage":
            for stage in value:
                for inner in dataclasses.fields(stage):
                    if inner.name != "name":
                        flat[f"stage.{stage.name}.{inner.name}"] = getattr(stage, inner.name)
        elif dataclasses.is_dataclass(value):
            for inner in dataclasses.fields(value):
                flat[f"{spec.name}.{inner.name}"] = getattr(value, inner.name)
        else:
            flat[spec.name] = value
    return flat


def differences(first: Recipe, second: Recipe) -> dict[str, tuple[Any, Any]]:
    """Return the values that differ by name, in the first's order; None stands for one that a recipe does not have."""
    one, two = flatten(first), flatten(second)
    return {name: (one.get(name), two.get(name)) for name in one | two if one.get(name) != two.get(name)}


def digest(recipe: Recipe) -> str:
    """Return 16 hex digits that two recipes share exactly when they are equal, in whichever version they were made."""
    text = json.dumps(_digested(recipe), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _digested(value: Any) -> Any:
    """Return `value` as plain tables and lists, without the added fields that are at their default."""
    if isinstance(value, tuple):
        return [_digested(item) for item in value]
    if not dataclasses.is_dataclass(value):
        return value
    values = {spec: getattr(value, spec.name) for spec in dataclasses.fields(value)}
    return {
        spec.name: _digested(one)
        for spec, one in values.items()
        if not (spec.metadata.get("added") and one == spec.default)
    }


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
    merged = _merge(dataclasses.asdict(base) if base else {}, tables)
    recipe = _build(Recipe, merged, "", problems)
    raise_problems(
        [f"{source}: {problem}" for problem in problems], "see `ichx plugin show NAME --toml` for a whole recipe"
    )
    checked: Recipe = recipe
    _raise_invalid(checked)
    return checked


def apply_settings(recipe: Recipe, settings: Iterable[str]) -> Recipe:
    """Return `recipe` with `NAME=VALUE` settings, such as `stage.balanced.lr=5e-4`, applied in order.

    Raises `IchxError` with all unknown names and wrong values at once.
    """
    known = flatten(recipe)
    unknown: list[str] = []
    problems: list[str] = []
    tables: dict[str, Any] = dataclasses.asdict(recipe)
    for setting in settings:
        name, equals, text = setting.partition("=")
        name = name.strip()
        if not equals:
            unknown.append(f"{setting!r} is not of the form NAME=VALUE")
        elif name not in known or name == "plugin":
            unknown.append(f"a recipe has no value {name!r}; {did_you_mean(name, list(known))}".rstrip("; "))
        else:
            _assign(tables, name, _parse_value(text.strip()))
    built = _build(Recipe, tables, "", problems)
    if not problems:
        problems = invalid_values(built)
    raise_problems(unknown + problems, "`ichx plugin show NAME --toml` lists every name and value")
    result: Recipe = built
    return result


def invalid_values(recipe: Recipe) -> list[str]:
    """Return one line for each value that no training could use; an empty list for a good recipe."""
    problems: list[str] = []
    flat = flatten(recipe)

    def need(good: bool, name: str, what: str) -> None:
        if not good:
            problems.append(f"{name} = {flat[name]!r}: must be {what}")

    for name, value in flat.items():
        generic = ".".join(["stage", "*", name.split(".")[-1]]) if name.startswith("stage.") else name
        if generic in CHOICES:
            need(value in CHOICES[generic], name, "one of " + ", ".join(CHOICES[generic]))
        elif isinstance(value, float):
            need(math.isfinite(value), name, "a finite number")
    need(16 <= recipe.input.size <= 4096, "input.size", "between 16 and 4096 pixels")
    need(recipe.input.crop == 0 or 16 <= recipe.input.crop <= recipe.input.size, "input.crop", "0, or 16 to input.size")
    neighbours, windows = recipe.input.neighbours, len(recipe.input.windows)
    need(0 <= neighbours <= MOST_NEIGHBOURS, "input.neighbours", f"between 0 and {MOST_NEIGHBOURS}")
    if neighbours:
        need(windows in (1, 3), "input.windows", "one or three [centre, width] pairs")
        told = "series or none with input.neighbours, for slices that are moved one by one are no longer aligned"
        need(recipe.input.centre != "slice", "input.centre", told)
    else:
        need(windows == 3, "input.windows", "three [centre, width] pairs, or one with input.neighbours")
    need(
        all(len(w) == 2 and (tuple(w) == FILE_WINDOW or w[1] > 0) for w in recipe.input.windows),
        "input.windows",
        "pairs of centre and positive width, or [-1, -1] for the file's own",
    )
    need(1 <= recipe.batch <= 65536, "batch", "between 1 and 65536")
    need(0 <= recipe.seed < 2**32, "seed", "between 0 and 2^32 - 1")
    need(0 <= recipe.model.dropout < 1, "model.dropout", "in [0, 1)")
    need(0 <= recipe.model.mask_weight <= 1000, "model.mask_weight", "between 0 and 1000")
    need(recipe.optimizer.weight_decay >= 0, "optimizer.weight_decay", "0 or more")
    need(0 <= recipe.augmentation.probability <= 1, "augmentation.probability", "in [0, 1]")
    for name in ("shift", "scale", "grid_limit", "window_scale"):
        need(0 <= getattr(recipe.augmentation, name) < 1, f"augmentation.{name}", "in [0, 1)")
    for name in ("rotate", "anchors", "elastic_alpha", "window_shift"):
        need(getattr(recipe.augmentation, name) >= 0, f"augmentation.{name}", "0 or more")
    need(recipe.augmentation.grid_steps >= 1, "augmentation.grid_steps", "1 or more")
    need(recipe.augmentation.elastic_sigma > 0, "augmentation.elastic_sigma", "positive")
    if not recipe.stage:
        problems.append("a recipe needs at least one [[stage]]")
    names = [stage.name for stage in recipe.stage]
    problems += [f"two stages are called {name!r}" for name in sorted({n for n in names if names.count(n) > 1})]
    for stage in recipe.stage:
        if not stage.name.isidentifier():
            problems.append(f"stage name {stage.name!r}: must be a word of letters, digits and _")
        prefix = f"stage.{stage.name}"
        need(1 <= stage.epochs <= 10000, f"{prefix}.epochs", "between 1 and 10000")
        need(0 < stage.lr <= 10, f"{prefix}.lr", "in (0, 10]")
        need(stage.gamma > 0, f"{prefix}.gamma", "positive")
        rising = all(a < b for a, b in zip(stage.milestones, stage.milestones[1:], strict=False))
        need(rising and all(m >= 1 for m in stage.milestones), f"{prefix}.milestones", "rising epochs from 1")
        if stage.scheduler == "cosine" and stage.milestones:
            problems.append(f"{prefix}.milestones = {stage.milestones!r}: must be empty, for `cosine` has none")
    return problems


def _raise_invalid(recipe: Recipe) -> None:
    raise_problems(invalid_values(recipe), "correct these values")


def literal(value: object) -> str:
    """Return `value` as TOML has it and `apply_settings` takes it; floats keep their shortest exact form."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(literal(item) for item in value) + "]"
    return repr(value)


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
    else:
        target = tables[path[0]] if path else tables
    target[last] = value


def _build(kind: type, raw: object, name: str, problems: list[str]) -> Any:
    """Return `raw` (tables and lists as TOML has them) as a dataclass `kind`, noting what does not fit."""
    if not isinstance(raw, dict):
        problems.append(f"{name} must be a table")
        return None
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
        if key in raw:
            values[key] = _convert(hints[key], raw[key], dotted + key, problems)
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            problems.append(f"{dotted + key} is missing")
    return kind(**values) if not problems else None


def _convert(hint: Any, value: object, name: str, problems: list[str]) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _build(hint, value, name, problems)
    if typing.get_origin(hint) is tuple:
        inner, *rest = typing.get_args(hint)
        if not isinstance(value, list | tuple):
            problems.append(f"{name} = {value!r}: must be a list")
            return ()
        if rest != [...] and len(value) != 1 + len(rest):
            problems.append(f"{name} = {value!r}: must have {1 + len(rest)} values")
            return ()
        return tuple(_convert(inner, item, _item_name(name, item), problems) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
        problems.append(f"{name} = {value!r}: must be {words[hint]}")
    return value


def _item_name(name: str, item: object) -> str:
    """Return the dotted name of a stage table; other list items go by their list's name."""
    return f"stage.{item.get('name', '?')}" if name == "stage" and isinstance(item, dict) else name
