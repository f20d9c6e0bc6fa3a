"""Members of a stored ensemble: their digests when it was blended, and whether they are still the same."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ichx.errors import ChangedDataError, IchxError
from ichx.evaluation.choices import Tta, views_of
from ichx.evaluation.ensemble_file import EnsembleModel, ModelMember, blend_again
from ichx.evaluation.member_outputs import member_id
from ichx.files import sha256_file

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Ensemble, Experiment


def describe_member(
    project: "Project", experiment: "Experiment", folds: Sequence[int], tta: Tta, *, weights: bool = True
) -> ModelMember:
    """Return the digests of what `experiment` contributes to an ensemble of `folds`, with or without its `weights`."""
    return ModelMember(
        experiment=experiment.number,
        name=experiment.name,
        id=member_id(experiment),
        weights=_weights(project, experiment.number, folds if weights else ()),
        predictions={
            f"{p.fold}/{p.view}": p.digest
            for p in project.store.predictions(experiment.number, role="oof")
            if p.fold in folds and p.view in views_of(experiment, tta)
        },
        members=tuple(
            describe_member(project, project.store.experiment(number), folds, tta, weights=weights)
            for number in experiment.members
        ),
    )


def check_networks(project: "Project", ensemble: "Ensemble", model: EnsembleModel) -> None:
    """Check that all networks that `model` predicts with are those that it was blended from.

    Raises `ChangedDataError`, listing all problems, if not.
    """
    _raise_changed(ensemble, [problem for member in model.used for problem in network_problems(project, member)])


def check_members(project: "Project", ensemble: "Ensemble", model: EnsembleModel) -> None:
    """Check that the members with a weight are the experiments that were blended; raise `ChangedDataError` if not."""
    _raise_changed(ensemble, [found for member in model.used if (found := identity_problem(project, member))])


def _raise_changed(ensemble: "Ensemble", problems: list[str]) -> None:
    if problems:
        raise ChangedDataError(
            "\n".join(f"Ensemble {ensemble.number}: {problem}." for problem in problems), blend_again(ensemble)
        )


def member_problems(project: "Project", member: ModelMember, model: EnsembleModel) -> list[str]:
    """Return why networks or OOF predictions of `member` are not those that `model` was blended from."""
    problems = network_problems(project, member)
    if identity_problem(project, member) is not None:
        return problems
    current = describe_member(
        project, project.store.experiment(member.experiment), model.folds, model.tta, weights=False
    )
    if current.predictions != member.predictions:
        problems.append(f"experiment {member.experiment} has other OOF predictions")
    return problems


def network_problems(project: "Project", member: ModelMember) -> list[str]:
    """Return why the networks of `member` are not those that were blended, one line each."""
    problem = identity_problem(project, member)
    if problem is not None:
        return [problem]
    problems = []
    current = _weights(project, member.experiment, list(member.weights))
    for fold, recorded in member.weights.items():
        what = f"of fold {fold} of experiment {member.experiment}"
        if recorded is not None and current[fold] is None:
            problems.append(f"the weights {what} are gone")
        elif recorded is not None and current[fold] != recorded:
            problems.append(
                f"the weights {what} have changed: SHA-256 {str(current[fold])[:12]}..., recorded {recorded[:12]}..."
            )
    return problems + [problem for below in member.members for problem in network_problems(project, below)]


def identity_problem(project: "Project", member: ModelMember) -> str | None:
    """Return why the experiment with the number of `member` is not the one that was blended; None if it is."""
    try:
        experiment = project.store.experiment(member.experiment)
    except IchxError as error:
        return f"its member {member.experiment} ({member.name}) is missing: {error.problem.rstrip('.')}"
    if member_id(experiment) != member.id:
        return f"experiment {member.experiment} ({experiment.name}) is another one than its member {member.name}"
    return None


def _weights(project: "Project", number: int, folds: Sequence[int]) -> dict[int, str | None]:
    """Return the SHA-256 of the weights of each of `folds`; None where there is no file."""
    files = project.workspace.experiment_files(number)
    paths = {fold: files.fold(fold).weights for fold in folds}
    return {fold: sha256_file(path) if path.is_file() else None for fold, path in paths.items()}
