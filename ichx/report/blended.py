"""The out-of-fold predictions of an ensemble, as they were kept when it was made: what its report shows scores of."""

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ichx.errors import IchxError
from ichx.evaluation.choices import check_tta
from ichx.evaluation.ensemble import BLEND_FILE, OOF_FILE
from ichx.evaluation.metric import probabilities, score
from ichx.evaluation.oof import OofTable, read_oof
from ichx.evaluation.predictions import read_predictions

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Ensemble

SAME = 1e-5
"""How far the score of the kept predictions, which are float32 logits, may be from the recorded one."""


@dataclass(frozen=True)
class Blended:
    """The blend's OOF table; `nested` says that everything was chosen for each fold on the other folds."""

    oof: OofTable
    nested: bool


def read_blend(project: "Project", ensemble: "Ensemble") -> Blended:
    """Return the nested predictions of `ensemble`, or for a single fold its in-sample ones.

    Raises `IchxError` when they or its members' predictions are gone, or no longer give the score that was recorded.
    """
    folder = project.workspace.ensemble_dir(ensemble.number)
    kept = read_predictions(folder / OOF_FILE)
    try:
        candidates = json.loads((folder / BLEND_FILE).read_text(encoding="utf-8"))["choice"]["members"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _changed(ensemble, f"{folder / BLEND_FILE} cannot be read: {error}") from error
    finished = [{p.fold for p in project.store.predictions(number, role="oof")} for number in candidates]
    common = sorted(set.intersection(*finished))
    first = read_oof(project, project.store.experiment(ensemble.members[0].experiment), check_tta(ensemble.tta), common)
    row = pd.Index(kept.slice_ids).get_indexer(pd.Index(first.slice_ids))
    if len(row) != len(kept.slice_ids) or (row < 0).any():
        raise _changed(ensemble, "its members predict other slices now")
    mixed = probabilities(kept.logits[row])
    recorded = ensemble.score if ensemble.nested_score is None else ensemble.nested_score
    again = score(first.labels, mixed)
    if not np.isclose(again, recorded, rtol=0, atol=SAME):
        raise _changed(ensemble, f"its predictions score {again:.5f} now, and not {recorded:.5f}")
    return Blended(replace(first, probabilities=mixed), ensemble.nested_score is not None)


def _changed(ensemble: "Ensemble", problem: str) -> IchxError:
    members = ",".join(str(member.experiment) for member in ensemble.members)
    return IchxError(
        f"ensemble {ensemble.number} cannot be reported: {problem}",
        f"make it anew: `ichx ensemble --members {members} --tta {ensemble.tta}`",
    )
