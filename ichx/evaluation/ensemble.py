"""Ensembles: blends of experiments' OOF predictions, with their scores and submissions.

`ichx.evaluation.members` selects the experiments, `ichx.evaluation.nested_score` blends them.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import pandas as pd

from ichx.datasets.dataset import load_version
from ichx.errors import ChangedDataError, InvalidInputError, UnsupportedError
from ichx.evaluation import blend
from ichx.evaluation.blend_methods import LinearPool, LogitPool
from ichx.evaluation.blend_record import BlendChoice, BlendRecord, LabelLoss
from ichx.evaluation.bootstrap import loss_interval
from ichx.evaluation.choices import Average, Method, Tta, check_average, check_method, check_tta
from ichx.evaluation.ensemble_file import EnsembleModel, write_model
from ichx.evaluation.ensemble_submissions import BlendedMembers, submitted_test_sets, write_predicted
from ichx.evaluation.logistic import logits
from ichx.evaluation.members import complete_members, requested_members
from ichx.evaluation.metric import FloatArray, label_losses, prevalences_of, score
from ichx.evaluation.nested_score import BlendData, BlendOptions, BlendPipeline, FittedBlend, Progress
from ichx.evaluation.oof import OofTable, read_oof
from ichx.evaluation.predictions import OOF_FILE, Predictions, write_predictions
from ichx.evaluation.selecting_folds import selected_member
from ichx.evaluation.series_neighbours import SeriesNeighbours
from ichx.evaluation.stored_members import describe_member
from ichx.files import write_text
from ichx.labels import LABELS
from ichx.store import EnsembleDraft, EnsembleMember
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import DatasetVersion, Ensemble, Experiment
    from ichx.workspace import Workspace

BLEND_FILE: Final = "blend.json"
"""In an ensemble's folder: a `BlendRecord`."""

_RERUN_MEMBERS = "Rerun `ichx run` for each member."


@dataclass(frozen=True)
class EnsembleRequest:
    """What to blend, and how."""

    top: int = 4
    """How many of the best complete experiments to blend."""
    members: tuple[int, ...] = ()
    """Experiments to blend instead, on the folds that all of them have finished."""
    dataset: str | None = None
    """The training dataset; None: the only one."""
    tta: Tta = "hflip"
    """Test-time augmentation, whose views are averaged."""
    method: Method = "auto"
    smooth: bool = True
    """Whether to use smoothing along the head, if it gains on held-out patients."""
    calibrate: bool = True
    """Whether to use calibration, consistency and clipping, each if it gains on held-out patients."""
    average: Average = "logit"
    """What is averaged over views and folds."""
    out: Path | None = None
    """The submission file; None: one per test set in the ensemble's folder."""

    def __post_init__(self) -> None:
        """Raise `InvalidInputError` for an invalid value."""
        if self.top < 1:
            raise InvalidInputError(f"Invalid value for `top`: {self.top}.", "Use a positive integer.")
        check_tta(self.tta)
        check_method(self.method)
        check_average(self.average)


@dataclass(frozen=True, kw_only=True)
class EnsembleReport(BlendRecord):
    """The report of `ichx ensemble`."""

    ensemble: "Ensemble"


