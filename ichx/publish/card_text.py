"""Sentences about a model that its card and its ATLAS document share."""

from ichx import __version__
from ichx.evaluation.threshold_choice import ThresholdRequest
from ichx.labels import LABELS
from ichx.publish.card_facts import CardFacts, NetworkFacts
from ichx.recipe import FILE_WINDOW, Recipe
from ichx.text import format_count


def describe_threshold(request: ThresholdRequest, threshold: float) -> str:
    """Return e.g. `any per study >= 0.3127 (sensitivity >= 0.95 out of fold)`."""
    rule = f"cost {request.value:g}" if request.rule == "cost" else f"{request.rule} >= {request.value:g}"
    return f"{request.label} per {request.unit} >= {threshold:.4f} ({rule} out of fold, tta {request.tta})"


def describe_input(recipe: Recipe) -> str:
    """Return what a network reads, e.g. `256 x 256 px; windows 40/80, 80/200`."""
    windows = ["file's own" if w == FILE_WINDOW else f"{w[0]:g}/{w[1]:g}" for w in recipe.input.windows]
    neighbours = f", {recipe.input.neighbours} neighbouring slices on each side" if recipe.input.neighbours else ""
    return (
        f"{recipe.input.pixels} x {recipe.input.pixels} px, windows (centre/width HU) {', '.join(windows)}{neighbours}"
    )


def describe_network(one: NetworkFacts) -> str:
    """Return e.g. `resnext50 (seresnext50_32x4d)`."""
    if one.recipe is None:
        return "predictions of another tool"
    kind = "sequence network over the slices of a series" if one.experiment.members else "2D network"
    backbone = f" ({one.recipe.model.backbone})" if one.recipe.model.backbone else ""
    return f"{one.experiment.plugin}{backbone}, {kind}"


def known_limitations(facts: CardFacts) -> list[str]:
    """Return limitations that follow from what is stored."""
    card, found = facts.scored.card, list[str]()
    if not facts.evaluations:
        found.append("No evaluation on another dataset is recorded.")
    if not facts.thresholds:
        found.append("No threshold is stored.")
    found += facts.stale
    if not facts.published.nested:
        found.append("The scores are in-sample: the blend was fitted on the same patients.")
    found += [f"Mark of the score: {mark}." for mark in card.marks]
    for unit, scores in (("slice", card.slices), ("study", card.studies)):
        undefined = [label for label in LABELS if scores.labels[label]["auc"].value is None]
        wide = [label for label in LABELS if label not in undefined and (scores.labels[label]["auc"].low is None)]
        if undefined:
            found.append(f"AUC per {unit} undefined, a class is missing: {', '.join(undefined)}.")
        if wide:
            found.append(f"Too few patients for an interval of the AUC per {unit}: {', '.join(wide)}.")
    small = sum(group.small for of in facts.scored.subgroups for group in of.groups)
    if small:
        found.append(f"{format_count(small, 'subgroup')} with too few patients for an interval of the AUC.")
    if not facts.scored.subgroups:
        found.append("The headers have no field with two known groups: there are no subgroups.")
    if card.left_out:
        found.append(f"{format_count(card.left_out, 'slice')} without a score: they cannot be decoded.")
    found += [f"Pretrained weights: {one.notice}." for one in facts.networks if one.notice]
    return found or ["None."]


def model_version(facts: CardFacts) -> str:
    """Return the version of the code and of the weights."""
    weights = f", weights {facts.weights[:16]}" if facts.weights else ""
    return f"ichx {__version__}{weights}"


def describe_pretrained(one: NetworkFacts) -> str:
    """Return the licence of the pretrained weights that a network started from."""
    if one.recipe is None:
        return "unknown"
    if not one.recipe.model.pretrained:
        return "none: random start"
    return one.licence or "licence unknown"
