"""External experiments: OOF and test predictions of another tool, registered like those of a training.

They are listed, scored, blended and reported with the mark `external`. Nothing shows which slices their models were
trained on. `ichx.store.require_network` refuses what needs a network.
"""

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx import __version__
from ichx.datasets.catalog import usable_slices
from ichx.datasets.dataset import load_catalog, load_folds
from ichx.datasets.fold_numbers import TRAIN_ONLY
from ichx.datasets.id_matching import match_images
from ichx.errors import InvalidInputError, check_name, raise_problems
from ichx.evaluation.logistic import model_logits
from ichx.evaluation.metric import probabilities, score
from ichx.evaluation.prediction_input import PredictionTable, read_prediction_table
from ichx.evaluation.predictions import Predictions, write_predictions
from ichx.evaluation.scorecard import update_scores
from ichx.experiment_files import ExperimentFiles
from ichx.experiments.folder_record import describe_folder
from ichx.experiments.gc import IMPORTING
from ichx.experiments.register import labelled_version
from ichx.files import sha256_file
from ichx.labels import LABELS
from ichx.process_identity import host_name
from ichx.recipe import EXTERNAL_PLUGIN, InputRecipe, ModelRecipe, Recipe, StageRecipe, digest
from ichx.recipe_text import to_toml
from ichx.store import ExperimentDraft, ImportDraft, PredictionDraft, Run
from ichx.text import EXAMPLES, format_count, format_examples

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import DatasetVersion, Experiment, FoldSet

_RECIPE: Final = Recipe(
    plugin=EXTERNAL_PLUGIN,
    model=ModelRecipe(backbone="-", pretrained=False),
    input=InputRecipe(size=256),
    stage=(StageRecipe(name="none", sampling="all", epochs=1, lr=1e-3),),
    batch=1,
)
"""Stands for the unknown recipe, because every experiment has one. It is never shown or trained."""


@dataclass(frozen=True)
class ExternalRequest:
    """What to register."""

    name: str
    oof: Path
    tests: Mapping[str, Path] = field(default_factory=dict)
    """Predictions by test set."""
    dataset: str | None = None
    """A labelled dataset; None for the only one."""
    folds: str | None = None
    """Name of its folds; None for the default ones."""
    as_logits: bool = False
    """The values are logits instead of probabilities."""


@dataclass(frozen=True)
class Registered:
    """A registered external experiment, and notes about its files."""

    experiment: "Experiment"
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Matched:
    """The predictions in a file of slices of a dataset version."""

    path: Path
    version: "DatasetVersion"
    slices: pd.DataFrame
    """All slices of the version."""
    table: PredictionTable
    row: npt.NDArray[np.int64]
    """Row in `slices` of each prediction."""

    def of_fold(self, fold: int, assigned: npt.NDArray[np.int16] | None = None) -> Predictions:
        """Return the predictions of a fold, in the order of the slices.

        These are the slices of `assigned` folds; without it, what the file states, or every prediction. Probabilities
        are clipped at 1e-7.
        """
        folds = self.table.folds if assigned is None else assigned[self.row]
        rows = np.arange(len(self.row)) if folds is None else np.flatnonzero(folds == fold)
        rows = rows[np.argsort(self.row[rows])]
        ids = self.slices["slice_id"].to_numpy(object)[self.row[rows]]
        return Predictions(ids, model_logits(self.table.probabilities[rows]).astype(np.float32))