def make_ensemble(project: "Project", request: EnsembleRequest, progress: Progress | None = None) -> EnsembleReport:
    """Blend experiments, store the ensemble and write a submission for each test set.

    Args:
        project: The open project.
        request: What to blend, and how.
        progress: Called while the nested score is computed.

    Raises:
        IchxError: The request is invalid, there is too little to blend, or the members have different slices.
    """
    if request.members:
        selected = requested_members(project, request.members, request.dataset)
    else:
        selected = complete_members(project.store, request.dataset)
    version, notes = selected.version, list(selected.notes)
    experiments = sorted(selected.experiments, key=lambda e: e.number)
    if not request.members and len(experiments) < request.top:
        notes.insert(0, f"Blended {format_count(len(experiments), 'complete experiment')} instead of {request.top}.")
    tests = submitted_test_sets(project.store, version, request.out)
    if not tests:
        notes.append(f"No submission was written: no test set with a sample belongs to {version.dataset}.")
    tables = [read_oof(project, e, request.tta, selected.folds, average=request.average) for e in experiments]
    if tables[0].left_out:
        notes.append(f"Without {format_count(tables[0].left_out, 'slice')} that could not be decoded.")

    if np.isnan(tables[0].labels).all():
        raise UnsupportedError(
            f"No slice of {version.dataset} has a label of its own, only studies have: blends are fitted to slices.",
            "Blend experiments on a dataset with labels of slices. `ichx scores NUMBER` has the scores of studies.",
        )
    data = blend_data(project.workspace, version, experiments, tables)
    top = None if request.members else request.top
    pipeline = BlendPipeline(data, BlendOptions(request.method, top, request.smooth, request.calibrate))
    nested = pipeline.nested(progress)
    fitted = pipeline.fit()
    blended = pipeline.apply(fitted)

    number = project.store.reserve_ensemble()
    folder = project.workspace.ensemble_dir(number)
    members = BlendedMembers(
        fitted, dict(enumerate(experiments)), selected.folds, request.tta, request.average, prevalences_of(data.labels)
    )
    submissions = []
    for test in tests:
        path = request.out or folder / f"{test.dataset}.csv"
        submissions.append(write_predicted(project, members, test, path, folder))
    scores = [score(data.labels, p) for p in data.members]
    ranked = sorted(fitted.candidates, key=lambda k: (scores[k], k))
    choice = _choice(fitted, experiments, request.method)
    in_sample, fits = score(data.labels, blended), {} if nested is None else nested.fits
    even = blend.mix([data.members[k] for k in ranked], [1 / len(ranked)] * len(ranked))
    weighted = set(fitted.pool.members).union(*(fit.pool.members for fit in fits.values()))
    used = [experiments[k] for k in sorted(weighted)]  # the nested score is that of all fits
    chosen = tuple(found for e in used if (found := selected_member(project.store, e, selected.folds)))
    clean = sorted(set(selected.folds).difference(*(member.folds for member in chosen))) if chosen else []
    rows = np.isin(data.folds, clean)
    gains = [s.averaging_gain for s in submissions if s.averaging_gain is not None]
    record = BlendRecord(
        names={experiments[k].number: experiments[k].name for k in ranked},
        best_single=min(scores[k] for k in ranked),
        mean_score=score(data.labels, even),
        gap=None if nested is None else nested.score - in_sample,
        interval=None if nested is None else loss_interval(data.labels, nested.predicted, data.patients),
        choice=choice,
        fold_choices=tuple(_choice(fits[fold], experiments, request.method, fold) for fold in fits),
        submissions=tuple(submissions),
        notes=tuple(notes),
        nested_mean=None if nested is None or not gains else nested.score - gains[0],
        labels=_label_losses(
            fitted,
            experiments,
            data.labels,
            data.members[ranked[0]],
            even,
            blended if nested is None else nested.predicted,
        ),
        selected=chosen,
        clean_folds=tuple(clean),
        clean_score=score(data.labels[rows], nested.predicted[rows]) if nested is not None and rows.any() else None,
    )
    oof = logits(blended if nested is None else nested.predicted).astype(np.float32)
    model = EnsembleModel(
        dataset=version.dataset,
        dataset_version=version.number,
        dataset_digest=version.digest,
        label_digest=experiments[0].label_digest,
        fold_digest=selected.fold_digest,
        folds=selected.folds,
        k=selected.k,
        tta=request.tta,
        options=pipeline.options,
        members=tuple(
            describe_member(project, e, selected.folds, request.tta, weights=k in fitted.pool.members)
            for k, e in enumerate(experiments)
        ),
        fitted=fitted,
        prevalence=prevalences_of(data.labels),
        oof_digest=write_predictions(folder / OOF_FILE, Predictions(tables[0].slice_ids, oof)),
        record=record,
        average=request.average,
    )
    write_text(folder / BLEND_FILE, json.dumps(dataclasses.asdict(record), indent=2) + "\n", "the ensemble")
    draft = EnsembleDraft(
        dataset=version.dataset,
        version_id=version.id,
        fold_digest=selected.fold_digest,
        tta=request.tta,
        method=fitted.method,
        score=in_sample,
        nested_score=None if nested is None else nested.score,
        partial=selected.partial,
        submissions=tuple(s.path for s in submissions),
        members=tuple(
            EnsembleMember(experiments[k].number, choice.weights[experiments[k].number], scores[k])
            for k in ranked
            if k in fitted.pool.members
        ),
        average=model.average,
        digest=write_model(folder, model),
    )
    return EnsembleReport(ensemble=project.store.add_ensemble(draft, number), **vars(record))


