"""Out-of-fold predictions of an ensemble, as its creation saved them."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ichx.errors import ChangedDataError
from ichx.evaluation.choices import check_tta
from ichx.evaluation.ensemble import BLEND_FILE
from ichx.evaluation.ensemble_file import read_model
from ichx.evaluation.metric import probabilities
from ichx.evaluation.oof import OofTable, read_oof
from ichx.evaluation.predictions import OOF_FILE, read_predictions
from ichx.text import parse_json

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Ensemble

SCORE_TOLERANCE = 1e-5
"""Allowed difference from the recorded score; the saved predictions are float32 logits."""


@dataclass(frozen=True)
class EnsembleOof:
    """Predictions of a blend."""

    oof: OofTable
    nested: bool
    """Whether every choice for a patient was made on others."""


def read_ensemble_oof(project: "Project", ensemble: "Ensemble") -> EnsembleOof:
    """Return the nested predictions of `ensemble`, or its in-sample predictions if it has a single fold.

    Raises:
        NotReadyError: Predictions of a member are missing.
        ChangedDataError: The ensemble's files or its members' predictions do not give the recorded score.
    """
    folder = project.workspace.ensemble_dir(ensemble.number)
    saved = read_predictions(folder / OOF_FILE, _remedy(ensemble))
    common = _folds(project, ensemble)
    first = read_oof(project, project.store.experiment(ensemble.members[0].experiment), check_tta(ensemble.tta), common)
    row = pd.Index(saved.slice_ids).get_indexer(pd.Index(first.slice_ids))
    if len(row) != len(saved.slice_ids) or (row < 0).any():
        raise _changed(ensemble, f"its members predict {len(row)} slices, not its {len(saved.slice_ids)}")
    blended = probabilities(saved.logits[row])
    recorded = ensemble.score if ensemble.nested_score is None else ensemble.nested_score
    current = first.truth.scored(blended).score
    if not np.isclose(current, recorded, rtol=0, atol=SCORE_TOLERANCE):
        raise _changed(ensemble, f"its predictions score {current:.5f}, the store has {recorded:.5f}")
    blend = replace(first, probabilities=blended, study_probabilities=None)  # those are of the first member alone
    return EnsembleOof(blend, ensemble.nested_score is not None)


def _folds(project: "Project", ensemble: "Ensemble") -> list[int]:
    """Return the folds that were blended: those of the stored model, or all that the candidates have finished."""
    if ensemble.digest is not None:
        return list(read_model(project.workspace, ensemble).folds)
    path = project.workspace.ensemble_dir(ensemble.number) / BLEND_FILE
    try:
        candidates = parse_json(path.read_text(encoding="utf-8"))["choice"]["members"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _changed(ensemble, f"{path} cannot be read ({error})") from error
    finished = [{p.fold for p in project.store.predictions(number, role="oof")} for number in candidates]
    return sorted(set.intersection(*finished))


def _changed(ensemble: "Ensemble", reason: str) -> ChangedDataError:
    return ChangedDataError(f"Ensemble {ensemble.number} has changed: {reason}.", _remedy(ensemble))


def _remedy(ensemble: "Ensemble") -> str:
    members = ",".join(str(member.experiment) for member in ensemble.members)
    return f"Create it again: `ichx ensemble --members {members} --tta {ensemble.tta}`."
