"""Registers experiments: a plugin's recipe with the user's settings, pinned to a dataset version and folds."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ichx.errors import (
    MAX_NAME,
    ConflictError,
    CorruptFileError,
    InvalidInputError,
    NotFoundError,
    NotReadyError,
    StorageError,
    check_name,
)
from ichx.experiments.label_checks import adapted_to_labels, check_recipe_for_labels
from ichx.files import read_text
from ichx.labels import PSEUDO
from ichx.plugins.backbones import check_backbone
from ichx.plugins.reference import REFERENCE
from ichx.recipe import EXTERNAL_PLUGIN, Recipe, digest, literal
from ichx.recipe_text import apply_settings, from_toml, to_toml
from ichx.store import ExperimentDraft, Selection, require_network

if TYPE_CHECKING:
    from ichx.plugins import Plugin, Registry
    from ichx.store import DatasetVersion, Experiment, Store


MAX_SEEDS = 100
STUDY_POOLING = "loss.study_pooling"
USE_RECIPE = "Use a recipe as `ichx plugin show NAME --toml` prints it."


@dataclass(frozen=True)
class ExperimentRequest:
    """What to register: a plugin's recipe or a TOML file, changed by settings, on a dataset and its folds."""

    plugin: str | None = None
    preset: str | None = None
    """Name of one of the plugin's presets; None for its default recipe."""
    file: Path | None = None
    """A recipe as TOML; then `size`, `crop` and `kind` must be None."""
    size: int | None = None
    """Cached and trained image size in pixels."""
    crop: int | None = None
    """Centre crop in pixels."""
    kind: str | None = None
    """Window kind: `linear` or `sigmoid`."""
    settings: Sequence[str] = ()
    """`NAME=VALUE` texts."""
    backbone: str | None = None
    """The recipe's `model.backbone`."""
    dataset: str | None = None
    """A labelled dataset; None for the only one."""
    folds: str | None = None
    """Name of its folds; None for the default ones."""
    name: str | None = None
    """Name of the experiment; None for `default_name`."""
    seeds: int = 1
    """Number of experiments, whose seeds are consecutive."""


def new_experiment(store: "Store", registry: "Registry", request: ExperimentRequest) -> "Experiment":
    """Register one experiment, pinned to the newest version of its dataset, and return it.

    Raises:
        NotFoundError: A name is unknown.
        InvalidInputError: The recipe or a setting is invalid.
        NotReadyError: There is no labelled dataset.
    """
    return new_experiments(store, registry, replace(request, seeds=1))[0]


def new_experiments(store: "Store", registry: "Registry", request: ExperimentRequest) -> "list[Experiment]":
    """Register `request.seeds` experiments, or none. Raises like `new_experiment`.

    Where studies are labelled, the recipe of a plugin has the pooling of `adapted_to_labels`, unless a setting names
    another one. A recipe from a file stays as it is.
    """
    recipe = requested_recipe(registry, request)
    plugin = registry.get(recipe.plugin)
    if recipe.sequence is not None:
        raise InvalidInputError(
            f"{plugin.name} reads the outputs of other experiments, and none is named.", "Name them: --members 1,2."
        )
    check_backbone(plugin, recipe)
    version = labelled_version(store, request.dataset)
    if request.file is None and not any(_name_of(setting) == STUDY_POOLING for setting in request.settings):
        recipe = adapted_to_labels(recipe, version)
    name = request.name or default_name(recipe, plugin)
    if not 1 <= request.seeds <= MAX_SEEDS:
        raise InvalidInputError(f"Invalid number of seeds: {request.seeds}.", f"Use 1 to {MAX_SEEDS}.")
    drafts = []
    for seed in range(recipe.seed, recipe.seed + request.seeds):
        sibling = name if request.seeds == 1 else f"{name}-seed{seed}"
        drafts.append(draft(replace(recipe, seed=seed), version, folds=request.folds, name=sibling))
    return store.add_experiments(drafts)


def requested_recipe(registry: "Registry", request: ExperimentRequest) -> Recipe:
    """Return the recipe of a request, with its settings. Raises like `new_experiment`."""
    return apply_settings(_recipe(registry, request), _all_settings(request))


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
    """Register a copy of experiment `number` with changed `settings`, and return it; its parent is `number`.

    It is pinned to the same data and folds, or to another `version` of the dataset or other `folds`. A mark `selected`
    is inherited.

    Raises:
        NotFoundError: A version, folds or the experiment do not exist.
        InvalidInputError: A setting is invalid.
    """
    model = store.experiment(number)
    require_network(model, "clone it")
    recipe = apply_settings(from_toml(model.recipe, source=f"the recipe of experiment {number}"), settings)
    plugin = registry.get(recipe.plugin)
    check_backbone(plugin, recipe)
    pinned = store.version_by_id(model.version_id)
    if version is not None:
        pinned = store.version(model.dataset, version)
    if model.members and (version, folds) != (None, None):
        raise InvalidInputError(
            f"Experiment {number} has the data and folds of its members {', '.join(map(str, model.members))}.",
            "Clone the members first, and register a sequence experiment on these.",
        )
    drafted = draft(
        recipe,
        pinned,
        folds=folds or model.fold_set,
        name=name or default_name(recipe, plugin, model.members),
        parent=number,
        members=model.members,
    )
    return store.add_experiments([replace(drafted, selected=drafted.selected or model.selected)])[0]


def equal_experiments(store: "Store", experiment: "Experiment") -> "list[Experiment]":
    """Return the older experiments outside the trash with the recipe, slices, labels and folds of `experiment`.

    Mixtures have equal shares of their parts, too.
    """
    shares = store.version_by_id(experiment.version_id).part_shares
    found = store.experiments(Selection(recipe_digest=experiment.recipe_digest), limit=None)
    others = [store.experiment(e.number) for e in found if e.number < experiment.number]
    equal = [e for e in others if _pins(e) == _pins(experiment)]
    return [e for e in equal if store.version_by_id(e.version_id).part_shares == shares]