def blend_data(
    workspace: "Workspace", version: "DatasetVersion", experiments: "Sequence[Experiment]", tables: Sequence[OofTable]
) -> BlendData:
    """Return the experiments' predictions in the rows of the first, joined by slice id."""
    first = tables[0]
    members = []
    for experiment, table in zip(experiments, tables, strict=True):
        different = len(set(table.slice_ids) ^ set(first.slice_ids))
        if different:
            raise ChangedDataError(
                f"Experiments {experiments[0].number} and {experiment.number} predict different slices: "
                f"{format_count(different, 'slice')} only in one of them.",
                "Rerun the experiment with fewer slices.",
            )
        members.append(table.probabilities[pd.Index(table.slice_ids).get_indexer(pd.Index(first.slice_ids))])
    catalog = load_version(workspace, version).slices.set_index("slice_id").loc[pd.Index(first.slice_ids)]
    return BlendData(
        members=tuple(members),
        labels=first.labels,
        neighbours=SeriesNeighbours.of(catalog),
        patients=pd.factorize(catalog["patient"])[0].astype(np.int64),
        folds=first.folds.astype(np.int64),
    )


def _choice(
    fitted: FittedBlend, experiments: "Sequence[Experiment]", method: Method, fold: int | None = None
) -> BlendChoice:
    return BlendChoice(
        fold=fold,
        method=fitted.method,
        why=_reason(fitted, method),
        members=tuple(experiments[k].number for k in fitted.candidates),
        dropped=tuple(experiments[k].number for k in fitted.candidates if k not in fitted.pool.members),
        weights={
            experiments[k].number: float(share)
            for k, share in zip(fitted.pool.members, fitted.pool.shares, strict=True)
        },
        certificate=fitted.pool.certificate,
        steps={part: str(step) for part, step in fitted.steps.items()},
        trials=fitted.alternatives,
    )


def _label_losses(
    fitted: FittedBlend,
    experiments: "Sequence[Experiment]",
    labels: FloatArray,
    best: FloatArray,
    even: FloatArray,
    blended: FloatArray,
) -> tuple[LabelLoss, ...]:
    """Return the log losses of each label by the best member, the members' mean and the blend."""
    pool = fitted.pool
    separate = fitted.method in ("per-label", "per-label-logit")
    by_label = pool.weights if separate and isinstance(pool, LinearPool | LogitPool) else None
    numbers = [experiments[k].number for k in pool.members]
    columns = zip(LABELS, *(label_losses(labels, p) for p in (best, even, blended)), strict=True)
    found = []
    for k, (label, *losses) in enumerate(columns):
        single, mean, blend_loss = (None if np.isnan(loss) else float(loss) for loss in losses)
        weights = None if by_label is None else dict(zip(numbers, by_label[:, k].tolist(), strict=True))
        found.append(LabelLoss(label, single, mean, blend_loss, weights))
    return tuple(found)


def _reason(fitted: FittedBlend, method: Method) -> str:
    """Return why the fit has its method, if `method` was requested."""
    if method != "auto":
        return "as requested"
    compared = [a for a in fitted.alternatives if a.part == "method"]
    if not compared and len(fitted.candidates) == 1:
        return "one member only"
    if all(a.error is None for a in compared):
        return "too few patients to compare methods"
    taken = [a for a in compared if a.taken]
    if taken:
        return f"gains more than a standard error over {taken[-1].against}"
    return "no other method gains more than a standard error"
