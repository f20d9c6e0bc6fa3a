"""An experiment's pooled score, kept current also when its folds end side by side in several processes."""

from typing import TYPE_CHECKING

from ichx.evaluation.bootstrap import loss_interval
from ichx.evaluation.oof import OofTable, read_oof
from ichx.store import ScoreDraft

if TYPE_CHECKING:
    from ichx.project import Project


def update_scores(project: "Project", number: int) -> None:
    """Store the pooled OOF score over the finished folds, without and with test-time augmentation.

    Whichever of several processes writes last has seen every fold: who finds another one afterwards does it again.
    """
    experiment = project.store.experiment(number)
    seen = project.store.predictions(number, role="oof")
    while seen:
        project.store.set_scores(number, *(_score(read_oof(project, experiment, tta)) for tta in ("none", "hflip")))
        before, seen = seen, project.store.predictions(number, role="oof")
        if seen == before:
            return


def _score(oof: OofTable) -> ScoreDraft:
    interval = loss_interval(oof.labels, oof.probabilities, oof.patients)
    return ScoreDraft(score=oof.score, spread=oof.spread, low=interval.low, high=interval.high)
