"""Audit of an ensemble: whether its scores, predictions and submissions follow from its stored model and its members.

Everything is computed again: the blend of the members' OOF predictions, the nested score with every choice, and the
submissions. The audit of an experiment is in `ichx.evaluation.audit`.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ichx import __version__
from ichx.datasets.catalog import catalog_digest, usable_slices
from ichx.datasets.dataset import load_catalog, load_folds
from ichx.datasets.fold_labels import read_fold_labels, training_label_digest
from ichx.datasets.folds import fold_digest
from ichx.datasets.label_csv import read_labels
from ichx.errors import ChangedDataError
from ichx.evaluation.audit import AuditResult, compare_digests, is_close
from ichx.evaluation.checks import Check, Checks, UnknownError, WrongError
from ichx.evaluation.ensemble import blend_data
from ichx.evaluation.ensemble_file import FORMAT, EnsembleModel, ModelMember, read_model
from ichx.evaluation.ensemble_submissions import stored_members, write_predicted
from ichx.evaluation.metric import probabilities, score
from ichx.evaluation.nested_score import BlendData, BlendPipeline, Progress
from ichx.evaluation.oof import read_oof
from ichx.evaluation.predictions import OOF_FILE, predictions_file, read_predictions
from ichx.evaluation.stored_members import identity_problem, network_problems
from ichx.files import sha256_file
from ichx.store import marks
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import DatasetVersion, Ensemble

FILE_TOLERANCE: Final = 1e-5
"""Largest difference of a score from that of saved predictions, which are float32 logits."""
REFIT_TOLERANCE: Final = 1e-6
"""Largest relative difference of a nested score that is computed again, perhaps on another processor."""
SUBMISSION_TOLERANCE: Final = 1e-6
"""Largest difference of a submitted probability; the comparison is in float32."""
_AGAIN = "Restore the file, or blend the members again."


@dataclass(frozen=True, kw_only=True)
class EnsembleAudit(AuditResult):
    """The result of an audit of an ensemble."""

    ensemble: int


def audit_ensemble(project: "Project", number: int, progress: Progress | None = None) -> EnsembleAudit:
    """Return the audit of ensemble `number`.

    Args:
        project: The open project.
        number: The ensemble.
        progress: Called while the nested score is computed again.

    Raises:
        NotFoundError: There is no such ensemble.
        NotReadyError: It was made by a version of ichx that stored no model.
    """
    ensemble = project.store.ensemble(number)
    if ensemble.digest is None:
        read_model(project.workspace, ensemble)  # raises
    checks = tuple(_Auditor(project, ensemble, progress).run())
    name = ensemble.name or ensemble.method
    return EnsembleAudit(ensemble=number, name=name, marks=marks(ensemble), checks=checks)


def in_sample_score(
    project: "Project", model: EnsembleModel, version: "DatasetVersion"
) -> tuple[float, BlendData, bool]:
    """Blend the members' OOF predictions with a stored model.

    Returns:
        The score, the members' predictions, and whether these are all candidates; otherwise, those with a weight.
    """
    complete = all(identity_problem(project, member) is None for member in model.members)
    places = range(len(model.members)) if complete else model.fitted.pool.members
    experiments = [project.store.experiment(model.members[k].experiment) for k in places]
    tables = [read_oof(project, e, model.tta, model.folds, average=model.average) for e in experiments]
    data = blend_data(project.workspace, version, experiments, tables)
    members = dict(zip(places, data.members, strict=True))
    blended = model.fitted.apply({k: members[k] for k in model.fitted.pool.members}, data.neighbours)
    return score(data.labels, blended), data, complete


def saved_score(path: Path, model: EnsembleModel, data: BlendData) -> float:
    """Return the score of the predictions that an ensemble saved in `path`; raise `ChangedDataError` if changed."""
    try:
        digest = sha256_file(path)
    except OSError as error:
        raise ChangedDataError(f"{path} cannot be read: {error.strerror}.", _AGAIN) from error
    if digest != model.oof_digest:
        raise ChangedDataError(
            f"{path} was changed: SHA-256 {digest[:12]}..., recorded {model.oof_digest[:12]}....", _AGAIN
        )
    saved = probabilities(read_predictions(path).logits)
    if saved.shape != data.labels.shape:
        slices = format_count(len(saved), "slice")
        raise ChangedDataError(f"{path} has {slices}, the members predict {len(data.labels):,}.", _AGAIN)
    return score(data.labels, saved)


class _Auditor(Checks):
    """Runs the checks of an ensemble in order."""

    def __init__(self, project: "Project", ensemble: "Ensemble", progress: Progress | None) -> None:
        super().__init__()
        self.project, self.ensemble, self.progress = project, ensemble, progress
        self.folder = project.workspace.ensemble_dir(ensemble.number)
        self.version = project.store.version_by_id(ensemble.version_id)
        self.blended: list[Any] = []

    def run(self) -> list[Check]:
        model = self.check("model", self.model)
        if model is None:
            return self.checks
        self.check("dataset", self.dataset, model)
        self.check("folds", self.folds, model)
        for member in model.members:
            self.check(f"experiment {member.experiment} predictions", self.predictions, member, member in model.used)
            if member in model.used:
                self.check(f"experiment {member.experiment} weights", self.weights, member)
        self.check("score", self.score, model)
        if self.blended:
            subject = "OOF file" if self.ensemble.nested_score is None else "nested score"
            self.check(subject, self.nested, model, *self.blended)
        test_sets = {s.path: s.test_set for s in model.record.submissions}
        for path in self.ensemble.submissions:
            self.check(f"submission {path}", self.submission, model, path, test_sets.get(path, Path(path).stem))
        return self.checks

    def model(self) -> tuple[str, EnsembleModel]:
        model = read_model(self.project.workspace, self.ensemble)
        return f"format {FORMAT} of ichx {model.ichx}, SHA-256 {self.ensemble.digest}", model

    def dataset(self, model: EnsembleModel) -> tuple[str, None]:
        catalog, version = load_catalog(self.project.workspace, self.version), self.version
        slices = usable_slices(catalog)
        detail = compare_digests(
            catalog_digest(catalog), {"dataset version": version.digest, "ensemble": model.dataset_digest}
        )
        by_fold = read_fold_labels(self.project.workspace, version)
        compare_digests(training_label_digest(slices, by_fold), {"labels of the ensemble": model.label_digest})
        return f"{detail}, {version.dataset} version {version.number}, {format_count(len(slices), 'slice')}", None

    def folds(self, model: EnsembleModel) -> tuple[str, None]:
        fold_set = next((folds for folds in self.version.folds if folds.digest == model.fold_digest), None)
        if fold_set is None:
            raise WrongError(f"{self.version.dataset} has no folds with the digest {model.fold_digest}")
        slices = usable_slices(load_catalog(self.project.workspace, self.version))
        folds = load_folds(self.project.workspace, self.version, fold_set, slices)
        found = fold_digest(slices["slice_id"].to_numpy(object), folds)
        return f"{compare_digests(found, {'ensemble': model.fold_digest})}, folds {fold_set.name}", None

    def predictions(self, member: ModelMember, used: bool) -> tuple[str, None]:
        """Compare the OOF files with the digests at the time of the blend."""
        if problem := identity_problem(self.project, member):
            raise WrongError(problem) if used else UnknownError(f"{problem}; it has no weight")
        paths = {
            f"{p.fold}/{p.view}": self.project.workspace.root / p.path
            for p in self.project.store.predictions(member.experiment, role="oof")
        }
        problems = []
        for name, recorded in member.predictions.items():
            what = f"the predictions of fold {name.replace('/', ', ')}"
            if name not in paths or not paths[name].is_file():
                problems.append(f"{what} are missing")
            elif (found := sha256_file(paths[name])) != recorded:
                problems.append(f"{what} have changed: SHA-256 {found[:12]}..., recorded {recorded[:12]}...")
        if problems:
            raise WrongError("\n".join(problems))
        return f"{format_count(len(member.predictions), 'file')} as blended", None

    def weights(self, member: ModelMember) -> tuple[str, None]:
        if problems := network_problems(self.project, member):
            raise WrongError("\n".join(problems))
        have = sum(digest is not None for digest in member.weights.values())
        return f"{have} of {format_count(len(member.weights), 'fold')} as blended", None

    def score(self, model: EnsembleModel) -> tuple[str, None]:
        """Blend the members' OOF predictions again."""
        found, *self.blended = in_sample_score(self.project, model, self.version)
        if not is_close(found, self.ensemble.score):
            raise WrongError(f"the in-sample score is {found:.9f}, recorded {self.ensemble.score}")
        return f"recomputed from the members' predictions: {found:.5f} in-sample", None

    def nested(self, model: EnsembleModel, data: BlendData, complete: bool) -> tuple[str, None]:
        """Compare the saved predictions with the recorded score, and make every choice again."""
        path = self.folder / OOF_FILE
        recorded = self.ensemble.score if self.ensemble.nested_score is None else self.ensemble.nested_score
        found = saved_score(path, model, data)
        if abs(found - recorded) > FILE_TOLERANCE:
            raise WrongError(f"{path} scores {found:.9f}, recorded {recorded}")
        if self.ensemble.nested_score is None:
            return f"scores {recorded:.5f}, in-sample: there is only one fold", None
        if not complete:
            raise UnknownError("the file is unchanged; a candidate is gone, so choices cannot be made again")
        nested = BlendPipeline(data, model.options).nested(self.progress)
        assert nested is not None
        if not np.isclose(nested.score, recorded, rtol=REFIT_TOLERANCE, atol=0):
            problem = f"with all choices made again, the score is {nested.score:.9f}, recorded {recorded}"
            if model.ichx != __version__:
                raise UnknownError(f"{problem} by ichx {model.ichx}")
            raise WrongError(problem)
        return f"recomputed with all choices: {nested.score:.5f}", None

    def submission(self, model: EnsembleModel, path: str, test_set: str) -> tuple[str, None]:
        """Predict the test set again and compare the file."""
        file = self.project.workspace.root / path
        if not file.is_file():
            if Path(path).is_absolute():
                raise UnknownError("it is no longer there")
            raise WrongError("it is missing")
        tests: Sequence[DatasetVersion] = self.project.store.test_sets(self.ensemble.dataset)
        test = next((test for test in tests if test.dataset == test_set), None)
        if test is None:
            raise UnknownError(f"it is not known which test set of {self.ensemble.dataset} it predicts")
        with tempfile.TemporaryDirectory() as folder:
            again = Path(folder) / f"{test_set}.csv"
            write_predicted(self.project, stored_members(self.project, model), test, again, Path(folder))
            expected, found = read_labels(again), read_labels(file)
            stored, recomputed = (
                read_predictions(at / predictions_file(test), _AGAIN) for at in (self.folder, Path(folder))
            )
        if not np.array_equal(expected.ids, found.ids):
            raise WrongError(f"its images are not those of {test_set}")
        if not np.array_equal(stored.slice_ids, recomputed.slice_ids):
            raise WrongError(f"{predictions_file(test)} has other slices than {test_set}")
        difference = max(
            float(np.abs(expected.values - found.values).max(initial=0.0)),
            float(np.abs(probabilities(stored.logits) - probabilities(recomputed.logits)).max(initial=0.0)),
        )
        if difference > SUBMISSION_TOLERANCE:
            raise WrongError(f"it differs by {difference:.2g} from what the stored blend predicts for {test_set}")
        return f"{format_count(len(found.ids), 'image')} of {test_set} as the stored blend predicts them", None
