"""Whether a recipe can learn from the labels of a dataset: some are unknown, or known for studies only."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ichx.errors import NotReadyError, UnsupportedError
from ichx.labels import ANY
from ichx.recipe import LossRecipe, Recipe
from ichx.text import format_count

if TYPE_CHECKING:
    import pandas as pd

    from ichx.store import DatasetVersion

PER_STUDY = 16
"""Slices of a study that a message suggests."""


def adapted_to_labels(recipe: Recipe, version: "DatasetVersion") -> Recipe:
    """Return `recipe` with the pooling `posterior` if `version` has positive studies whose slices are not labelled.

    It isn't the default of a recipe, because stored recipes that lack the value were trained with `noisy_or`.
    """
    given = recipe.loss.study_pooling != LossRecipe.study_pooling
    if given or recipe.sequence is not None or not _positive_groups(version):
        return recipe
    return replace(recipe, loss=replace(recipe.loss, study_pooling="posterior"))


def _positive_groups(version: "DatasetVersion") -> int:
    """Return the number of positive labels of studies or series."""
    counts: dict[str, Any] = version.summary.get("label_counts", {})
    return sum(of_label["positive"] for of_label in counts.get("groups", {}).values())


def check_recipe_for_labels(recipe: Recipe, version: "DatasetVersion") -> None:
    """Raise `UnsupportedError` if `recipe` cannot learn from the labels of `version`."""
    counts: dict[str, Any] = version.summary.get("label_counts", {})
    others = [stage.name for stage in recipe.stage if stage.sampling != "grouped"]
    if _positive_groups(version) and others and recipe.sequence is None:
        settings = f"--set 'stage.*.sampling=grouped' --set 'stage.*.per_study={PER_STUDY}'"
        raise UnsupportedError(
            f"{version.dataset} has labels of {'series' if counts['level'] == 'series' else 'studies'}, which teach "
            f"all of their slices at once: the sampling of {format_count(len(others), 'stage')} "
            f"({', '.join(others)}) must keep the slices of a study together.",
            f"Use {settings}; per_study must divide the batch.",
        )
    corrected = [stage.name for stage in recipe.stage if stage.prior_correction]
    if corrected and counts.get("slices", {}).get(ANY, {}).get("unknown"):
        raise UnsupportedError(
            f"prior_correction of stage {corrected[0]} needs the label `any` of every slice; "
            f"{counts['slices'][ANY]['unknown']:,} slices of {version.dataset} lack it.",
            f"Use --set stage.{corrected[0]}.prior_correction=false.",
        )


def check_folds_for_labels(slices: "pd.DataFrame", folds: npt.NDArray[np.int16], k: int, dataset: str) -> None:
    """Raise `NotReadyError` if a fold has no known label to validate on, or the others have none to learn from."""
    from ichx.datasets.study_labels import informative, study_truth  # needs pandas

    learnable, known = informative(slices), ~np.isnan(study_truth(slices)).all(axis=1)
    for fold in range(k):
        if not (folds == fold).any():
            continue
        for what, rows in (("validate", known & (folds == fold)), ("train", learnable & (folds != fold))):
            if not rows.any():
                raise NotReadyError(
                    f"Fold {fold} of {dataset} has no slice with a known label to {what} on.",
                    "Add the dataset with fewer folds, or with more labels.",
                )
