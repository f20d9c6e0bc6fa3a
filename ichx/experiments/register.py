"""Registers experiments: a plugin's recipe with the user's settings, pinned to a dataset version and its folds."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ichx.errors import IchxError
from ichx.plugins.reference import REFERENCE
from ichx.recipe import Recipe, digest
from ichx.recipe_text import apply_settings, from_toml, to_toml
from ichx.store import ExperimentDraft

if TYPE_CHECKING:
    from ichx.plugins import Registry
    from ichx.store import DatasetVersion, Experiment, Store


def new_experiment(
    store: "Store",
    registry: "Registry",
    *,
    plugin: str | None = None,
    file: Path | None = None,
    size: int | None = None,
    crop: int | None = None,
    kind: str | None = None,
    settings: Sequence[str] = (),
    dataset: str | None = None,
    folds: str | None = None,
    name: str | None = None,
) -> "Experiment":
    """Register one experiment, from a plugin's recipe or a TOML file, and return it.

    It is pinned to the newest version of `dataset` and to its folds called `folds`, by default those drawn by ichx.
    Raises `IchxError` for unknown names, values that no training could use, and where there is no labelled dataset.
    """
    recipe = _recipe(registry, plugin, file, size, crop, kind)
    recipe = apply_settings(recipe, settings)
    version = labelled_version(store, dataset)
    return store.add_experiments([draft(recipe, version, folds=folds, name=name)])[0]


def new_reference(
    store: "Store", registry: "Registry", *, dataset: str | None = None, folds: str | None = None
) -> "list[Experiment]":
    """Register the reference solution's six experiments, in its order, and return them."""
    version = labelled_version(store, dataset)
    drafts = []
    for number, model in enumerate(REFERENCE, start=1):
        drafts.append(draft(model.recipe(registry), version, folds=folds, name=f"reference-{number}"))
    return store.add_experiments(drafts)


def clone_experiment(
    store: "Store",
    registry: "Registry",
    number: int,
    *,
    settings: Sequence[str] = (),
    version: int | None = None,
    folds: str | None = None,
    name: str | None = None,
) -> "Experiment":
    """Register an experiment like `number`, with `settings` changed, and return it; its parent is `number`.

    It stands on the same data and folds, or on another `version` of its dataset or other `folds`. What was chosen by a
    validation score stays marked so. Raises `IchxError` for settings, versions and folds that there are not.
    """
    model = store.experiment(number)
    recipe = apply_settings(from_toml(model.recipe, source=f"the recipe of experiment {number}"), settings)
    registry.get(recipe.plugin)
    pinned = store.version_by_id(model.version_id)
    if version is not None:
        pinned = store.version(model.dataset, version)
    drafted = draft(recipe, pinned, folds=folds or model.fold_set, name=name, parent=number)
    return store.add_experiments([replace(drafted, selected=drafted.selected or model.selected)])[0]


def labelled_version(store: "Store", dataset: str | None) -> "DatasetVersion":
    """Return the newest version of `dataset`, or of the only labelled one; `IchxError` if that is not clear."""
    if dataset is not None:
        if not store.dataset(dataset).trainable:
            raise IchxError(f"{dataset} is a test set, without labels", "name the labelled dataset with --dataset")
        return store.version(dataset)
    names = [d.name for d in store.datasets() if d.trainable]
    if not names:
        raise IchxError("there is no labelled dataset yet", "add one: `ichx data add NAME PATH --labels CSV`")
    if len(names) > 1:
        raise IchxError(
            f"there are {len(names)} labelled datasets: {', '.join(names)}", "choose one with --dataset NAME"
        )
    return store.version(names[0])


def draft(
    recipe: Recipe,
    version: "DatasetVersion",
    *,
    folds: str | None = None,
    name: str | None = None,
    parent: int | None = None,
    kind: str = "experiment",
) -> ExperimentDraft:
    """Return the draft of an experiment with `recipe`, pinned to `version` and its `folds` (the default ones)."""
    fold_set = version.fold_set(folds)
    image = recipe.input
    return ExperimentDraft(
        name=name or f"{recipe.plugin}-{image.size}-{image.window_kind}",
        plugin=recipe.plugin,
        size=image.size,
        window_kind=image.window_kind,
        recipe=to_toml(recipe),
        recipe_digest=digest(recipe),
        version_id=version.id,
        label_digest=version.label_digest or "",
        fold_set_id=fold_set.id,
        fold_digest=fold_set.digest,
        epochs=recipe.epochs,
        parent=parent,
        kind=kind,
        selected=recipe.selects,
    )


def _recipe(
    registry: "Registry", plugin: str | None, file: Path | None, size: int | None, crop: int | None, kind: str | None
) -> Recipe:
    if file is None:
        if plugin is None:
            raise IchxError("no model was chosen", "give --plugin NAME (see `ichx plugin list`) or --from FILE.toml")
        return registry.get(plugin).recipe_for(size=size, crop=crop, kind=kind)
    if size is not None or crop is not None or kind is not None:
        raise IchxError("--from brings its own image", "set values of it with --set, such as --set input.size=256")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = getattr(error, "strerror", None) or error
        raise IchxError(
            f"cannot read {file}: {what}", "give a recipe as `ichx plugin show NAME --toml` prints it"
        ) from error
    base = registry.get(plugin).recipe if plugin is not None else None
    recipe = from_toml(text, base, source=str(file))
    registry.get(recipe.plugin)
    if plugin is not None and recipe.plugin != plugin:
        raise IchxError(
            f"{file} is a recipe of {recipe.plugin!r}, not of {plugin!r}", "leave out --plugin, or give the other file"
        )
    return recipe
