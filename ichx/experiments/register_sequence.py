"""Registers sequence experiments, whose inputs are what other experiments predict. Others: `register`."""

import shutil
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ichx.errors import ConflictError, InvalidInputError, check_choice
from ichx.evaluation.feature_tables import table_bytes
from ichx.experiments.register import ExperimentRequest, default_name, draft, requested_recipe
from ichx.experiments.sequence_members import check_members
from ichx.recipe import literal
from ichx.recipe_rules import SEQUENCE_INPUTS
from ichx.text import format_bytes, format_count

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Experiment


def new_sequence(
    project: "Project", request: ExperimentRequest, members: Sequence[int], inputs: Sequence[str] | None = None
) -> "tuple[Experiment, str | None]":
    """Register a sequence experiment on the data and folds of its members.

    Args:
        project: The open project.
        request: Plugin or recipe file, settings, name; its dataset and folds must be those of the members.
        members: Numbers of the experiments that it reads.
        inputs: What it reads of them, `logits` and `features`; None for what the recipe says.

    Returns:
        The experiment, and the disk space that the features take, or None without features.

    Raises:
        InvalidInputError: The plugin is not one for sequences, an input is unknown, or see `check_members`.
        ConflictError: The members are on another dataset or other folds.
    """
    settings = list(request.settings)
    if inputs is not None:
        for name in inputs:
            check_choice("inputs", name, SEQUENCE_INPUTS)
        # What a recipe wants of an input that it does not get is left out.
        unused = [] if "logits" in inputs else ["sequence.residual=false"]
        unused += [] if "features" in inputs else ["sequence.projection=0"]
        named = {text.partition("=")[0].strip() for text in settings}
        settings += [text for text in unused if text.partition("=")[0] not in named]
        settings.append(f"sequence.inputs={literal(list(inputs))}")
    if request.plugin is not None and project.registry.get(request.plugin).kind != "sequence":
        _refuse_plugin(project, request.plugin)
    recipe = requested_recipe(project.registry, replace(request, settings=settings))
    if recipe.sequence is None:
        _refuse_plugin(project, recipe.plugin)
    assert recipe.sequence is not None
    plugin = project.registry.get(recipe.plugin)
    found = check_members(project, members, recipe.sequence.inputs)
    first = found[0]
    for what, wanted, own in (("dataset", request.dataset, first.dataset), ("folds", request.folds, first.fold_set)):
        if wanted not in (None, own):
            raise ConflictError(
                f"Experiment {first.number} is on the {what} {own!r}, not on {wanted!r}.",
                f"Leave out --{what}: a sequence experiment has that of its members.",
            )
    drafted = draft(
        recipe,
        project.store.version_by_id(first.version_id),
        folds=first.fold_set,
        name=request.name or default_name(recipe, plugin, members),
        members=members,
    )
    drafted = replace(drafted, selected=drafted.selected or any(member.selected for member in found))
    [made] = project.store.add_experiments([drafted])
    return made, _feature_space(project, made) if "features" in recipe.sequence.inputs else None


def _refuse_plugin(project: "Project", name: str) -> None:
    """Raise `InvalidInputError`: the plugin classifies single slices."""
    known = [plugin.name for plugin in project.registry.plugins.values() if plugin.kind == "sequence"]
    raise InvalidInputError(
        f"{name} reads images, not the outputs of other experiments.",
        f"Leave out --members and --inputs, or use one of these plugins: {', '.join(known)}.",
    )


def _feature_space(project: "Project", experiment: "Experiment") -> str:
    """Return the disk space that the features of all members and folds take, e.g. for a message."""
    from ichx.experiments.member_features import feature_width  # imports torch

    versions = [project.store.version_by_id(experiment.version_id), *project.store.test_sets(experiment.dataset)]
    widths = [feature_width(project, number) for number in experiment.members]
    tables = [(version.slices, width) for version in versions for width in widths]
    nbytes = experiment.folds * sum(table_bytes(*shape) for shape in tables)
    free = shutil.disk_usage(project.workspace.root).free
    shapes = ", ".join(f"{slices:,} x {width:,}" for slices, width in tables)
    count = format_count(experiment.folds, "fold")
    return f"features: {shapes}, {count}: {format_bytes(nbytes)} of {format_bytes(free)} free"
