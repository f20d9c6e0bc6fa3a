"""Test sets predicted by an ensemble from its members' stored predictions, and submission files.

The format of submissions is in `ichx.evaluation.submission`. New files are predicted in `ichx.inference`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.dataset import load_version
from ichx.datasets.label_csv import read_sample
from ichx.errors import ChangedDataError, InvalidInputError, NotFoundError, NotReadyError
from ichx.evaluation.averaging import averaging_gain, blend_each_fold, blend_folds, mean_of
from ichx.evaluation.blend_record import Submission
from ichx.evaluation.choices import Average, Tta, views_of
from ichx.evaluation.ensemble_file import EnsembleModel, read_model
from ichx.evaluation.logistic import logits
from ichx.evaluation.metric import FloatArray
from ichx.evaluation.nested_score import FittedBlend
from ichx.evaluation.oof import read_fold
from ichx.evaluation.predictions import Predictions, predictions_file, write_predictions
from ichx.evaluation.series_neighbours import SeriesNeighbours
from ichx.evaluation.stored_members import check_members
from ichx.evaluation.submission import write_submission
from ichx.files import atomic_write, check_suffix, check_writable
from ichx.labels import LABELS
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import DatasetVersion, Experiment, Store

_RERUN_MEMBERS = "Rerun `ichx run` for each member."


@dataclass(frozen=True)
class BlendedMembers:
    """A fitted blend with the experiments that it blends."""

    fitted: FittedBlend
    experiments: "Mapping[int, Experiment]"
    """The members with a weight, at least, by their place among the candidates."""
    folds: tuple[int, ...]
    tta: Tta
    average: Average
    prevalence: FloatArray
    """Predictions of images without a slice, `(6,)`."""


def submit_ensemble(project: "Project", number: int, test_set: str, out: Path | None = None) -> Submission:
    """Predict a test set with ensemble `number` and write the submission.

    Without a sample, the file is a CSV of slice ids and probabilities.

    Args:
        project: The open project.
        number: The ensemble.
        test_set: A test set of its dataset.
        out: The file to write; None: `TEST_SET.csv` in the ensemble's folder.

    Raises:
        NotFoundError: There is no such ensemble, or no such test set of its dataset.
        NotReadyError: The ensemble has no stored model, or a member has not predicted the test set.
        ChangedDataError: Files of the ensemble or predictions of members have changed.
    """
    ensemble = project.store.ensemble(number)
    model = read_model(project.workspace, ensemble)
    tests = {test.dataset: test for test in project.store.test_sets(ensemble.dataset)}
    if test_set not in tests:
        remedy = f"Add one with `ichx data add {test_set} PATH --test-of {ensemble.dataset}`."
        raise NotFoundError.named(f"test set of {ensemble.dataset}", test_set, tests, remedy)
    if out is not None:
        check_suffix(out, "a submission", (".csv",))
        check_writable(out, "the submission")
    check_members(project, ensemble, model)
    members = stored_members(project, model)
    folder = project.workspace.ensemble_dir(number)
    written = write_predicted(project, members, tests[test_set], out or folder / f"{test_set}.csv", folder)
    project.store.add_submission(number, written.path)
    return written


def stored_members(project: "Project", model: EnsembleModel) -> BlendedMembers:
    """Return the blend of a stored ensemble with its members."""
    return BlendedMembers(
        model.fitted,
        {k: project.store.experiment(model.members[k].experiment) for k in model.fitted.pool.members},
        model.folds,
        model.tta,
        model.average,
        model.prevalence,
    )


def predict_test(
    project: "Project",
    experiment: "Experiment",
    test: "DatasetVersion",
    tta: Tta,
    only: Sequence[int] | None = None,
    *,
    average: Average = "logit",
) -> tuple[npt.NDArray[np.object_], FloatArray]:
    """Return `(slice_ids, probabilities (N, 6))` of a test set, the mean over views and folds.

    Arguments and errors are those of `stored_test_folds`.
    """
    ids, folds = stored_test_folds(project, experiment, test, tta, only, average=average)
    return ids, mean_of(list(folds.values()), average)


def stored_test_folds(
    project: "Project",
    experiment: "Experiment",
    test: "DatasetVersion",
    tta: Tta,
    only: Sequence[int] | None = None,
    *,
    average: Average = "logit",
) -> tuple[npt.NDArray[np.object_], dict[int, FloatArray]]:
    """Return the slice ids of a test set and the stored probabilities `(N, 6)` of each fold, the mean over views.

    Args:
        project: The open project.
        experiment: The experiment that predicts.
        test: The test set.
        tta: Test-time augmentation, whose views are averaged.
        only: The folds; None: all.
        average: What is averaged over views.

    Raises:
        NotReadyError: A fold has not predicted the test set.
        ChangedDataError: Predictions are missing, or folds predict different slices.
    """
    stored = project.store.predictions(experiment.number, role="test", version_id=test.id)
    folds = list(range(experiment.folds)) if only is None else sorted(only)
    missing = sorted(set(folds) - {p.fold for p in stored})
    if missing:
        raise NotReadyError(
            f"Experiment {experiment.number} has no predictions of {test.dataset} from fold "
            f"{', '.join(map(str, missing))}.",
            f"Register its predictions again with `--test {test.dataset}=FILE`, see `ichx exp external`."
            if experiment.external
            else f"Run `ichx run {experiment.number}`: it predicts test sets that were added later.",
        )
    parts = {fold: read_fold(project.workspace, stored, fold, views_of(experiment, tta), average) for fold in folds}
    ids = parts[folds[0]][0]
    if any(not np.array_equal(ids, other) for other, _ in parts.values()):
        raise ChangedDataError(
            f"The folds of experiment {experiment.number} predict different slices of {test.dataset}.",
            f"Rerun `ichx run {experiment.number}`.",
        )
    return ids, {fold: p for fold, (_, p) in parts.items()}


def submitted_test_sets(store: "Store", version: "DatasetVersion", out: Path | None) -> list["DatasetVersion"]:
    """Return the test sets that get a submission."""
    tests = [t for t in store.test_sets(version.dataset) if t.sample is not None]
    if out is not None and len(tests) != 1:
        names = ", ".join(t.dataset for t in tests) or "none"
        raise InvalidInputError(
            f"`--out` needs exactly one test set with a sample, and {version.dataset} has: {names}.",
            "Leave out `--out`.",
        )
    if out is not None:
        check_suffix(out, "a submission", (".csv",))
        check_writable(out, "the submission")
    return tests


def write_predicted(
    project: "Project", members: BlendedMembers, test: "DatasetVersion", path: Path, folder: Path
) -> Submission:
    """Write the submission for a test set to `path`, and its blended predictions to `folder`; raises `StorageError`."""
    slices, predicted, gain = predict_blend(project, members, test)
    ids = slices["slice_id"].to_numpy(object)
    write_predictions(folder / predictions_file(test), Predictions(ids, logits(predicted).astype(np.float32)))
    if test.sample is not None:
        written = _submit(project, test, slices, predicted, members.prevalence, path)
        return replace(written, averaging_gain=gain)
    lines = [",".join(("slice_id", *LABELS))]
    lines += [",".join((name, *map(repr, row))) for name, row in zip(ids, predicted.tolist(), strict=True)]
    with atomic_write(path, "the predictions", remedy="Free some space or choose another `--out`.") as draft:
        draft.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Submission(test.dataset, _shown(project, path), len(ids), 0, gain)


def predict_blend(
    project: "Project", members: BlendedMembers, test: "DatasetVersion"
) -> tuple[pd.DataFrame, FloatArray, float | None]:
    """Return the slices of a test set that the members predict, their blended probabilities `(N, 6)` and the
    `averaging_gain` of the folds, None for one fold or if probabilities are averaged.
    """
    tables = {
        k: stored_test_folds(project, members.experiments[k], test, members.tta, members.folds, average=members.average)
        for k in members.fitted.pool.members
    }
    ids = next(iter(tables.values()))[0]
    for k, (other, _) in tables.items():
        if not np.array_equal(other, ids):
            different = len(set(other) ^ set(ids))
            raise ChangedDataError(
                f"The members predict different slices of {test.dataset}: experiment {members.experiments[k].number} "
                f"differs in {format_count(different, 'slice')}.",
                _RERUN_MEMBERS,
            )
    slices = load_version(project.workspace, test).slices.set_index("slice_id", drop=False)
    unknown = len(set(ids) - set(slices.index))
    if unknown:
        raise ChangedDataError(
            f"The members predict {format_count(unknown, 'slice')} that {test.dataset} version {test.number} does not "
            "have.",
            _RERUN_MEMBERS,
        )
    slices = slices.loc[pd.Index(ids)]
    by_member = {k: by_fold for k, (_, by_fold) in tables.items()}
    neighbours = SeriesNeighbours.of(slices)
    if members.average == "probability" or len(members.folds) == 1:
        return slices, blend_folds(members.fitted, by_member, neighbours, members.average), None
    each = blend_each_fold(members.fitted, by_member, neighbours)
    return slices, mean_of(each, members.average), averaging_gain(each)


def _submit(
    project: "Project",
    test: "DatasetVersion",
    slices: pd.DataFrame,
    predicted: FloatArray,
    prevalence: FloatArray,
    path: Path,
) -> Submission:
    """Write a submission of `predicted` (N, 6), with `prevalence` (6,) for images of the sample without a slice."""
    assert test.sample is not None
    sample = read_sample(project.workspace.root / test.sample)
    row_of = {image: row for row, image in enumerate(slices[test.summary["sample"]["by"]])}
    rows = np.array([row_of.get(image, -1) for image in sample.images])
    if (rows < 0).all():
        raise InvalidInputError(
            f"No image of the sample is a slice of {test.dataset}.", "Add the test set with its own `--sample` CSV."
        )
    values = np.where(rows[:, None] < 0, prevalence, predicted[rows])
    write_submission(path, sample, sample.images, values)
    return Submission(test.dataset, _shown(project, path), len(sample.images), int((rows < 0).sum()))


def _shown(project: "Project", path: Path) -> str:
    """Return a path in the workspace relative to it, and another one absolute."""
    try:
        return path.resolve().relative_to(project.workspace.root).as_posix()
    except ValueError:
        return str(path.resolve())
