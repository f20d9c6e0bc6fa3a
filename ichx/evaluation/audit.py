"""Audit of an experiment: whether its OOF score follows from the stored files, and from out-of-fold predictions only.

The audit reads everything again and compares it with the digests recorded at the time: data, labels, folds, recipe,
weights, predictions, scores. It does not judge whether a model is good.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.cache.build import find_cache
from ichx.cache.recipe_caches import recipe_spec
from ichx.datasets.catalog import catalog_digest, usable_slices
from ichx.datasets.dataset import load_catalog, load_folds
from ichx.datasets.fold_labels import read_fold_labels, training_label_digest
from ichx.datasets.fold_masks import masks_of_parts
from ichx.datasets.fold_numbers import TRAIN_ONLY
from ichx.datasets.folds import fold_digest
from ichx.datasets.overlap import load_identity
from ichx.datasets.patient_subset import EXCLUDED, subset_folds
from ichx.datasets.pseudo_parts import AssignedFolds, pseudo_versions
from ichx.errors import IchxError
from ichx.evaluation.checks import Check, Checks, UnknownError, WrongError
from ichx.evaluation.choices import Tta, views_of
from ichx.evaluation.feature_tables import read_table
from ichx.evaluation.member_outputs import current_inputs, inputs_of, read_inputs, trained_inputs
from ichx.evaluation.members import experiment_pins
from ichx.evaluation.metric import probabilities
from ichx.evaluation.mixture_audit import check_parts
from ichx.evaluation.oof import fold_problems, leak_problem, read_oof
from ichx.evaluation.predictions import Predictions, read_predictions
from ichx.evaluation.pseudo_audit import PseudoAudit
from ichx.evaluation.scored_rows import Truth
from ichx.files import sha256_file
from ichx.recipe import Recipe, digest
from ichx.recipe_text import from_toml
from ichx.store import marks
from ichx.text import format_count, format_examples
from ichx.views import DEFAULT_VIEWS

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import DatasetVersion, Experiment, FeatureTableRecord, Prediction

TOLERANCE = 1e-9
"""Largest relative difference of a recorded and a recomputed score: only the order of sums may differ."""

Folds = npt.NDArray[np.int16]


@dataclass(frozen=True, kw_only=True)
class AuditResult:
    """The result of an audit."""

    name: str
    marks: tuple[str, ...]
    """The caveats attached to the score."""
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether no check found anything wrong."""
        return all(check.state != "wrong" for check in self.checks)


@dataclass(frozen=True, kw_only=True)
class Audit(AuditResult):
    """The result of an audit of an experiment."""

    experiment: int


def audit(project: "Project", number: int) -> Audit:
    """Return the audit of experiment `number`; raise `NotFoundError` if there is none."""
    experiment = project.store.experiment(number)
    checks = tuple(_Auditor(project, experiment).run())
    return Audit(experiment=number, name=experiment.name, marks=marks(experiment), checks=checks)


