"""The out-of-fold predictions of an ensemble, for the scores that its report shows."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ichx.errors import IchxError
from ichx.evaluation import blend
from ichx.evaluation.metric import score
from ichx.evaluation.oof import OofTable, read_oof

if TYPE_CHECKING:
    from ichx.store import Ensemble, Store
    from ichx.workspace import Workspace

SAME = 1e-6
"""How far a score worked out again may be from the recorded one."""


@dataclass(frozen=True)
class Blended:
    """The blend's OOF table; `nested` says that each fold is blended by weights chosen on the other folds."""

    oof: OofTable
    nested: bool


def read_blend(workspace: "Workspace", store: "Store", ensemble: "Ensemble") -> Blended:
    """Return the nested predictions of `ensemble`, or for a single fold its in-sample ones.

    Raises `IchxError` when the members' predictions are gone, or no longer give the score that was recorded.
    """
    experiments = [store.experiment(member.experiment) for member in ensemble.members]
    finished = [{p.fold for p in store.predictions(e.number, role="oof")} for e in experiments]
    common = sorted(set.intersection(*finished))
    tables = [read_oof(workspace, store, e, ensemble.tta, common) for e in experiments]
    first = tables[0]
    if any(not np.array_equal(first.slice_ids, other.slice_ids) for other in tables[1:]):
        raise _changed(ensemble, "its members predict different slices")
    predicted = [table.probabilities for table in tables]
    nested = ensemble.nested_score is not None
    if not nested:
        mixed = blend.mix(predicted, [member.weight for member in ensemble.members])
    else:
        mixed = np.empty_like(first.probabilities)
        for fold in np.unique(first.folds):
            inside = first.folds == fold
            weights = blend.solve(first.labels[~inside], [p[~inside] for p in predicted]).weights
            mixed[inside] = blend.mix([p[inside] for p in predicted], weights)
    recorded = ensemble.nested_score if ensemble.nested_score is not None else ensemble.score
    again = score(first.labels, mixed)
    if abs(again - recorded) > SAME:
        raise _changed(ensemble, f"its members' predictions score {again:.5f} now, and not {recorded:.5f}")
    return Blended(replace(first, probabilities=mixed), nested)


def _changed(ensemble: "Ensemble", problem: str) -> IchxError:
    members = ",".join(str(member.experiment) for member in ensemble.members)
    return IchxError(
        f"ensemble {ensemble.number} cannot be reported: {problem}",
        f"make it anew: `ichx ensemble --members {members} --tta {ensemble.tta}`",
    )
