"""Registers ensembles of which the store knows nothing from their folders."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ichx.errors import ChangedDataError, ConflictError
from ichx.evaluation.ensemble_audit import in_sample_score, saved_score
from ichx.evaluation.ensemble_file import MODEL_FILE, load_model
from ichx.evaluation.metric import score
from ichx.evaluation.predictions import OOF_FILE
from ichx.evaluation.stored_members import member_problems
from ichx.files import sha256_file
from ichx.store import EnsembleDraft, EnsembleMember

if TYPE_CHECKING:
    from ichx.project import Project

REMEDY = "Blend the members again: `ichx ensemble --members NUMBERS`."


def restore_ensemble(project: "Project", number: int) -> bool:
    """Register ensemble `number` from its stored model; return whether the store did not know it.

    Its scores are computed again. Its name is not in its folder and is lost.

    Raises:
        ConflictError: The store has another ensemble with this number.
        NotFoundError: The store lacks its dataset version or a member.
        ChangedDataError: A member has been trained again, or a file has changed.
        CorruptFileError: The model cannot be read.
    """
    folder = project.workspace.ensemble_dir(number)
    if not (folder / MODEL_FILE).is_file():
        return False  # being blended, or of ichx 0.1
    digest = sha256_file(folder / MODEL_FILE)
    known = {ensemble.number: ensemble.digest for ensemble in project.store.ensembles()}
    if number in known:
        if known[number] not in (None, digest):
            raise ConflictError(f"The store has another ensemble {number}.", "Move the folder elsewhere.")
        return False
    model = load_model(folder, digest, REMEDY)
    if problems := [problem for member in model.used for problem in member_problems(project, member, model)]:
        raise ChangedDataError("; ".join(problems) + ".", REMEDY)
    version = project.store.version(model.dataset, model.dataset_version)
    in_sample, data, complete = in_sample_score(project, model, version)
    places = range(len(model.members)) if complete else model.fitted.pool.members
    scores = {k: score(data.labels, member) for k, member in zip(places, data.members, strict=True)}
    weights = model.record.choice.weights
    ranked = sorted(model.fitted.pool.members, key=lambda k: (scores[k], k))
    draft = EnsembleDraft(
        dataset=version.dataset,
        version_id=version.id,
        fold_digest=model.fold_digest,
        tta=model.tta,
        method=model.fitted.method,
        score=in_sample,
        nested_score=None if model.record.interval is None else saved_score(folder / OOF_FILE, model, data),
        partial=None if len(model.folds) == model.k else f"{len(model.folds)} of {model.k} folds",
        submissions=tuple(one.path for one in model.record.submissions),
        members=tuple(
            EnsembleMember(model.members[k].experiment, weights[model.members[k].experiment], scores[k]) for k in ranked
        ),
        average=model.average,
        digest=digest,
    )
    created = datetime.fromtimestamp((folder / MODEL_FILE).stat().st_mtime, UTC)
    project.store.restore_ensemble(draft, number=number, created=created)
    return True
