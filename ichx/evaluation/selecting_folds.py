"""Folds that chose something about an experiment: values of its recipe, or the epoch at which its training ended."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ichx.errors import IchxError
from ichx.recipe_text import from_toml

if TYPE_CHECKING:
    from ichx.store import Experiment, Store


@dataclass(frozen=True)
class SelectedMember:
    """A member of an ensemble about which folds of the ensemble chose something."""

    experiment: int
    name: str
    folds: tuple[int, ...]
    """The folds whose score on this member is optimistic."""
    why: str


def tuning_folds(store: "Store", experiment: "Experiment") -> tuple[set[int], bool]:
    """Return the folds whose scores selected values of an experiment or its ancestors.

    The second value is whether an ancestor was tuned on other folds of these patients.
    """
    folds, elsewhere = set(), False
    ancestor: Experiment | None = experiment
    while ancestor is not None:
        if ancestor.tuned is not None and ancestor.fold_digest == experiment.fold_digest:
            folds.add(ancestor.tuned.fold)
        elsewhere = elsewhere or (ancestor.tuned is not None and ancestor.fold_digest != experiment.fold_digest)
        ancestor = None if ancestor.parent is None else store.experiment(ancestor.parent)
    return folds, elsewhere


def selected_member(store: "Store", experiment: "Experiment", folds: Sequence[int]) -> SelectedMember | None:
    """Return which of `folds` chose something about `experiment`; None if it is not marked as selected.

    A fold that chose something about an experiment chose it about the sequence experiments that read it, too.
    """
    if not experiment.selected:
        return None
    chosen, elsewhere = tuning_folds(store, experiment)
    members = [store.experiment(number) for number in experiment.members]
    inherited = [found for member in members if (found := selected_member(store, member, folds))]
    try:
        patience = from_toml(experiment.recipe, source=f"the recipe of experiment {experiment.number}").selects
    except IchxError:  # a recipe of a newer version; its mark is enough
        patience = False
    reasons: list[str] = []
    if patience:
        chosen, reasons = set(folds), ["each fold ended its training by its own score (patience)"]
    elif elsewhere:
        chosen, reasons = set(folds), ["its values were chosen on other folds of these patients"]
    elif chosen and experiment.origin is None:
        reasons = [f"its values were chosen on fold {', '.join(map(str, sorted(chosen)))}"]
    elif experiment.origin is not None or not inherited:
        chosen, reasons = set(folds), ["its values were chosen by validation scores"]
    for member in inherited:
        chosen |= set(member.folds)
        reasons.append(f"it reads experiment {member.experiment} ({member.name}): {member.why}")
    return SelectedMember(experiment.number, experiment.name, tuple(sorted(chosen & set(folds))), "; ".join(reasons))
