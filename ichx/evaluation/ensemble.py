"""The ensemble: the best experiments by OOF score, blended, with the score it may claim and its submission."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.dataset import load_version
from ichx.datasets.label_csv import read_sample
from ichx.errors import IchxError
from ichx.evaluation import blend
from ichx.evaluation.bootstrap import Interval, loss_interval
from ichx.evaluation.logistic import logits
from ichx.evaluation.members import candidates, named
from ichx.evaluation.metric import FloatArray, score
from ichx.evaluation.nested_score import METHODS, Fitted, Folded, Options, Slices, Trial
from ichx.evaluation.oof import TTA_VIEWS, OofTable, mean_over_views, read_oof, read_view
from ichx.evaluation.predictions import Predictions, write_predictions
from ichx.evaluation.series_neighbours import Heads
from ichx.evaluation.submission import write_submission
from ichx.store import EnsembleDraft, EnsembleMember
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import DatasetVersion, Ensemble, Experiment, Store
    from ichx.workspace import Workspace

OOF_FILE = "oof.parquet"
"""The nested predictions of an ensemble, in its folder, or where there is one fold the in-sample ones: what its score
is the score of."""
BLEND_FILE = "blend.json"
"""What an ensemble chose and why, in its folder: all of its report but what the store has."""


@dataclass(frozen=True)
class Submission:
    """One submission file; `filled` counts sample images without a slice, which got the training prevalences."""

    test_set: str
    path: str
    images: int
    filled: int


@dataclass(frozen=True)
class Choice:
    """What was chosen: the method with its reason, the experiments that went in, and what follows, by part.

    `dropped` are those of `members` without any weight. `fold` is the one that this was chosen without; None: all
    were used. `certificate` bounds the loss's distance to the optimum where the method finds one.
    """

    fold: int | None
    method: str
    why: str
    members: tuple[int, ...]
    dropped: tuple[int, ...]
    weights: dict[int, float]
    certificate: float | None
    steps: dict[str, str]
    trials: tuple[Trial, ...]


@dataclass(frozen=True)
class Findings:
    """What is told of an ensemble beside what the store keeps of it.

    `best_single` and `mean_score` are OOF scores, `gap` the nested score less the in-sample one, `interval` that of the
    nested score over patients. `choice` made the submissions, `fold_choices` the nested score.
    """

    names: dict[int, str]
    best_single: float
    mean_score: float
    gap: float | None
    interval: Interval | None
    choice: Choice
    fold_choices: tuple[Choice, ...]
    submissions: tuple[Submission, ...]
    notes: tuple[str, ...]

    @property
    def certificate(self) -> float | None:
        """By how much the loss of the weights may be above the optimum at most, where the method finds one."""
        return self.choice.certificate


@dataclass(frozen=True, kw_only=True)
class EnsembleReport(Findings):
    """What `ichx ensemble` tells."""

    ensemble: "Ensemble"


def make_ensemble(
    project: "Project",
    *,
    tta: str,
    top: int = 4,
    members: Sequence[int] = (),
    method: str = "auto",
    smooth: bool = False,
    calibrate: bool = True,
    dataset: str | None = None,
    out: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> EnsembleReport:
    """Blend the `top` complete experiments of `dataset` by OOF score under `tta`, and write a submission per test set.

    With `members`, blend these experiments instead, on the folds that all of them have finished. `method` is one of
    `METHODS`; `smooth` and `calibrate` offer smoothing along the head, and calibration, consistency and clipping, each
    taken where it gains on inner folds. `out` names the submission file where there is one test set. `progress` is told
    folds done of the nested score. Raises `IchxError` for too little to blend.
    """
    _check_request(top, tta, method)
    chosen = named(project, members, dataset) if members else candidates(project.store, dataset)
    version, notes = chosen.version, list(chosen.notes)
    if not members and len(chosen.experiments) < top:
        are = "is" if len(chosen.experiments) == 1 else "are"
        notes.insert(0, f"asked for {top} experiments, {len(chosen.experiments)} {are} complete; blending those")
    tests = _tests(project.store, version, out)
    if not tests:
        notes.append(f"no test set with a sample belongs to {version.dataset}: blended, no submission written")

    experiments = sorted(chosen.experiments, key=lambda e: e.number)
    tables = [read_oof(project, e, tta, chosen.folds) for e in experiments]
    if tables[0].left_out:
        notes.append(f"{tables[0].left_out} slices could not be decoded and are not in any score")
    slices = _slices(project.workspace, version, experiments, tables)
    options = Options(method, None if members else top, smooth, calibrate)
    folded = Folded(slices, options)
    nested = folded.nested(progress)
    fitted = folded.fit()
    scores = [score(slices.labels, p) for p in slices.members]
    ranked = sorted(fitted.candidates, key=lambda k: (scores[k], k))

    number = project.store.reserve_ensemble()
    folder = project.workspace.ensemble_dir(number)
    submissions = tuple(
        _submit(
            project,
            {k: experiments[k] for k in fitted.pool.members},
            chosen.folds,
            fitted,
            tta,
            slices.labels.mean(axis=0),
            test,
            out or folder / f"{test.dataset}.csv",
        )
        for test in tests
    )
    weights = _weights(fitted, experiments)
    blended = folded.apply(fitted)
    in_sample = score(slices.labels, blended)
    kept = [k for k in ranked if k in fitted.pool.members]
    mean = blend.mix([slices.members[k] for k in ranked], np.full(len(ranked), 1 / len(ranked)))
    draft = EnsembleDraft(
        dataset=version.dataset,
        version_id=version.id,
        fold_digest=chosen.fold_digest,
        tta=tta,
        method=fitted.method,
        score=in_sample,
        nested_score=None if nested is None else nested.score,
        partial=chosen.partial,
        submissions=tuple(s.path for s in submissions),
        members=tuple(EnsembleMember(experiments[k].number, weights[experiments[k].number], scores[k]) for k in kept),
    )
    told = Findings(
        names={experiments[k].number: experiments[k].name for k in ranked},
        best_single=min(scores[k] for k in ranked),
        mean_score=score(slices.labels, mean),
        gap=None if nested is None else nested.score - in_sample,
        interval=None if nested is None else loss_interval(slices.labels, nested.predicted, slices.patients),
        choice=_choice(fitted, experiments, options, None),
        fold_choices=tuple(
            _choice(f, experiments, options, fold) for fold, f in ({} if nested is None else nested.fits).items()
        ),
        submissions=submissions,
        notes=tuple(notes),
    )
    _keep(folder, told, tables[0].slice_ids, blended if nested is None else nested.predicted)
    return EnsembleReport(ensemble=project.store.add_ensemble(draft, number), **vars(told))


def predict_test(
    project: "Project",
    experiment: "Experiment",
    test: "DatasetVersion",
    tta: str,
    only: Sequence[int] | None = None,
) -> tuple[npt.NDArray[np.object_], FloatArray]:
    """Return `(slice_ids, probabilities (N, 6))` of a test set: the mean over views, then over folds (`only` some).

    Raises `IchxError` when one of these folds has not predicted it.
    """
    stored = project.store.predictions(experiment.number, role="test", version_id=test.id)
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
        views = [read_view(project.workspace, stored, fold, view, experiment.number) for view in TTA_VIEWS[tta]]
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


def _check_request(top: int, tta: str, method: str) -> None:
    if top < 1:
        raise IchxError(f"--top {top} blends nothing", "ask for at least 1")
    if tta not in TTA_VIEWS:
        raise IchxError(f"there is no test-time augmentation {tta!r}", f"choose one of {', '.join(TTA_VIEWS)}")
    if method not in METHODS:
        raise IchxError(f"there is no method {method!r}", f"choose one of {', '.join(METHODS)}")


def _tests(store: "Store", version: "DatasetVersion", out: Path | None) -> list["DatasetVersion"]:
    """Return the test sets that get a submission."""
    tests = [t for t in store.test_sets(version.dataset) if t.sample is not None]
    if out is not None and len(tests) != 1:
        names = ", ".join(t.dataset for t in tests) or "none"
        raise IchxError(
            f"--out needs exactly one test set with a sample; {version.dataset} has {names}", "leave out --out"
        )
    return tests


def _slices(
    workspace: "Workspace", version: "DatasetVersion", experiments: "Sequence[Experiment]", tables: Sequence[OofTable]
) -> Slices:
    """Return the experiments' predictions in the rows of the first, joined by slice id."""
    first = tables[0]
    members = []
    for experiment, table in zip(experiments, tables, strict=True):
        if np.array_equal(table.slice_ids, first.slice_ids):
            members.append(table.probabilities)
            continue
        differ = len(set(table.slice_ids) ^ set(first.slice_ids))
        if differ:
            raise IchxError(
                f"experiments {experiments[0].number} and {experiment.number} predict different slices: "
                f"{differ} are only in one of them",
                "run the one with fewer again",
            )
        row_of = {slice_id: row for row, slice_id in enumerate(table.slice_ids)}
        members.append(table.probabilities[[row_of[i] for i in first.slice_ids]])
    catalog = load_version(workspace, version).slices.set_index("slice_id").loc[pd.Index(first.slice_ids)]
    return Slices(
        members=tuple(members),
        labels=first.labels,
        heads=Heads.of(catalog),
        patients=pd.factorize(catalog["patient"])[0].astype(np.int64),
        folds=first.folds.astype(np.int64),
    )


