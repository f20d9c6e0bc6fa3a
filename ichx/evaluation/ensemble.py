"""The ensemble: the best experiments by OOF score, their blend weights, and the submission they make together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ichx.data.dataset import load_version
from ichx.data.label_csv import read_sample
from ichx.errors import IchxError
from ichx.evaluation import blend
from ichx.evaluation.metric import FloatArray, score
from ichx.evaluation.oof import TTA_VIEWS, OofTable, mean_over_views, read_oof, read_view
from ichx.evaluation.submission import write_submission
from ichx.store import EnsembleDraft, EnsembleMember

if TYPE_CHECKING:
    from ichx.store import DatasetVersion, Ensemble, Experiment, ExperimentSummary, Store
    from ichx.workspace import Workspace


@dataclass(frozen=True)
class Submission:
    """One submission file; `filled` counts sample images without a slice, which got the training prevalences."""

    test_set: str
    path: str
    images: int
    filled: int


@dataclass(frozen=True)
class EnsembleReport:
    """What `ichx ensemble` tells."""

    ensemble: "Ensemble"
    names: dict[int, str]
    best_single: float
    mean_score: float
    certificate: float
    submissions: tuple[Submission, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Member:
    experiment: "Experiment"
    oof: OofTable


def make_ensemble(
    workspace: "Workspace", store: "Store", *, top: int, tta: str, dataset: str | None = None, out: Path | None = None
) -> EnsembleReport:
    """Blend the `top` complete experiments of `dataset` by OOF score under `tta`, and write a submission per test set.

    `out` names the submission file where there is one test set. Raises `IchxError` for too little to blend.
    """
    if top < 1:
        raise IchxError(f"--top {top} blends nothing", "ask for at least 1")
    if tta not in TTA_VIEWS:
        raise IchxError(f"there is no test-time augmentation {tta!r}", f"choose one of {', '.join(TTA_VIEWS)}")
    version, fold_digest, candidates, notes = _candidates(store, dataset)
    members = sorted(
        (_Member(e, read_oof(workspace, store, e, tta)) for e in candidates),
        key=lambda m: (m.oof.score, m.experiment.number),
    )[:top]
    if len(members) < top:
        notes = [f"asked for {top} experiments, {len(members)} are complete; blending those", *notes]
    _same_slices(members)

    labels, folds = members[0].oof.labels, members[0].oof.folds
    predicted = [m.oof.probabilities for m in members]
    solution = blend.solve(labels, predicted)
    nested = _nested_score(labels, folds, predicted)
    if members[0].oof.left_out:
        notes.append(f"{members[0].oof.left_out} slices could not be decoded and are not in any score")

    tests = [t for t in store.test_sets(version.dataset) if t.sample is not None]
    if out is not None and len(tests) != 1:
        names = ", ".join(t.dataset for t in tests) or "none"
        raise IchxError(
            f"--out needs exactly one test set with a sample; {version.dataset} has {names}", "leave out --out"
        )
    if not tests:
        notes.append(f"no test set with a sample belongs to {version.dataset}: blended, no submission written")
    number = store.reserve_ensemble()
    folder = workspace.ensembles_dir / str(number)
    submissions = [
        _submit(
            workspace,
            store,
            members,
            solution.weights,
            tta,
            labels.mean(axis=0),
            test,
            out or folder / f"{test.dataset}.csv",
        )
        for test in tests
    ]
    ensemble = store.add_ensemble(
        EnsembleDraft(
            dataset=version.dataset,
            version_id=version.id,
            fold_digest=fold_digest,
            tta=tta,
            method="convex",
            score=solution.loss,
            nested_score=nested,
            partial=None,
            submissions=tuple(s.path for s in submissions),
            members=tuple(
                EnsembleMember(experiment=m.experiment.number, weight=float(w), score=m.oof.score)
                for m, w in zip(members, solution.weights, strict=True)
            ),
        ),
        number,
    )
    return EnsembleReport(
        ensemble=ensemble,
        names={m.experiment.number: m.experiment.name for m in members},
        best_single=members[0].oof.score,
        mean_score=score(labels, blend.mix(predicted, np.full(len(members), 1 / len(members)))),
        certificate=solution.certificate,
        submissions=tuple(submissions),
        notes=tuple(notes),
    )


def predict_test(
    workspace: "Workspace", store: "Store", experiment: "Experiment", test: "DatasetVersion", tta: str
) -> tuple[npt.NDArray[np.object_], FloatArray]:
    """Return `(slice_ids, probabilities (N, 6))` of a test set: the mean over views, then over finished folds."""
    stored = store.predictions(experiment.number, role="test", version_id=test.id)
    folds = sorted({p.fold for p in stored})
    missing = sorted(set(range(experiment.folds)) - set(folds))
    if missing:
        named = ", ".join(map(str, missing))
        raise IchxError(
            f"experiment {experiment.number} has no predictions of {test.dataset} from fold {named}",
            f"run `ichx run {experiment.number}`: it predicts test sets that were added later",
        )
    ids: npt.NDArray[np.object_] | None = None
    total: FloatArray | None = None
    for fold in folds:
        views = [read_view(workspace, stored, fold, view, experiment.number) for view in TTA_VIEWS[tta]]
        mean = mean_over_views(views)
        if ids is None or total is None:
            ids, total = views[0].slice_ids, mean
        elif not np.array_equal(ids, views[0].slice_ids):
            raise IchxError(
                f"folds of experiment {experiment.number} predict different slices of {test.dataset}", "run it again"
            )
        else:
            total = total + mean
    assert ids is not None
    assert total is not None
    return ids, total / len(folds)


def _candidates(store: "Store", dataset: str | None) -> "tuple[DatasetVersion, str, list[Experiment], list[str]]":
    """Return the complete experiments of one dataset version and fold digest, and a line for each one left out."""
    if dataset is not None:
        store.dataset(dataset)
    summaries = [e for e in store.experiments(limit=None, dataset=dataset) if e.kind == "experiment" and not e.archived]
    names = sorted({e.dataset for e in summaries})
    if len(names) > 1:
        raise IchxError(f"experiments on {len(names)} datasets: {', '.join(names)}", "choose one with --dataset NAME")
    done = [e for e in summaries if e.state == "done" and not e.leaked]
    if not done:
        where = f" on {dataset}" if dataset else ""
        raise IchxError(
            "\n".join([f"no experiment{where} is complete", *_incomplete(summaries)]), "run one with `ichx run NUMBER`"
        )
    complete = [store.experiment(e.number) for e in done]
    newest = max(complete, key=lambda e: e.number)
    pinned = (newest.version_id, newest.fold_digest)
    same = [e for e in complete if (e.version_id, e.fold_digest) == pinned]
    version = store.version_by_id(newest.version_id)
    notes = [
        f"{e.number} ({e.name}) is left out: it has other data or folds than {newest.number}, the newest"
        for e in complete
        if e not in same
    ]
    return version, newest.fold_digest, same, notes + _incomplete(summaries)


def _incomplete(summaries: "Sequence[ExperimentSummary]") -> list[str]:
    lines = []
    for e in sorted(summaries, key=lambda s: s.number):
        if e.leaked:
            lines.append(f"{e.number} ({e.name}) is left out: its folds leak patients")
        elif e.state != "done":
            lines.append(f"{e.number} ({e.name}) is not complete: {e.folds_done} of {e.folds} folds, {e.state}")
    return lines


def _same_slices(members: Sequence[_Member]) -> None:
    first = members[0]
    for other in members[1:]:
        if not np.array_equal(other.oof.slice_ids, first.oof.slice_ids):
            differ = len(set(other.oof.slice_ids) ^ set(first.oof.slice_ids))
            raise IchxError(
                f"experiments {first.experiment.number} and {other.experiment.number} predict different slices: "
                f"{differ} are only in one of them",
                "run the one with fewer again",
            )


def _nested_score(labels: FloatArray, folds: npt.NDArray[np.int16], predicted: Sequence[FloatArray]) -> float | None:
    """Return the score with each fold blended by weights chosen on the other folds; None for a single fold."""
    parts = np.unique(folds)
    if len(parts) < 2:
        return None
    mixed = np.empty_like(labels)
    for part in parts:
        inside = folds == part
        weights = blend.solve(labels[~inside], [p[~inside] for p in predicted]).weights
        mixed[inside] = blend.mix([p[inside] for p in predicted], weights)
    return score(labels, mixed)


def _submit(
    workspace: "Workspace",
    store: "Store",
    members: Sequence[_Member],
    weights: FloatArray,
    tta: str,
    prevalence: FloatArray,
    test: "DatasetVersion",
    path: Path,
) -> Submission:
    assert test.sample is not None
    sample = read_sample(workspace.root / test.sample)
    used = [(m, float(w)) for m, w in zip(members, weights, strict=True) if w > 0]
    tables = [predict_test(workspace, store, m.experiment, test, tta) for m, _ in used]
    ids = tables[0][0]
    for other, _ in tables[1:]:
        if not np.array_equal(other, ids):
            raise IchxError(
                f"members predict different slices of {test.dataset}", "run `ichx run` on each member again"
            )
    mixed = blend.mix([probabilities for _, probabilities in tables], [w for _, w in used])

    slices = load_version(workspace, test).slices
    image_of = dict(zip(slices["slice_id"], slices[test.summary["sample"]["by"]], strict=True))
    row_of = {image_of[i]: row for row, i in enumerate(ids)}
    filled = 0
    rows = np.empty((len(sample.images), mixed.shape[1]))
    for position, image in enumerate(sample.images):
        if image in row_of:
            rows[position] = mixed[row_of[image]]
        else:
            rows[position] = prevalence
            filled += 1
    if filled == len(sample.images):
        raise IchxError(
            f"no image of the sample is a slice of {test.dataset}", "add the test set with its own --sample CSV"
        )
    write_submission(path, sample, sample.images, rows)
    try:
        shown = path.resolve().relative_to(workspace.root).as_posix()
    except ValueError:
        shown = str(path.resolve())
    return Submission(test.dataset, shown, len(sample.images), filled)
