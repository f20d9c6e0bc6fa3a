"""Members of sequence experiments: which experiments can be members, and what they still have to train and predict."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from ichx.datasets.dataset import load_folds, load_version
from ichx.datasets.series import series_codes
from ichx.errors import ConflictError, InvalidInputError, NotReadyError, raise_problems
from ichx.evaluation.member_outputs import inputs_of
from ichx.evaluation.members import check_combined, open_members
from ichx.experiments.fold_status import finished_folds, missing_tests
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import DatasetVersion, Experiment, FoldSet


@dataclass(frozen=True)
class MemberWork:
    """What a member has to do before a sequence experiment can read it."""

    experiment: int
    folds: tuple[int, ...]
    """Folds to train, or to predict test sets with."""
    reason: str

    @property
    def command(self) -> str:
        """The command that does it."""
        return f"ichx run {self.experiment} " + " ".join(f"--fold {fold}" for fold in self.folds)


def check_members(project: "Project", numbers: Sequence[int], inputs: Sequence[str]) -> "list[Experiment]":
    """Return the experiments that can be the members of one sequence experiment with these `inputs`.

    Raises:
        InvalidInputError: A member is repeated, a trial, trained on a part of the patients, or has no features.
        NotFoundError: There is no such experiment.
        NotReadyError: A member is in the trash.
        ConflictError: Members have different files, labels or folds, or their folds split a series.
        UnsupportedError: The network of a member has no pooled features.
    """
    if not numbers:
        raise InvalidInputError("A sequence experiment needs members.", "Name them, e.g. --members 1,2.")
    members = open_members(project, numbers)
    trashed = [e.number for e in members if e.trashed is not None]
    if trashed:
        raise NotReadyError(
            "\n".join(f"Experiment {number} is in the trash." for number in trashed),
            f"Restore it: `ichx exp restore {' '.join(map(str, trashed))}`.",
        )
    check_combined(project, members)
    version = project.store.version_by_id(members[0].version_id)
    check_series(project, version, version.fold_set_of(members[0]))
    if "features" in inputs:
        _check_features(members)
        from ichx.experiments.member_features import feature_width  # imports torch

        for e in members:
            feature_width(project, e.number)
    return members


def check_series(project: "Project", version: "DatasetVersion", fold_set: "FoldSet") -> None:
    """Raise `ConflictError` if the folds split a series: its slices would be learnt and predicted."""
    if not fold_set.leaky:
        return  # the slices of a patient are in one fold
    slices = load_version(project.workspace, version).slices
    folds = load_folds(project.workspace, version, fold_set, slices)
    split = int((pd.Series(folds).groupby(series_codes(slices)).nunique() > 1).sum())
    if split:
        count = format_count(split, "series", "series")
        raise ConflictError(
            f"The folds {fold_set.name} of {version.dataset} split {count}.",
            "Use folds that keep all slices of a series together, and members on these.",
        )


def _check_features(members: "Sequence[Experiment]") -> None:
    """Raise `InvalidInputError` if some of `members` have no network for images, and so no pooled features."""
    raise_problems(
        [f"Experiment {e.number} is of another tool and has no pooled features." for e in members if e.external]
        + [f"Experiment {e.number} is a sequence experiment and has no pooled features." for e in members if e.members],
        "Use its logits: `--inputs logits`.",
    )


def missing_work(project: "Project", experiment: "Experiment", folds: Sequence[int]) -> list[MemberWork]:
    """Return what the members of `experiment` have to do before its `folds` can run, members of members first.

    Raises:
        NotReadyError: A member is in the trash, or is of another tool and lacks a fold.
        ConflictError: An experiment is a member of itself.
        InvalidInputError: A member without pooled features is read for these.
    """
    found: dict[int, MemberWork] = {}
    _collect(project, experiment, folds, found, ())
    return list(found.values())


def require_members(project: "Project", experiment: "Experiment", folds: Sequence[int]) -> None:
    """Raise `NotReadyError` unless the members have everything that `folds` read."""
    missing = missing_work(project, experiment, folds)
    if missing:
        lines = [f"Member {work.experiment} of experiment {experiment.number} {work.reason}." for work in missing]
        commands = ", ".join(f"`{work.command}`" for work in missing)
        raise NotReadyError(
            "\n".join(lines), f"Run the members too with `ichx run {experiment.number} --with-members`, or {commands}."
        )


def _collect(
    project: "Project",
    experiment: "Experiment",
    folds: Sequence[int],
    found: dict[int, MemberWork],
    above: tuple[int, ...],
) -> None:
    above = (*above, experiment.number)
    if "features" in inputs_of(experiment):  # a clone may read other inputs than its original
        _check_features([project.store.experiment(number) for number in experiment.members])
    tests = experiment.kind != "trial" and experiment.subset == 1
    for number in experiment.members:
        if number in above:
            raise ConflictError(
                f"Experiment {number} is a member of itself, through {', '.join(map(str, above))}.",
                "Register a sequence experiment with other members.",
            )
        member = project.store.experiment(number)
        if member.trashed is not None:
            raise NotReadyError(
                f"Member {number} of experiment {experiment.number} is in the trash.",
                f"Restore it: `ichx exp restore {number}`.",
            )
        needed = tuple(range(member.folds)) if "logits" in inputs_of(experiment) else tuple(folds)
        finished = finished_folds(project, member)
        train = [fold for fold in needed if fold not in finished]
        predict = [fold for fold in folds if tests and fold in finished and missing_tests(project, member, fold)]
        if member.members:
            _collect(project, member, needed, found, above)
        todo = tuple(sorted({*train, *predict}))
        if not todo or number in found:
            continue
        reasons = [f"has not finished {_folds(train)}"] if train else []
        if predict:
            sets = sorted({v.dataset for fold in predict for v in missing_tests(project, member, fold)})
            reasons.append(f"has not predicted {', '.join(sets)} with {_folds(predict)}")
        if member.external:
            raise NotReadyError(
                f"Member {number} of experiment {experiment.number} {' and '.join(reasons)}.",
                "It is of another tool: import what is missing.",
            )
        found[number] = MemberWork(number, todo, " and ".join(reasons))


def _folds(folds: Sequence[int]) -> str:
    return f"{format_count(len(folds), 'fold').split()[-1]} {', '.join(map(str, folds))}"