def _pins(e: "Experiment") -> tuple[str, str, float, tuple[int, ...]]:
    return e.label_digest, e.fold_digest, e.subset, e.members


def default_name(recipe: Recipe, plugin: "Plugin", members: Sequence[int] = ()) -> str:
    """Return the name of an experiment that its user does not name."""
    if members:
        return "-".join([recipe.plugin, *map(str, members)])[:MAX_NAME]
    backbone = recipe.model.backbone
    own = [] if backbone == plugin.recipe.model.backbone else [backbone]
    return "-".join([recipe.plugin, *own, str(recipe.input.size), recipe.input.window_kind])[:MAX_NAME]


def labelled_version(store: "Store", dataset: str | None) -> "DatasetVersion":
    """Return the newest version of `dataset`, or of the only labelled dataset; one with folds comes first.

    Raises:
        InvalidInputError: The dataset has no labels, or there are several and none was chosen.
        NotReadyError: There is no labelled dataset.
    """
    if dataset is not None:
        if not store.dataset(dataset).trainable:
            raise InvalidInputError(
                f"{dataset} is a test set without labels.", "Choose a labelled one with --dataset NAME."
            )
        return _scored(store.version(dataset))
    names = [d.name for d in store.datasets() if d.trainable and PSEUDO not in store.version(d.name).summary]
    if not names:
        raise NotReadyError("There is no labelled dataset yet.", "Add one: `ichx data add NAME PATH --labels CSV`.")
    if len(names) > 1:  # a dataset without folds is only used for evaluation
        names = [name for name in names if store.version(name).folds] or names
    if len(names) > 1:
        raise InvalidInputError(
            f"There are {len(names)} labelled datasets: {', '.join(names)}.", "Choose one with --dataset NAME."
        )
    return store.version(names[0])


def _scored(version: "DatasetVersion") -> "DatasetVersion":
    """Return `version`; raise `InvalidInputError` if all of it is pseudo-labels, which are never scored."""
    origin = version.summary.get(PSEUDO)
    if origin is None:
        return version
    labelled = origin["trained_on"]["labelled"]
    raise InvalidInputError(
        f"{version.dataset} has pseudo-labels only, which are never scored.",
        f"Train on them together with the labelled data: --dataset {labelled}+{version.dataset}.",
    )


def draft(
    recipe: Recipe,
    version: "DatasetVersion",
    *,
    folds: str | None = None,
    name: str | None = None,
    parent: int | None = None,
    members: Sequence[int] = (),
) -> ExperimentDraft:
    """Return the draft of an experiment with `recipe`, pinned to `version` and its `folds` (by default the first)."""
    fold_set = version.fold_set(folds)
    check_recipe_for_labels(recipe, version)
    size, window_kind = image_facts(recipe)
    return ExperimentDraft(
        name=check_name("name", name) if name else f"{recipe.plugin}-{size}-{window_kind}",
        plugin=recipe.plugin,
        size=size,
        window_kind=window_kind,
        recipe=to_toml(recipe),
        recipe_digest=digest(recipe),
        version_id=version.id,
        label_digest=version.label_digest or "",
        fold_set_id=fold_set.id,
        fold_digest=fold_set.digest,
        epochs=recipe.epochs,
        parent=parent,
        selected=recipe.selects,
        members=tuple(members),
    )


def image_facts(recipe: Recipe) -> tuple[int, str]:
    """Return the image size and window kind by which an experiment is listed; 0 and `-` without images."""
    no_images = recipe.sequence is not None or recipe.plugin == EXTERNAL_PLUGIN
    return (0, "-") if no_images else (recipe.input.size, recipe.input.window_kind)


def _name_of(setting: str) -> str:
    return setting.partition("=")[0].strip()


def _all_settings(request: ExperimentRequest) -> list[str]:
    backbone = [] if request.backbone is None else [f"model.backbone={literal(request.backbone)}"]
    return [*backbone, *request.settings]


def _recipe(registry: "Registry", request: ExperimentRequest) -> Recipe:
    """Return the recipe of the plugin or file that is requested."""
    plugin, file = request.plugin, request.file
    if file is None:
        if plugin is None:
            raise InvalidInputError(
                "No model was chosen.", "Use --plugin NAME (see `ichx plugin list`) or --from FILE.toml."
            )
        chosen = registry.get(plugin) if request.preset is None else registry.get(plugin).with_preset(request.preset)
        return chosen.recipe_for(size=request.size, crop=request.crop, kind=request.kind)
    if request.preset is not None:
        raise InvalidInputError("--from and --preset exclude each other.", "Leave out one of them.")
    if request.size is not None or request.crop is not None or request.kind is not None:
        raise InvalidInputError(
            "--from and options for the image exclude each other.", "Set values with --set, e.g. --set input.size=256."
        )
    try:
        text = read_text(file)
    except FileNotFoundError as error:
        raise NotFoundError(f"There is no file {file}.", USE_RECIPE) from error
    except OSError as error:
        raise StorageError(f"Cannot read {file}: {error.strerror}.", USE_RECIPE) from error
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{file} is not UTF-8 text: {error}.", USE_RECIPE) from error
    recipe = from_toml(text, registry.get(plugin).recipe if plugin is not None else None, source=str(file))
    registry.get(recipe.plugin)
    if plugin is not None and recipe.plugin != plugin:
        raise ConflictError(
            f"{file} is a recipe of {recipe.plugin!r}, not of {plugin!r}.", "Leave out --plugin, or use another file."
        )
    return recipe
