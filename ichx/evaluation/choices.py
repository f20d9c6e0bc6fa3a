"""Choices of an evaluation: test-time augmentation, averaging, pooling of studies, blending method.

This module imports no library, so that the command line can use it.
"""

from typing import TYPE_CHECKING, Final, Literal, get_args

from ichx.errors import check_choice
from ichx.views import HFLIP, IDENTITY

if TYPE_CHECKING:
    from ichx.store import Experiment

Tta = Literal["none", "hflip", "all"]
"""A test-time augmentation: the slice alone, with its mirror image, or all views of the recipe; see `views_of`."""
TTAS: Final[tuple[Tta, ...]] = get_args(Tta)

Average = Literal["logit", "probability"]
"""What is averaged over views and folds; `probability` is the way of the reference solution."""

Pooling = Literal["max", "noisy_or", "learnt"]
"""How a study's probability follows from its slices': the largest, or that of at least one positive slice if slices
were independent. `learnt` is what a sequence experiment predicts for the study."""
POOLINGS: Final[tuple[Pooling, ...]] = get_args(Pooling)

InferencePrecision = Literal["auto", "fp32", "fp16", "bf16"]
"""The precision of predictions for a user; `auto` is fp32 on a CPU and that of the training elsewhere."""

Method = Literal["auto", "convex", "mean", "rank", "logit", "greedy", "per-label", "per-label-logit", "stack"]
"""A blending method; `auto` chooses among `mean`, `convex`, `logit`, `per-label-logit`
and `stack`."""
METHODS: Final[tuple[Method, ...]] = get_args(Method)

Objective = Literal["score", "calibrated_score"]
"""Score by which trials of a tuning are compared, by its name in the history of a training."""

CALIBRATED: Final = "calibrated_score"
"""See `ichx.evaluation.calibrated_score`."""


def check_tta(tta: str) -> Tta:
    """Return `tta`; raise `InvalidInputError` if there is no such test-time augmentation."""
    return check_choice("tta", tta, TTAS)


def check_average(average: str) -> Average:
    """Return `average`; raise `InvalidInputError` if it is neither `logit` nor `probability`."""
    return check_choice("average", average, get_args(Average))


def views_of(experiment: "Experiment", tta: Tta = "all") -> tuple[str, ...]:
    """Return the views that a test-time augmentation averages, of those that the folds of `experiment` predict.

    A view that its recipe does not name is left out.
    """
    views = experiment.views
    return views if tta == "all" else tuple(view for view in views if view == IDENTITY or (tta, view) == (HFLIP, HFLIP))


def check_pooling(pooling: str) -> Pooling:
    """Return `pooling`; raise `InvalidInputError` if there is no such pooling."""
    return check_choice("pooling", pooling, POOLINGS)


def check_method(method: str) -> Method:
    """Return `method`; raise `InvalidInputError` if there is no such blending method."""
    return check_choice("method", method, METHODS)
