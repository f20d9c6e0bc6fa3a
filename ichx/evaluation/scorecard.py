"""An experiment's scores from its OOF predictions, per slice and per study, with their intervals over patients."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ichx.errors import IchxError
from ichx.evaluation.bootstrap import Bootstrap, patient_bootstrap
from ichx.evaluation.metric import FloatArray
from ichx.evaluation.oof import TTA_VIEWS, read_oof
from ichx.evaluation.scores import pool_studies, study_scores
from ichx.store import marks

if TYPE_CHECKING:
    from ichx.project import Project


@dataclass(frozen=True)
class Scorecard:
    """Scores over all finished folds, of slices and of studies (pooled as their scores say), and by fold."""

    experiment: int
    name: str
    tta: str
    marks: tuple[str, ...]
    folds: dict[int, float]
    slices: Bootstrap
    studies: Bootstrap
    left_out: int


def scorecard(project: "Project", number: int, *, tta: str = "none", pooling: str = "max") -> Scorecard:
    """Return all scores of experiment `number`, of the mean over the views of `tta`; `pooling` is that of studies.

    Raises `IchxError` for unknown names, and where the OOF predictions are missing or refused.
    """
    if tta not in TTA_VIEWS:
        raise IchxError(f"there is no test-time augmentation {tta!r}", f"choose one of {', '.join(TTA_VIEWS)}")
    experiment = project.store.experiment(number)
    table = read_oof(project, experiment, tta)
    slices, studies = both_scores(table.labels, table.probabilities, table.patients, table.studies, pooling)
    return Scorecard(
        experiment=number,
        name=experiment.name,
        tta=tta,
        marks=marks(experiment),
        folds=table.fold_scores,
        slices=slices,
        studies=studies,
        left_out=table.left_out,
    )


def both_scores(
    labels: FloatArray,
    probabilities: FloatArray,
    patients: npt.NDArray[np.object_],
    studies: npt.NDArray[np.object_],
    pooling: str,
) -> tuple[Bootstrap, Bootstrap]:
    """Return the scores of (N, 6) `probabilities` with their intervals: of slices, and of studies, pooled."""
    pooled = pool_studies(labels, probabilities, studies, pooling)
    return patient_bootstrap(labels, probabilities, patients), patient_bootstrap(
        pooled.labels,
        pooled.probabilities,
        patients[pooled.row],
        scores=study_scores(labels, probabilities, studies, pooling),
    )