def register_external(project: "Project", request: ExternalRequest) -> Registered:
    """Register the predictions of another tool as an experiment.

    The fold of a slice is that of the dataset's folds. Folds without any prediction are unfinished. Test predictions
    without a column `fold` count for every fold.

    Raises:
        InvalidInputError: A file or an id is invalid, predictions are missing, or a stated fold is not that of the
            slice. The message lists the problems of all files, and nothing is registered.
        NotFoundError: A file, dataset or fold set does not exist.
        NotReadyError: There is no labelled dataset with folds.
    """
    check_name("name", request.name)
    version = labelled_version(project.store, request.dataset)
    fold_set = version.fold_set(request.folds)
    sets = {name: _test_set(project, version, name) for name in request.tests}
    problems: list[str] = []
    notes: list[str] = []
    finished: list[int] = []
    oof = _match(project, version, request.oof, request, problems, notes)
    if oof is not None:
        assigned = load_folds(project.workspace, version, fold_set, oof.slices)
        oof = _scored(oof, assigned, notes)
        finished = _finished_folds(oof, assigned, fold_set.name, problems)
    tests = [_match(project, sets[name], path, request, problems, notes) for name, path in request.tests.items()]
    for test in tests:
        if test is not None and oof is not None:
            _check_test(test, finished, problems)
    raise_problems(problems, "Correct the files; nothing was registered.")
    folder = project.workspace.experiments_dir / f"{IMPORTING}{secrets.token_hex(4)}"
    files = ExperimentFiles(folder)
    drafts: list[PredictionDraft] = []
    try:
        for fold in finished:
            if oof is not None:
                drafts.append(_write(files, fold, oof, oof.of_fold(fold, assigned), "oof"))
            drafts += [_write(files, fold, test, test.of_fold(fold), "test") for test in tests if test is not None]
        made = project.store.import_experiment(
            _draft(request, version, fold_set, drafts),
            place=lambda number: folder.rename(project.workspace.experiment_dir(number)),
            root="experiments",
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    update_scores(project, made.number)
    experiment = project.store.experiment(made.number)
    describe_folder(project, experiment)
    return Registered(experiment, tuple(notes))


def _test_set(project: "Project", version: "DatasetVersion", name: str) -> "DatasetVersion":
    test = project.store.version(name)
    names = [one.dataset for one in project.store.test_sets(version.dataset)]
    if name not in names:
        listed = ", ".join(names) or "none"
        raise InvalidInputError(f"{name} is not a test set of {version.dataset}.", f"Its test sets: {listed}.")
    return test


def _match(
    project: "Project",
    version: "DatasetVersion",
    path: Path,
    request: ExternalRequest,
    problems: list[str],
    notes: list[str],
) -> _Matched | None:
    """Return the predictions at `path` of slices of `version`; add to `problems` and return None if it is invalid."""
    catalog = load_catalog(project.workspace, version)
    slices = usable_slices(catalog)
    try:
        table = read_prediction_table(path, as_logits=request.as_logits)
        code, images = pd.factorize(table.images)
        match = match_images(catalog, images, path)
    except InvalidInputError as error:
        problems += error.problem.splitlines()
        return None
    matched = match.image >= 0
    row_of = np.full(len(images), -1, np.int64)
    row_of[match.image[matched]] = pd.Index(slices["slice_id"]).get_indexer(pd.Index(catalog["slice_id"][matched]))
    name = f"{version.dataset} version {version.number}"
    if match.absent:
        examples = format_examples(match.absent_examples, match.absent)
        problems.append(f"{path}: {format_count(match.absent, 'slice')} that {name} does not have{examples}.")
    if match.defective:
        notes.append(f"{path.name}: ignored {format_count(match.defective, 'slice')} that {name} excludes.")
    known = np.flatnonzero(row_of[code] >= 0)
    return _Matched(path, version, slices, table.take(known), row_of[code][known])


def _scored(oof: _Matched, assigned: npt.NDArray[np.int16], notes: list[str]) -> _Matched:
    """Return the predictions of slices that a fold scores; note the others, which every fold trains on."""
    trained = assigned[oof.row] == TRAIN_ONLY
    if not trained.any():
        return oof
    count = format_count(int(trained.sum()), "slice")
    notes.append(f"{oof.path.name}: ignored {count} with the fold -1, which train in every fold.")
    kept = np.flatnonzero(~trained)
    return replace(oof, table=oof.table.take(kept), row=oof.row[kept])


def _finished_folds(oof: _Matched, assigned: npt.NDArray[np.int16], name: str, problems: list[str]) -> list[int]:
    """Return the folds with predictions; add contradicting folds and missing slices to `problems`."""
    ids = oof.slices["slice_id"].to_numpy(object)
    stated = oof.table.folds
    if stated is not None:
        expected = assigned[oof.row]
        problems += _problem(
            oof.path,
            f"with another fold than in the folds {name} (`ichx data folds {oof.version.dataset} --import FILE` adds "
            "yours)",
            [f"{ids[oof.row[i]]}: {stated[i]} instead of {expected[i]}" for i in np.flatnonzero(stated != expected)],
        )
    predicted = np.isin(np.arange(len(ids)), oof.row)
    finished = [int(fold) for fold in np.unique(assigned[predicted])]
    missing = np.flatnonzero(np.isin(assigned, finished) & ~predicted)
    problems += _problem(
        oof.path, "of predicted folds without a prediction", [f"{ids[row]} of fold {assigned[row]}" for row in missing]
    )
    return finished


def _check_test(test: _Matched, finished: Sequence[int], problems: list[str]) -> None:
    stated = test.table.folds
    if stated is not None and sorted(set(stated.tolist())) != list(finished):
        found, wanted = (", ".join(map(str, folds)) for folds in (sorted(set(stated.tolist())), finished))
        problems.append(f"{test.path}: predictions of the folds {found}, and OOF predictions of the folds {wanted}.")
        return
    ids = test.slices["slice_id"].to_numpy(object)
    for fold in finished if stated is not None else [None]:
        rows = test.row if fold is None or stated is None else test.row[stated == fold]
        of = "" if fold is None else f" of fold {fold}"
        lacking = ids[~np.isin(np.arange(len(ids)), rows)]
        problems += _problem(test.path, f"without a prediction{of}", list(map(str, lacking)))


def _problem(path: Path, what: str, found: Sequence[str]) -> list[str]:
    examples = format_examples(found[:EXAMPLES], len(found))
    return [f"{path}: {format_count(len(found), 'slice')} {what}{examples}."] if found else []


def _write(files: ExperimentFiles, fold: int, of: _Matched, predictions: Predictions, role: str) -> PredictionDraft:
    dataset = () if role == "oof" else (of.version.dataset, of.version.number)
    path = files.fold(fold).predictions(role, "identity", *dataset)
    rows = pd.Index(of.slices["slice_id"]).get_indexer(pd.Index(predictions.slice_ids))
    labels = of.slices[list(LABELS)].to_numpy(np.float64)[rows]
    return PredictionDraft(
        experiment=0,  # the store assigns it
        fold=fold,
        version_id=of.version.id,
        role=role,
        view="identity",
        path=path.relative_to(files.folder).as_posix(),
        slices=len(predictions.slice_ids),
        digest=write_predictions(path, predictions),
        score=score(labels, probabilities(predictions.logits)) if role == "oof" else None,
    )


def _draft(
    request: ExternalRequest, version: "DatasetVersion", fold_set: "FoldSet", predictions: Sequence[PredictionDraft]
) -> ImportDraft:
    sources = {"oof": request.oof, **request.tests}
    provenance = {"files": {name: {"name": path.name, "sha256": sha256_file(path)} for name, path in sources.items()}}
    now = datetime.now(UTC)
    runs = [
        Run(
            experiment=0,
            fold=fold,
            host=host_name(),
            pid=os.getpid(),
            code_version=__version__,
            libraries={},
            device="-",
            command=f"ichx exp external {request.name}",
            provenance=provenance,
            id=0,
            attempt=1,
            state="done",
            started=now,
            heartbeat=now,
            ended=now,
            stage=None,
            epoch=None,
            epochs_done=0,
            error=None,
        )
        for fold in sorted({p.fold for p in predictions})
    ]
    return ImportDraft(
        experiment=ExperimentDraft(
            name=request.name,
            plugin=EXTERNAL_PLUGIN,
            size=0,
            window_kind="-",
            recipe=to_toml(_RECIPE),
            recipe_digest=digest(_RECIPE),
            version_id=version.id,
            label_digest=version.label_digest or "",
            fold_set_id=fold_set.id,
            fold_digest=fold_set.digest,
            epochs=0,
            external=True,
        ),
        runs=tuple(runs),
        history={},
        predictions=tuple(predictions),
        tags=(),
        notes=(),
    )
