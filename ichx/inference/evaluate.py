"""An experiment's scores on a labelled dataset that it was not made on. Its predictions are kept and made once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ichx.datasets.catalog import hash_ids
from ichx.datasets.dataset import LoadedDataset, load_version
from ichx.errors import IchxError
from ichx.evaluation.bootstrap import Bootstrap
from ichx.evaluation.metric import FloatArray, probabilities, score
from ichx.evaluation.oof import TTA_VIEWS, mean_over_views
from ichx.evaluation.predictions import Predictions, read_predictions, write_predictions
from ichx.evaluation.scorecard import both_scores
from ichx.evaluation.scores import POOLINGS
from ichx.experiments.prepare import open_cache
from ichx.inference.trained import Trained, find_trained, open_networks
from ichx.labels import LABELS
from ichx.store import PredictionDraft, marks
from ichx.text import format_count, format_examples
from ichx.training.prediction import PredictionTask
from ichx.training.slice_feed import SliceFeed

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.training.callbacks import Callbacks
    from ichx.workspace import Workspace

ROLE = "evaluation"
"""How the store calls predictions of a labelled dataset that the experiment was not made on."""


@dataclass(frozen=True)
class Evaluation:
    """An experiment's scores on `dataset`, of slices and of studies, by the mean over views, then over `folds`.

    `folds` has each fold's own score. `left_out` counts slices that cannot be decoded.
    """

    experiment: int
    name: str
    dataset: str
    dataset_version: int
    tta: str
    marks: tuple[str, ...]
    folds: dict[int, float]
    slices: Bootstrap
    studies: Bootstrap
    left_out: int


def evaluate_dataset(
    project: "Project",
    number: int,
    dataset: str,
    *,
    events: "Callbacks",
    tta: str = "none",
    pooling: str = "max",
    folds: Sequence[int] | None = None,
    device: str = "auto",
    workers: int | None = None,
) -> Evaluation:
    """Return the scores of experiment `number` on the newest version of `dataset`, predicting what is not predicted.

    Raises `IchxError` for unknown names, a dataset without labels, and one that shares patients or slices with the
    dataset that the experiment is made on.
    """
    if tta not in TTA_VIEWS:
        raise IchxError(f"there is no test-time augmentation {tta!r}", f"choose one of {', '.join(TTA_VIEWS)}")
    if pooling not in POOLINGS:
        raise IchxError(f"there is no pooling {pooling!r}", f"choose one of {', '.join(POOLINGS)}")
    trained = find_trained(project, number, folds)
    version = project.store.version(dataset)
    if version.label_digest is None:
        raise IchxError(f"{dataset} has no labels to score against", "predict it: `ichx predict`")
    data = load_version(project.workspace, version)
    _refuse_shared(project, trained, data)
    if trained.partial is not None and folds is None:
        events.note(f"experiment {number} predicts with {trained.partial}")
    _predict_missing(project, trained, data, TTA_VIEWS[tta], events, device, workers)
    predicted = _read(project, trained, data, TTA_VIEWS[tta])
    ids = next(iter(predicted.values()))[0]
    rows = data.slices.set_index("slice_id").loc[list(ids)]
    labels = rows[list(LABELS)].to_numpy(np.float64)
    mean: FloatArray = np.mean([found for _, found in predicted.values()], axis=0)
    slices, studies = both_scores(
        labels, mean, rows["patient"].to_numpy(object), rows["study"].to_numpy(object), pooling
    )
    return Evaluation(
        experiment=number,
        name=trained.experiment.name,
        dataset=dataset,
        dataset_version=version.number,
        tta=tta,
        marks=marks(trained.experiment),
        folds={fold: score(labels, found) for fold, (_, found) in predicted.items()},
        slices=slices,
        studies=studies,
        left_out=len(data.slices) - len(rows),
    )


def _refuse_shared(project: "Project", trained: Trained, data: LoadedDataset) -> None:
    """Raise `IchxError` where `data` holds patients or slices of the dataset that the experiment is made on."""
    experiment = trained.experiment
    own = load_version(project.workspace, project.store.version_by_id(experiment.version_id))
    patients = _patients(project.workspace, data)
    known_patient = np.isin(patients, np.unique(_patients(project.workspace, own)))
    known_slice = data.slices["slice_id"].isin(own.slices["slice_id"]).to_numpy()
    shared = known_patient | known_slice
    if not shared.any():
        return
    names = np.unique(patients[shared])
    raise IchxError(
        f"{format_count(len(names), 'patient')} of {data.version.dataset} with "
        f"{format_count(int(shared.sum()), 'slice')} "
        f"also {'stands' if len(names) == 1 else 'stand'} in {own.version.dataset}, which experiment "
        f"{experiment.number} is made on{format_examples(map(str, names), len(names))}: no score of them is one of "
        "unseen patients",
        f"add a dataset without these patients; `ichx scores {experiment.number}` has scores on {own.version.dataset}",
    )


def _patients(workspace: "Workspace", data: LoadedDataset) -> npt.NDArray[np.object_]:
    """Return each slice's patient as a keyed hash, whether the dataset keeps hashes or, with `--keep-ids`, the ids."""
    patients = data.slices["patient"]
    if data.version.summary.get("keep_ids"):
        patients = hash_ids(patients, workspace.privacy_key())
    return patients.to_numpy(object)


