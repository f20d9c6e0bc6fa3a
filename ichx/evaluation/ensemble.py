"""The ensemble: the best experiments by OOF score, their blend weights, and the submission they make together."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ichx.data.dataset import load_version
from ichx.data.label_csv import read_sample
from ichx.errors import IchxError, raise_problems
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


@dataclass(frozen=True)
class _Chosen:
    """Experiments to blend, on a dataset version's folds of one digest; only their `folds` count, of `k`."""

    version: "DatasetVersion"
    fold_digest: str
    experiments: "tuple[Experiment, ...]"
    folds: tuple[int, ...]
    k: int
    notes: tuple[str, ...]

    @property
    def partial(self) -> str | None:
        """Which folds are blended, where these are not all."""
        return None if len(self.folds) == self.k else f"{len(self.folds)} of {self.k} folds"


def make_ensemble(
    workspace: "Workspace",
    store: "Store",
    *,
    tta: str,
    top: int = 4,
    members: Sequence[int] = (),
    dataset: str | None = None,
    out: Path | None = None,
) -> EnsembleReport:
    """Blend the `top` complete experiments of `dataset` by OOF score under `tta`, and write a submission per test set.

    With `members`, blend these experiments instead, on the folds that all of them have finished. `out` names the
    submission file where there is one test set. Raises `IchxError` for too little to blend.
    """
    if top < 1:
        raise IchxError(f"--top {top} blends nothing", "ask for at least 1")
    if tta not in TTA_VIEWS:
        raise IchxError(f"there is no test-time augmentation {tta!r}", f"choose one of {', '.join(TTA_VIEWS)}")
    chosen = _named(store, members, dataset) if members else _candidates(store, dataset)
    version, notes = chosen.version, list(chosen.notes)
    ranked = sorted(
        (_Member(e, read_oof(workspace, store, e, tta, chosen.folds)) for e in chosen.experiments),
        key=lambda m: (m.oof.score, m.experiment.number),
    )
    blended = ranked if members else ranked[:top]
    if not members and len(blended) < top:
        notes = [f"asked for {top} experiments, {len(blended)} are complete; blending those", *notes]
    _same_slices(blended)

    labels, folds = blended[0].oof.labels, blended[0].oof.folds
    predicted = [m.oof.probabilities for m in blended]
    solution = blend.solve(labels, predicted)
    nested = _nested_score(labels, folds, predicted)
    if blended[0].oof.left_out:
        notes.append(f"{blended[0].oof.left_out} slices could not be decoded and are not in any score")

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
            blended,
            chosen.folds,
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
            fold_digest=chosen.fold_digest,
            tta=tta,
            method="convex",
            score=solution.loss,
            nested_score=nested,
            partial=chosen.partial,
            submissions=tuple(s.path for s in submissions),
            members=tuple(
                EnsembleMember(experiment=m.experiment.number, weight=float(w), score=m.oof.score)
                for m, w in zip(blended, solution.weights, strict=True)
            ),
        ),
        number,
    )
    return EnsembleReport(
        ensemble=ensemble,
        names={m.experiment.number: m.experiment.name for m in blended},
        best_single=blended[0].oof.score,
        mean_score=score(labels, blend.mix(predicted, np.full(len(blended), 1 / len(blended)))),
        certificate=solution.certificate,
        submissions=tuple(submissions),
        notes=tuple(notes),
    )


def predict_test(
    workspace: "Workspace",
    store: "Store",
    experiment: "Experiment",
    test: "DatasetVersion",
    tta: str,
    only: Sequence[int] | None = None,
) -> tuple[npt.NDArray[np.object_], FloatArray]:
    """Return `(slice_ids, probabilities (N, 6))` of a test set: the mean over views, then over folds (`only` some).

    Raises `IchxError` when one of these folds has not predicted it.
    """
    stored = store.predictions(experiment.number, role="test", version_id=test.id)
    folds = list(range(experiment.folds)) if only is None else sorted(only)
    missing = sorted(set(folds) - {p.fold for p in stored})
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


def _named(store: "Store", numbers: Sequence[int], dataset: str | None) -> _Chosen:
    """Return the experiments with these `numbers`, and the folds that all of them have finished."""
    twice = sorted({n for n in numbers if numbers.count(n) > 1})
    if twice:
        raise IchxError(f"named more than once: {', '.join(map(str, twice))}", "name each experiment once")
    experiments = [store.experiment(number) for number in numbers]
    first = experiments[0]
    problems = [
        f"{e.number} is on {e.dataset}, not on {dataset}" for e in experiments if dataset not in (None, e.dataset)
    ]
    problems += [
        f"{e.number} has other data or folds ({e.dataset} v{e.dataset_version}, {e.fold_set}) than {first.number} "
        f"({first.dataset} v{first.dataset_version}, {first.fold_set})"
        for e in experiments
        if (e.version_id, e.fold_digest) != (first.version_id, first.fold_digest)
    ]
    raise_problems(problems, "members of an ensemble share the dataset version and the folds")
    finished = [{p.fold for p in store.predictions(e.number, role="oof")} for e in experiments]
    unfinished = [
        f"experiment {e.number} has no finished fold" for e, f in zip(experiments, finished, strict=True) if not f
    ]
    raise_problems(unfinished, "run it first: `ichx run NUMBER`")
    common = sorted(set.intersection(*finished))
    if not common:
        raise IchxError("no fold is finished by every member", "run one fold for all: `ichx run NUMBER --fold 0`")
    chosen = _Chosen(
        version=store.version_by_id(first.version_id),
        fold_digest=first.fold_digest,
        experiments=tuple(experiments),
        folds=tuple(common),
        k=first.folds,
        notes=(f"the folds {first.fold_set} split patients: every score here flatters",) if first.leaked else (),
    )
    if chosen.partial is None:
        return chosen
    return replace(chosen, notes=(*chosen.notes, f"blended on the folds that every member has: {chosen.partial}"))


def _candidates(store: "Store", dataset: str | None) -> _Chosen:
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
        leaked = any(e.leaked and e.state == "done" for e in summaries)
        raise IchxError(
            "\n".join(
                [f"no experiment{where} is complete" + " and fit to be ranked" * leaked, *_incomplete(summaries)]
            ),
            "run one with `ichx run NUMBER`" + ", or blend leaky ones, marked, with `--members`" * leaked,
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
    return _Chosen(
        version=version,
        fold_digest=newest.fold_digest,
        experiments=tuple(same),
        folds=tuple(range(newest.folds)),
        k=newest.folds,
        notes=(*notes, *_incomplete(summaries)),
    )


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
    folds: Sequence[int],
    weights: FloatArray,
    tta: str,
    prevalence: FloatArray,
    test: "DatasetVersion",
    path: Path,
) -> Submission:
    assert test.sample is not None
    sample = read_sample(workspace.root / test.sample)
    used = [(m, float(w)) for m, w in zip(members, weights, strict=True) if w > 0]
    tables = [predict_test(workspace, store, m.experiment, test, tta, folds) for m, _ in used]
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