def _weights(fitted: Fitted, experiments: "Sequence[Experiment]") -> dict[int, float]:
    pairs = zip(fitted.pool.members, fitted.pool.shares, strict=True)
    return {experiments[k].number: float(share) for k, share in pairs}


def _choice(fitted: Fitted, experiments: "Sequence[Experiment]", options: Options, fold: int | None) -> Choice:
    return Choice(
        fold=fold,
        method=fitted.method,
        why=_why(fitted, options),
        members=tuple(experiments[k].number for k in fitted.candidates),
        dropped=tuple(experiments[k].number for k in fitted.candidates if k not in fitted.pool.members),
        weights=_weights(fitted, experiments),
        certificate=fitted.pool.certificate,
        steps={part: str(step) for part, step in fitted.steps.items()},
        trials=fitted.trials,
    )


def _why(fitted: Fitted, options: Options) -> str:
    if options.method != "auto":
        return "as asked"
    if len(fitted.candidates) == 1:
        return "there is one member"
    trial = next((t for t in fitted.trials if t.part == "method"), None)
    if trial is None or trial.error is None:
        return "too few patients to tell convex from the mean"
    relation = "more" if trial.taken else "no more"
    return f"convex gains {relation} over the mean than a standard error"


def _keep(folder: Path, told: Findings, ids: npt.NDArray[np.object_], predicted: FloatArray) -> None:
    """Write what an ensemble chose, and the predictions that its score is of, into its folder."""
    write_predictions(folder / OOF_FILE, Predictions(ids, logits(predicted).astype(np.float32)))
    draft = folder / f".{BLEND_FILE}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(json.dumps(dataclasses.asdict(told), indent=2) + "\n", encoding="utf-8")
            draft.replace(folder / BLEND_FILE)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise IchxError(f"cannot write to {folder}: {error.strerror}", "free some space or make it writable") from error