def _predict_missing(
    project: "Project",
    trained: Trained,
    data: LoadedDataset,
    views: Sequence[str],
    events: "Callbacks",
    device: str,
    workers: int | None,
) -> None:
    """Predict `data` with the folds and views that have not, and record each fold's predictions when it is done."""
    version, number = data.version, trained.experiment.number
    have = {
        (p.fold, p.view)
        for p in project.store.predictions(number, role=ROLE, version_id=version.id)
        if (project.workspace.root / p.path).is_file()
    }
    todo = {fold: [view for view in views if (fold, view) not in have] for fold in trained.weights}
    if not any(todo.values()):
        return
    cache = open_cache(project.workspace, data, trained.recipe, events)
    rows = np.flatnonzero(cache.valid)
    if not len(rows):
        raise IchxError(f"no slice of {version.dataset} can be decoded", f"see `ichx data check {version.dataset}`")
    ids = data.slices["slice_id"].to_numpy(object)[rows]
    labels = data.slices[list(LABELS)].to_numpy(np.float64)[rows]
    files = project.workspace.experiment_files(number)
    with open_networks(trained, device, workers, events.note) as network:
        events.note(f"device: {network.hardware}")
        feed = SliceFeed(cache, data.slices, trained.recipe, network.workers)
        for fold, missing in todo.items():
            if not missing:
                continue
            network.load(fold)
            drafts = []
            for view in missing:
                phase = f"fold {fold} predicts {version.dataset}, {view}"

                def report(done: int, phase: str = phase) -> None:
                    events.phase(phase, done, len(rows))

                logits = network.logits(feed, rows, PredictionTask(view, report=report))
                path = files.fold(fold).predictions(ROLE, view, version.dataset, version.number)
                drafts.append(
                    PredictionDraft(
                        experiment=number,
                        fold=fold,
                        version_id=version.id,
                        role=ROLE,
                        view=view,
                        path=path.relative_to(project.workspace.root).as_posix(),
                        slices=len(rows),
                        digest=write_predictions(path, Predictions(ids, logits)),
                        score=score(labels, probabilities(logits)),
                    )
                )
            project.store.add_predictions(drafts)


def _read(
    project: "Project", trained: Trained, data: LoadedDataset, views: Sequence[str]
) -> dict[int, tuple[npt.NDArray[np.object_], FloatArray]]:
    """Return each fold's (slice ids, mean probabilities (N, 6) over `views`), all folds in the same order."""
    number, version = trained.experiment.number, data.version
    stored = {(p.fold, p.view): p for p in project.store.predictions(number, role=ROLE, version_id=version.id)}
    found: dict[int, tuple[npt.NDArray[np.object_], FloatArray]] = {}
    for fold in trained.weights:
        read = [read_predictions(project.workspace.root / stored[fold, view].path) for view in views]
        found[fold] = read[0].slice_ids, mean_over_views(read)
    ids = next(iter(found.values()))[0]
    same = all(np.array_equal(ids, other) for other, _ in found.values())
    if not same or not data.slices["slice_id"].isin(ids).sum() == len(ids):
        raise IchxError(
            f"the kept predictions of experiment {number} are not of one and the same slices of {version.dataset}",
            f"remove the evaluation files of {version.dataset} in {next(iter(trained.weights.values())).parent.parent}",
        )
    return found