class _Auditor(Checks):
    """Runs the checks of an experiment in order."""

    def __init__(self, project: "Project", experiment: "Experiment") -> None:
        super().__init__()
        self.project, self.store, self.workspace = project, project.store, project.workspace
        self.experiment = experiment
        self.version = project.store.version_by_id(experiment.version_id)
        self.fold_set = self.version.fold_set_of(experiment)
        self.stored = project.store.predictions(experiment.number, role="oof")
        self.finished = sorted({p.fold for p in self.stored})

    def run(self) -> list[Check]:
        recipe = self.check("recipe", self.recipe)
        slices = self.check("dataset", self.dataset)
        folds = None
        if slices is not None:
            self.check("labels", self.labels, slices)
            folds = self.check("folds", self.folds, slices)
        if slices is not None and folds is not None:
            self.check("patients", self.patients, slices, folds)
            if self.version.part_names:
                self.check("parts", check_parts, self.project, self.version, self.fold_set.name, slices, folds)
            for labelled in pseudo_versions(self.project, self.version):
                self.pseudo_labels(labelled, slices, folds)
            if self.experiment.subset < 1:
                folds = self.check("subset", self.subset, slices, folds, self.experiment.subset)
        for number in self.experiment.members:
            self.check(f"member {number}", self.member, number)
        self.check("finished", self.finished_folds)
        for fold in self.finished:
            self.check(f"fold {fold} weights", self.weights, fold)
            if self.experiment.members:
                self.check(f"fold {fold} inputs", self.inputs, fold)
            if slices is not None and folds is not None:
                self.check(f"fold {fold} predictions", self.predictions, slices, folds, fold)
        known = recipe is not None or self.experiment.external
        if known and slices is not None and folds is not None and self.finished:
            self.check("complete", self.complete, recipe, slices, folds)
        if self.finished:
            self.check("score", self.score)
        for table in self.store.feature_tables(self.experiment.number):
            self.check(f"fold {table.fold} features", self.features, table)
        return self.checks

    def recipe(self) -> tuple[str, Recipe]:
        if self.experiment.external:
            raise UnknownError("external: another tool made the predictions, and its recipe is not known")
        recipe = from_toml(self.experiment.recipe, source=f"the recipe of experiment {self.experiment.number}")
        return compare_digests(digest(recipe), {"experiment": self.experiment.recipe_digest}), recipe

    def dataset(self) -> tuple[str, pd.DataFrame]:
        catalog = load_catalog(self.workspace, self.version)
        version, slices = self.version, usable_slices(catalog)
        detail = compare_digests(catalog_digest(catalog), {"dataset version": version.digest})
        return f"{detail}, {version.dataset} version {version.number}, {format_count(len(slices), 'slice')}", slices

    def labels(self, slices: pd.DataFrame) -> tuple[str, None]:
        recorded = {"dataset version": self.version.label_digest, "experiment": self.experiment.label_digest}
        by_fold = read_fold_labels(self.workspace, self.version)
        return compare_digests(training_label_digest(slices, by_fold), recorded), None

    def folds(self, slices: pd.DataFrame) -> tuple[str, Folds]:
        folds = load_folds(self.workspace, self.version, self.fold_set, slices)
        found = fold_digest(slices["slice_id"].to_numpy(object), folds)
        recorded = {"fold set": self.fold_set.digest, "experiment": self.experiment.fold_digest}
        detail = compare_digests(found, recorded)
        return f"{detail}, folds {self.fold_set.name}, {self.fold_set.k} folds", folds

    def patients(self, slices: pd.DataFrame, folds: Folds) -> tuple[str, None]:
        problem = leak_problem(slices["slice_id"].to_numpy(object), slices["patient"].to_numpy(object), folds)
        if problem is not None:
            mark = "is" if self.experiment.leaked else "is not"
            raise WrongError(f"{problem}; the score {mark} marked as leaky")
        if self.experiment.leaked or self.fold_set.leaking_patients:
            raise WrongError("the folds are recorded as leaky, and the fold file splits no patient")
        scored = int(slices["patient"][folds != TRAIN_ONLY].nunique())
        others = int(slices["patient"].nunique()) - scored
        also = f"; {others:,} other{'s' * (others > 1)} train in every fold and are scored in none" if others else ""
        return f"each of {format_count(scored, 'patient')} is in one fold{also}", None

    def subset(self, slices: pd.DataFrame, folds: Folds, share: float) -> tuple[str, Folds]:
        """Return the folds of a training on a share of the patients."""
        part = subset_folds(slices, folds, share)
        patients, used = slices["patient"].nunique(), slices.loc[part != EXCLUDED, "patient"].nunique()
        return f"trained on {used:,} of {patients:,} patients, a share of {share:g}; the score is marked", part

    def pseudo_labels(self, version: "DatasetVersion", slices: pd.DataFrame, folds: Folds) -> None:
        """Check the pseudo-labels of `version`, which the experiment trains on."""
        found = PseudoAudit(self.project, version)
        self.check(f"{version.dataset} labels", found.unscored, slices, folds)
        self.check(f"{version.dataset} patients", found.patients, self.version, slices, folds)
        identity = load_identity(self.workspace, self.version)
        assigned = AssignedFolds(self.fold_set.k, slices, folds, identity)
        self.check(f"{version.dataset} folds", found.same_folds, assigned)
        for fold in range(self.fold_set.k):
            self.check(f"{version.dataset} fold {fold}", found.fold, fold)
        for fold in range(self.fold_set.k) if masks_of_parts(version) else ():
            self.check(f"{version.dataset} fold {fold} masks", found.masks, fold)

    def finished_folds(self) -> tuple[str, None]:
        if not self.finished:
            raise WrongError("no fold is finished, so there is no score")
        done = [run for run in self.store.runs(self.experiment.number) if run.state == "done"]
        not_run = sorted(set(self.finished) - {run.fold for run in done})
        if not_run:
            raise WrongError(f"predictions of fold {', '.join(map(str, not_run))} without a finished run")
        versions = ", ".join(sorted({run.code_version for run in done}))
        detail = f"{len(self.finished)} of {format_count(self.experiment.folds, 'fold')}, run by ichx {versions}"
        return detail + ("; the score is marked as partial" * (len(self.finished) < self.experiment.folds)), None

    def weights(self, fold: int) -> tuple[str, None]:
        """Compare what the weight file says about its training with the experiment."""
        import safetensors

        experiment = self.experiment
        if experiment.external:
            raise UnknownError(f"external: nothing shows that the network of fold {fold} did not train on its slices")
        file = self.workspace.experiment_files(experiment.number).fold(fold).weights
        path = file.relative_to(self.workspace.root).as_posix()
        if not file.is_file():
            raise WrongError(f"{path} is missing")
        try:
            with safetensors.safe_open(file, framework="numpy") as opened:
                metadata, tensors = opened.metadata() or {}, len(opened.keys())
        except (OSError, safetensors.SafetensorError) as error:
            raise WrongError(f"{path} cannot be read: {error}") from error
        expected = {
            "plugin": experiment.plugin,
            "fold": str(fold),
            "fits": f"{experiment.recipe_digest}/{experiment.label_digest}/{experiment.fold_digest}",
        }
        different = [
            f"{name} {metadata.get(name)!r} instead of {value!r}"
            for name, value in expected.items()
            if metadata.get(name) != value
        ]
        if different:
            raise WrongError(f"{path} was trained on something else: {'; '.join(different)}")
        without = f"fold {fold}"
        if inputs_of(experiment) == ("logits",):
            without = f"the part of fold {fold} that each head predicts"
        detail = f"{format_count(tensors, 'tensor')}, trained without {without} with these recipe, labels and folds"
        return detail, None

    def member(self, number: int) -> tuple[str, None]:
        """Audit a member of a sequence experiment."""
        member = self.store.experiment(number)
        if experiment_pins(self.store, member) != experiment_pins(self.store, self.experiment):
            raise WrongError(f"{member.name} has other files, labels or folds")
        found = audit(self.project, number)
        wrong = [f"{check.subject}: {check.detail}" for check in found.checks if check.state == "wrong"]
        if wrong:
            raise WrongError(f"{member.name} fails {format_count(len(wrong), 'check')}{format_examples(wrong)}")
        return f"{member.name} passes {format_count(len(found.checks), 'check')}", None

    def inputs(self, fold: int) -> tuple[str, None]:
        """Compare what the fold of a sequence experiment has read of its members with what there is."""
        files = self.workspace.experiment_files(self.experiment.number).fold(fold)
        recorded = read_inputs(files.inputs)
        if recorded is None:
            raise UnknownError(f"{files.inputs.relative_to(self.workspace.root).as_posix()} is gone")
        trained = trained_inputs(files.weights)
        if trained != recorded.digest:
            raise WrongError(f"the record of the inputs has digest {recorded.digest}, the weights have {trained}")
        now = current_inputs(self.project, self.experiment, fold)
        if now.digest != recorded.digest:
            raise WrongError(f"retrained since: {', '.join(recorded.differences(now))}")
        return f"digest {recorded.digest}, {format_count(len(recorded.members), 'member')} unchanged", None

    def features(self, record: "FeatureTableRecord") -> tuple[str, None]:
        """Compare a feature table with its record and the weights that it was computed from."""
        path = self.workspace.root / record.path
        table = read_table(path)
        if table is None:
            raise UnknownError(f"{record.path} is gone; it is computed again when it is needed")
        found = sha256_file(path)
        if found not in {record.digest} & {table.digest}:
            raise WrongError(f"{record.path} was changed: SHA-256 {found[:12]}..., recorded {record.digest[:12]}...")
        weights = self.workspace.experiment_files(self.experiment.number).fold(record.fold).weights
        if not weights.is_file() or sha256_file(weights) != table.source.weights:
            raise UnknownError(f"{record.path} is of other weights; it is computed again when it is needed")
        slices = f"{table.slices:,} x {table.width:,}, {table.source.dataset} version {table.source.version}"
        return f"{slices}, of these weights; SHA-256 {found[:12]}", None

    def predictions(self, slices: pd.DataFrame, folds: Folds, fold: int) -> tuple[str, None]:
        ids = pd.Index(slices["slice_id"].to_numpy(object))
        stored = [p for p in self.stored if p.fold == fold]
        problems, views, digests = [], [], []
        missing = sorted(set(views_of(self.experiment)) - {p.view for p in stored})
        if missing:
            problems.append(f"no recorded prediction of the view {', '.join(missing)}")
        for prediction in stored:
            path = self.workspace.root / prediction.path
            if prediction.version_id != self.version.id:
                problems.append(f"{prediction.path} predicts another dataset version")
                continue
            try:
                found = hashlib.sha256(path.read_bytes()).hexdigest()
            except OSError as error:
                problems.append(f"{prediction.path} cannot be read: {error.strerror}")
                continue
            if found != prediction.digest:
                problems.append(
                    f"{prediction.path} was changed: SHA-256 {found[:12]}..., recorded {prediction.digest[:12]}..."
                )
            try:
                view = read_predictions(path)
            except IchxError as error:
                problems.append(error.problem)
                continue
            wrong = fold_problems(view.slice_ids, ids, folds, fold, prediction.slices)
            if not wrong and found == prediction.digest:
                wrong = _score_problems(prediction, view, slices)
            problems += [f"{prediction.path}: {problem}" for problem in wrong]
            views.append(view)
            digests.append(f"{prediction.view} {found[:12]}")
        if views and any(not np.array_equal(view.slice_ids, views[0].slice_ids) for view in views[1:]):
            problems.append("the views predict different slices, or the same in another order")
        if problems:
            raise WrongError("\n".join(problems))
        rows = format_count(len(views[0].slice_ids), "slice")
        return f"{rows} of this fold, each once, none trained on; SHA-256 {', '.join(digests)}", None

    def complete(self, recipe: Recipe | None, slices: pd.DataFrame, folds: Folds) -> tuple[str, None]:
        """Check that all slices of finished folds have a prediction, except those that cannot be decoded."""
        predicted: set[str] = set()
        for prediction in self.stored:
            if prediction.view == "identity":
                predicted |= set(read_predictions(self.workspace.root / prediction.path).slice_ids)
        ids = slices["slice_id"].to_numpy(object)
        expected = np.flatnonzero(np.isin(folds, self.finished))
        absent = [row for row in expected if ids[row] not in predicted]
        if not absent:
            return f"each of {format_count(len(expected), 'slice')} of the finished folds has its prediction", None
        if self.experiment.members:
            return self._unread(ids[absent], len(expected))
        if recipe is None:
            missing = f"{format_count(len(absent), 'slice')}{format_examples(map(str, ids[absent]))}"
            raise WrongError(f"no prediction of {missing}")
        cache = find_cache(self.workspace.cache_dir, self.version.dataset, slices, recipe_spec(recipe))
        if cache is None:
            examples = format_examples(map(str, ids[absent]))
            raise UnknownError(
                f"{format_count(len(absent), 'slice')} without a prediction{examples}; the cache, which knows whether "
                "they can be decoded, is gone"
            )
        lost = ids[[row for row in absent if row not in cache.defects]]
        if len(lost):
            raise WrongError(
                f"no prediction of {format_count(len(lost), 'slice')} that can be decoded"
                f"{format_examples(map(str, lost))}"
            )
        return f"all slices of the finished folds except {len(absent):,} that cannot be decoded", None

    def _unread(self, absent: npt.NDArray[np.object_], expected: int) -> tuple[str, None]:
        """Check that a member lacks each slice that a sequence experiment has not predicted."""
        members = [self.store.experiment(number) for number in self.experiment.members]
        lacking: set[str] = set()
        for member in members:
            lacking |= set(absent) - {
                slice_id
                for p in self.store.predictions(member.number, role="oof", view="identity")
                for slice_id in read_predictions(self.workspace.root / p.path).slice_ids
            }
        lost = [slice_id for slice_id in absent if slice_id not in lacking]
        if lost:
            raise WrongError(
                f"no prediction of {format_count(len(lost), 'slice')} that all members predict"
                f"{format_examples(map(str, lost))}"
            )
        return f"all {expected:,} slices of the finished folds except {len(absent):,} that a member lacks", None

    def score(self) -> tuple[str, None]:
        problems, scores = [], []
        mean: Tta = "hflip" if set(self.experiment.views) <= set(DEFAULT_VIEWS) else "all"
        recorded: dict[Tta, tuple[float | None, float | None]] = {
            "none": (self.experiment.score, self.experiment.spread),
            mean: (self.experiment.score_tta, self.experiment.spread_tta),
        }
        for tta, (old_score, old_spread) in recorded.items():
            table, how = read_oof(self.project, self.experiment, tta), ""
            if not is_close(table.score, old_score):  # ichx up to 0.1 averaged the probabilities of views
                older = read_oof(self.project, self.experiment, tta, average="probability")
                if is_close(older.score, old_score):
                    table, how = older, ", by averaged probabilities, as recorded by an older version"
            if not is_close(table.score, old_score):
                problems.append(f"the OOF score, tta {tta}, is {table.score:.9f}, recorded {old_score}")
            if not is_close(table.spread, old_spread):
                problems.append(f"the spread over folds, tta {tta}, is {table.spread}, recorded {old_spread}")
            scores.append(f"{table.score:.5f} (tta {tta}{how})")
        if problems:
            raise WrongError("\n".join(problems))
        return f"recomputed from the predictions: {', '.join(scores)}", None


def compare_digests(found: str, recorded: Mapping[str, str | None]) -> str:
    """Return the detail of equal digests; raise `WrongError` if one of `recorded`, by owner, differs from `found`."""
    for owner, expected in recorded.items():
        if found != expected:
            raise WrongError(f"changed: its digest is {found}, that of the {owner} is {expected}")
    return f"digest {found}"


def _score_problems(prediction: "Prediction", view: Predictions, slices: pd.DataFrame) -> list[str]:
    rows = pd.Index(slices["slice_id"]).get_indexer(pd.Index(view.slice_ids))
    found = Truth.of(slices.iloc[rows]).scored(probabilities(view.logits)).score
    return [] if is_close(found, prediction.score) else [f"the score is {found:.9f}, recorded {prediction.score}"]


def is_close(found: float | None, recorded: float | None) -> bool:
    """Return whether two scores are equal up to `TOLERANCE`, or both unknown."""
    if found is None or recorded is None:
        return found is recorded
    return math.isclose(found, recorded, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