def _submit(
    project: "Project",
    members: "Mapping[int, Experiment]",
    folds: Sequence[int],
    fitted: Fitted,
    tta: str,
    prevalence: FloatArray,
    test: "DatasetVersion",
    path: Path,
) -> Submission:
    assert test.sample is not None
    sample = read_sample(project.workspace.root / test.sample)
    tables = {k: predict_test(project, e, test, tta, folds) for k, e in members.items()}
    ids = next(iter(tables.values()))[0]
    for k, (other, _) in tables.items():
        if not np.array_equal(other, ids):
            differ = len(set(other) ^ set(ids))
            raise IchxError(
                f"members predict different slices of {test.dataset}: "
                f"{differ} are not predicted by all, as by experiment {members[k].number}",
                "run `ichx run` on each member again",
            )
    slices = load_version(project.workspace, test).slices
    unknown = len(set(ids) - set(slices["slice_id"]))
    if unknown:
        raise IchxError(
            f"the members predict {format_count(unknown, 'slice')} that {test.dataset} version {test.number} does not "
            "have",
            "run `ichx run` on each member again",
        )
    heads = Heads.of(slices.set_index("slice_id").loc[pd.Index(ids)])
    mixed = fitted.apply({k: predicted for k, (_, predicted) in tables.items()}, heads)

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
        shown = path.resolve().relative_to(project.workspace.root).as_posix()
    except ValueError:
        shown = str(path.resolve())
    return Submission(test.dataset, shown, len(sample.images), filled)
