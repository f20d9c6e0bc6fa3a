"""The audit of an experiment: does its OOF score follow from what is stored, and from predictions that are out of fold?

Everything is read again and compared with the digests that were recorded when it was made: data, labels, folds, recipe,
weights, predictions, scores. Not for whether a model is good.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.cache.build import find_cache
from ichx.cache.hu_cache import CacheSpec
from ichx.datasets.catalog import catalog_digest, label_digest, usable_slices
from ichx.datasets.dataset import load_catalog, load_folds
from ichx.datasets.folds import find_leaks, fold_digest
from ichx.datasets.patient_subset import EXCLUDED, subset_folds
from ichx.errors import IchxError
from ichx.evaluation.metric import probabilities, score
from ichx.evaluation.oof import fold_problems, read_oof
from ichx.evaluation.predictions import VIEWS, Predictions, read_predictions
from ichx.labels import LABELS
from ichx.recipe import Recipe, digest
from ichx.recipe_text import from_toml
from ichx.store import marks
from ichx.text import format_count, format_examples

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import DatasetVersion, Experiment, FoldSet, Prediction, Store
    from ichx.workspace import Workspace

TOLERANCE = 1e-9
"""How far a recorded score may be from the one computed again, relatively: sums differ in their order at most."""


_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Check:
    """One thing that was checked: `ok`, `wrong`, or `unknown` where what it needs is gone; `told` says more."""

    subject: str
    state: str
    told: str


@dataclass(frozen=True)
class Audit:
    """What an audit found; `marks` are those that follow the experiment's score."""

    experiment: int
    name: str
    marks: tuple[str, ...]
    checks: tuple[Check, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong."""
        return all(check.state != "wrong" for check in self.checks)


def audit(project: "Project", number: int) -> Audit:
    """Return what is proven of experiment `number` and what is wrong with it; raises `IchxError` for an unknown one."""
    experiment = project.store.experiment(number)
    version = project.store.version_by_id(experiment.version_id)
    fold_set = next(f for f in version.folds if f.id == experiment.fold_set_id)
    record = _Record()
    recipe = record.of("recipe", lambda: _recipe(experiment))
    slices = record.of("dataset", lambda: _dataset(project.workspace, version))
    folds = None
    if slices is not None:
        record.of("labels", lambda: _labels(experiment, version, slices))
        folds = record.of("folds", lambda: _folds(project.workspace, experiment, version, fold_set, slices))
        if folds is not None:
            whole = folds
            record.of("patients", lambda: _patients(experiment, fold_set, slices, whole))
            if experiment.tuned is not None and experiment.tuned.subset < 1:
                share = experiment.tuned.subset
                folds = record.of("subset", lambda: _subset(slices, whole, share))
    stored = project.store.predictions(number, role="oof")
    finished = sorted({p.fold for p in stored})
    record.of("finished", lambda: _finished(experiment, project.store, finished))
    for fold in finished:
        record.of(f"fold {fold} weights", lambda fold=fold: _weights(project.workspace, experiment, fold))  # type: ignore[misc]
        if slices is not None and folds is not None:
            of_fold = [p for p in stored if p.fold == fold]
            record.of(
                f"fold {fold} predictions",
                lambda fold=fold, of_fold=of_fold: _predictions(  # type: ignore[misc]
                    project.workspace, version, slices, folds, fold, of_fold
                ),
            )
    if recipe is not None and slices is not None and folds is not None and finished:
        record.of("complete", lambda: _complete(project.workspace, version, recipe, slices, folds, stored))
    if finished:
        record.of("score", lambda: _score(project, experiment))
    return Audit(number, experiment.name, marks(experiment), tuple(record.checks))


class _WrongError(Exception):
    """What a check found wrong."""


class _UnknownError(Exception):
    """Why a check could not be made."""


class _Record:
    """The checks in their order."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def of(self, subject: str, check: Callable[[], tuple[str, _Found]]) -> _Found | None:
        """Make a check, which returns what it told and a value for later ones; None where it found something wrong."""
        try:
            told, value = check()
        except _WrongError as wrong:
            self.checks += [Check(subject, "wrong", line) for line in str(wrong).splitlines()]
        except IchxError as error:
            self.checks += [Check(subject, "wrong", line) for line in error.problem.splitlines()]
        except _UnknownError as unknown:
            self.checks.append(Check(subject, "unknown", str(unknown)))
        else:
            self.checks.append(Check(subject, "ok", told))
            return value
        return None


def _recipe(experiment: "Experiment") -> tuple[str, Recipe]:
    recipe = from_toml(experiment.recipe, source=f"the recipe of experiment {experiment.number}")
    found = digest(recipe)
    if found != experiment.recipe_digest:
        raise _WrongError(f"the recipe was changed: its digest is {found}, {experiment.recipe_digest} was recorded")
    return f"digest {found} is that of the recipe", recipe


def _dataset(workspace: "Workspace", version: "DatasetVersion") -> tuple[str, pd.DataFrame]:
    catalog = load_catalog(workspace, version)
    found, name = catalog_digest(catalog), f"{version.dataset} version {version.number}"
    if found != version.digest:
        raise _WrongError(f"the catalog of {name} was changed: its digest is {found}, {version.digest} was recorded")
    slices = usable_slices(catalog)
    return f"digest {found} is that of the catalog of {name}, {format_count(len(slices), 'slice')}", slices


def _labels(experiment: "Experiment", version: "DatasetVersion", slices: pd.DataFrame) -> tuple[str, None]:
    found = label_digest(slices)
    for whose, recorded in (("the dataset version", version.label_digest), ("the experiment", experiment.label_digest)):
        if found != recorded:
            raise _WrongError(f"the catalog's labels have the digest {found}, {recorded} was recorded for {whose}")
    return f"digest {found} is that of the catalog's labels", None


def _folds(
    workspace: "Workspace",
    experiment: "Experiment",
    version: "DatasetVersion",
    fold_set: "FoldSet",
    slices: pd.DataFrame,
) -> tuple[str, npt.NDArray[np.int16]]:
    folds = load_folds(workspace, version, fold_set, slices)
    found = fold_digest(slices["slice_id"].to_numpy(object), folds)
    for whose, recorded in (
        (f"the folds {fold_set.name}", fold_set.digest),
        ("the experiment", experiment.fold_digest),
    ):
        if found != recorded:
            raise _WrongError(f"the fold file was changed: its digest is {found}, {recorded} was recorded for {whose}")
    return f"digest {found} is that of the file of the folds {fold_set.name}, {fold_set.k} folds", folds


def _patients(
    experiment: "Experiment", fold_set: "FoldSet", slices: pd.DataFrame, folds: npt.NDArray[np.int16]
) -> tuple[str, None]:
    leaks = find_leaks(slices["slice_id"].to_numpy(object), slices["patient"].to_numpy(object), folds)
    patients = int(slices["patient"].nunique())
    if leaks:
        such = [f"{leak.patient} (folds {', '.join(map(str, leak.folds))})" for leak in leaks]
        said = "the score is marked so" if experiment.leaked else "and the score is not marked so"
        told = f"{len(leaks):,} of {format_count(patients, 'patient')} in more than one fold"
        told += f"{format_examples(such)}; {said}"
        raise _WrongError(f"a fold trained on patients that it predicts: {told}")
    if experiment.leaked or fold_set.leaking_patients:
        raise _WrongError("the folds are recorded as splitting patients, and the fold file splits none")
    return f"each of {format_count(patients, 'patient')} is in one fold", None


def _subset(slices: pd.DataFrame, folds: npt.NDArray[np.int16], share: float) -> tuple[str, npt.NDArray[np.int16]]:
    """Return the folds of a trial that saw a share of the patients."""
    kept = subset_folds(slices, folds, share)
    patients, seen = slices["patient"].nunique(), slices.loc[kept != EXCLUDED, "patient"].nunique()
    return f"a trial on {share:g} of the patients, {seen:,} of {patients:,}; the score is marked so", kept


def _finished(experiment: "Experiment", store: "Store", finished: list[int]) -> tuple[str, None]:
    if not finished:
        raise _WrongError("no fold is finished: there is no score")
    done = [run for run in store.runs(experiment.number) if run.state == "done"]
    unrun = sorted(set(finished) - {run.fold for run in done})
    if unrun:
        raise _WrongError(f"predictions of fold {', '.join(map(str, unrun))}, which no run has finished")
    versions = sorted({run.code_version for run in done})
    told = f"{len(finished)} of {format_count(experiment.folds, 'fold')}, run by ichx {', '.join(versions)}"
    return told + ("" if len(finished) == experiment.folds else "; the score is marked as partial"), None


def _weights(workspace: "Workspace", experiment: "Experiment", fold: int) -> tuple[str, None]:
    """Check the weights' own note of what they were trained on: recipe, labels and folds by digest, and the fold."""
    import safetensors  # which takes a moment, and no other command of this kind needs it

    path = workspace.experiment_files(experiment.number).fold(fold).weights
    shown = path.relative_to(workspace.root).as_posix()
    if not path.is_file():
        raise _WrongError(f"{shown} is missing")
    try:
        with safetensors.safe_open(path, framework="numpy") as opened:
            noted, tensors = opened.metadata() or {}, len(opened.keys())
    except (OSError, safetensors.SafetensorError) as error:
        raise _WrongError(f"{shown} cannot be read: {error}") from error
    wanted = {
        "plugin": experiment.plugin,
        "fold": str(fold),
        "fits": f"{experiment.recipe_digest}/{experiment.label_digest}/{experiment.fold_digest}",
    }
    other = [
        f"{name} {noted.get(name)!r} instead of {value!r}" for name, value in wanted.items() if noted.get(name) != value
    ]
    if other:
        raise _WrongError(f"{shown} was trained on something else: {'; '.join(other)}")
    return (
        f"{format_count(tensors, 'tensor')}, trained without fold {fold} with this recipe, these labels and folds",
        None,
    )


def _predictions(
    workspace: "Workspace",
    version: "DatasetVersion",
    slices: pd.DataFrame,
    folds: npt.NDArray[np.int16],
    fold: int,
    stored: "list[Prediction]",
) -> tuple[str, None]:
    ids = pd.Index(slices["slice_id"].to_numpy(object))
    problems, views, digests = [], [], []
    missing = sorted(set(VIEWS) - {p.view for p in stored})
    if missing:
        problems.append(f"no prediction is recorded of the view {', '.join(missing)}")
    for prediction in stored:
        path = workspace.root / prediction.path
        if prediction.version_id != version.id:
            problems.append(f"{prediction.path} predicts another dataset version")
            continue
        try:
            content = path.read_bytes()
        except OSError as error:
            problems.append(f"{prediction.path} cannot be read: {error.strerror}")
            continue
        found = hashlib.sha256(content).hexdigest()
        if found != prediction.digest:
            problems.append(
                f"{prediction.path} was changed: SHA-256 {found[:12]}..., {prediction.digest[:12]}... was recorded"
            )
        try:
            view = read_predictions(path)
        except IchxError as error:
            problems.append(error.problem)
            continue
        wrong = fold_problems(view.slice_ids, ids, folds, fold, prediction.slices)
        problems += [f"{prediction.path}: {problem}" for problem in wrong]
        if not wrong and found == prediction.digest:
            problems += _recorded_score(prediction, view, slices)
        views.append(view)
        digests.append(f"{prediction.view} {found[:12]}")
    if views and any(not np.array_equal(view.slice_ids, views[0].slice_ids) for view in views[1:]):
        problems.append("its views predict different slices, or the same in another order")
    if problems:
        raise _WrongError("\n".join(problems))
    rows = len(views[0].slice_ids)
    return f"{format_count(rows, 'slice')} of this fold, each once, none trained on; SHA-256 {', '.join(digests)}", None


def _recorded_score(prediction: "Prediction", view: Predictions, slices: pd.DataFrame) -> list[str]:
    rows = pd.Index(slices["slice_id"]).get_indexer(pd.Index(view.slice_ids))
    found = score(slices[list(LABELS)].to_numpy(np.float64)[rows], probabilities(view.logits))
    if _same(found, prediction.score):
        return []
    return [f"{prediction.path} scores {found:.9f}, {prediction.score} was recorded"]


def _complete(
    workspace: "Workspace",
    version: "DatasetVersion",
    recipe: Recipe,
    slices: pd.DataFrame,
    folds: npt.NDArray[np.int16],
    stored: "list[Prediction]",
) -> tuple[str, None]:
    """Check that no slice of a finished fold lacks a prediction, but those whose pixels cannot be decoded."""
    have: set[str] = set()
    for prediction in stored:
        if prediction.view == "identity":
            have |= set(read_predictions(workspace.root / prediction.path).slice_ids)
    ids = slices["slice_id"].to_numpy(object)
    wanted = np.isin(folds, sorted({p.fold for p in stored}))
    absent = [row for row in np.flatnonzero(wanted) if ids[row] not in have]
    if not absent:
        return f"each of {format_count(int(wanted.sum()), 'slice')} of the finished folds has its prediction", None
    spec = CacheSpec(size=recipe.input.size, centre=recipe.input.centre, resize=recipe.input.resize)
    cache = find_cache(workspace.cache_dir, version.dataset, slices, spec)
    if cache is None:
        raise _UnknownError(
            f"{format_count(len(absent), 'slice')} without a prediction{format_examples(map(str, ids[absent]))}; "
            "the cache, which knows whether they can be decoded, is gone"
        )
    lost = [row for row in absent if row not in cache.defects]
    if lost:
        raise _WrongError(
            f"no prediction of {format_count(len(lost), 'slice')} that can be decoded"
            f"{format_examples(map(str, ids[lost]))}"
        )
    return (
        f"all slices of the finished folds but {len(absent):,}, which cannot be decoded, have their predictions",
        None,
    )


def _score(project: "Project", experiment: "Experiment") -> tuple[str, None]:
    problems, told = [], []
    for tta, name in (("none", "score"), ("hflip", "score_tta")):
        table = read_oof(project, experiment, tta)
        recorded, spread = getattr(experiment, name), getattr(experiment, name.replace("score", "spread"))
        if not _same(table.score, recorded):
            problems.append(f"the OOF score, tta {tta}, is {table.score:.9f}, {recorded} was recorded")
        if not _same(table.spread, spread):
            problems.append(f"the spread over folds, tta {tta}, is {table.spread}, {spread} was recorded")
        told.append(f"{table.score:.5f} (tta {tta})")
    if problems:
        raise _WrongError("\n".join(problems))
    return f"computed again from the predictions: {', '.join(told)}", None


def _same(found: float | None, recorded: float | None) -> bool:
    if found is None or recorded is None:
        return found is recorded
    return math.isclose(found, recorded, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
