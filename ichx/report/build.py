"""Collects what is known of an experiment from the store and its OOF tables, and writes it as one HTML page.

The page needs no network, no script and no other file. It is a function of what is stored: the same again gives the
same bytes. No path and no slice, patient or study id stands in it.
"""

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment, StrictUndefined

from ichx.errors import IchxError
from ichx.evaluation.metric import constant_score, label_losses
from ichx.evaluation.oof import OofTable, read_oof
from ichx.labels import ANY, LABELS
from ichx.recipe import Recipe, from_toml
from ichx.report import plots
from ichx.report.diagnostics import Reliability, Roc, positive, reliability, roc
from ichx.store import marks

if TYPE_CHECKING:
    from ichx.store import DatasetVersion, EpochRecord, Experiment, FoldSet, Run, Store
    from ichx.workspace import Workspace


@dataclass(frozen=True)
class FoldScore:
    """A row of the score table: weighted log loss, plain and with hflip, and the log loss of each label `(6,)`."""

    name: str
    slices: int
    score: float
    score_tta: float
    losses: tuple[float, ...]


@dataclass(frozen=True)
class LabelScore:
    """A row of the label table; `roc` is None for a label without both classes."""

    name: str
    positives: int
    share: float
    loss: float
    roc: Roc | None


@dataclass(frozen=True)
class Scores:
    """What the OOF tables of the finished folds say, with one view and with the mean of both (`_tta`).

    `prevalence_score` is that of predicting the same slices' prevalences; `left_out` counts undecodable slices.
    """

    slices: int
    left_out: int
    score: float
    spread: float | None
    score_tta: float
    spread_tta: float | None
    prevalence_score: float
    folds: tuple[FoldScore, ...]
    labels: tuple[LabelScore, ...]
    reliability: Reliability | None


@dataclass(frozen=True)
class ReportData:
    """Everything that a report shows. `scores` is None while no fold is finished; `history` has folds with epochs."""

    experiment: "Experiment"
    version: "DatasetVersion"
    fold_set: "FoldSet"
    recipe: Recipe
    runs: "tuple[Run, ...]"
    history: "Mapping[int, Sequence[EpochRecord]]"
    scores: Scores | None


@dataclass(frozen=True)
class WrittenReport:
    """A written page, and what stands at its head."""

    experiment: int
    path: Path
    score: float | None
    marks: tuple[str, ...]


def write_report(workspace: "Workspace", store: "Store", number: int, out: Path | None = None) -> WrittenReport:
    """Write the page of experiment `number` to `out`, or to `report.html` in its folder, atomically.

    Raises `IchxError` for an unknown experiment, predictions that cannot be trusted and a file that cannot be written.
    """
    data = collect(workspace, store, number)
    path = (out.expanduser() if out else workspace.experiment_dir(number) / "report.html").resolve()
    _write(path, render(data))
    score = data.scores.score if data.scores else None
    return WrittenReport(number, path, score, marks(data.experiment) if data.scores else ())


def collect(workspace: "Workspace", store: "Store", number: int) -> ReportData:
    """Return what is known of experiment `number`; raises `IchxError` as `write_report` does."""
    experiment = store.experiment(number)
    version = store.version_by_id(experiment.version_id)
    runs = tuple(store.runs(number))
    history = {fold: store.history(number, fold) for fold in sorted({run.fold for run in runs})}
    scores = None
    if store.predictions(number, role="oof"):
        plain, flipped = (read_oof(workspace, store, experiment, tta) for tta in ("none", "hflip"))
        scores = _scores(plain, flipped)
        # A fold may end while its experiment is read: the marks tell of the folds that the scores hold.
        experiment = replace(experiment, folds_done=len(scores.folds))
    return ReportData(
        experiment=experiment,
        version=version,
        fold_set=next(f for f in version.folds if f.id == experiment.fold_set_id),
        recipe=from_toml(experiment.recipe, source=f"the recipe of experiment {number}"),
        runs=runs,
        history={fold: records for fold, records in history.items() if records},
        scores=scores,
    )


def render(data: ReportData) -> str:
    """Return the page of `data` as HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"score": _five, "utc": _utc}
    template = environment.from_string(files("ichx.report").joinpath("page.html.j2").read_text(encoding="utf-8"))
    found = data.scores
    return template.render(
        data=data,
        experiment=data.experiment,
        scores=found,
        marks=marks(data.experiment),
        label_names=LABELS,
        environments=_environments(data.runs),
        curves=plots.learning_curves(data.recipe, data.history) if data.history else None,
        roc=plots.roc_curves({label.name: label.roc for label in found.labels}) if found else None,
        reliability=plots.reliability_diagram(found.reliability) if found and found.reliability else None,
    )


def _scores(plain: OofTable, flipped: OofTable) -> Scores:
    losses = label_losses(plain.labels, plain.probabilities)
    by_fold = flipped.fold_scores
    folds = []
    for fold, score in plain.fold_scores.items():
        rows = plain.folds == fold
        of_labels = label_losses(plain.labels[rows], plain.probabilities[rows])
        folds.append(FoldScore(str(fold), int(rows.sum()), score, by_fold[fold], tuple(map(float, of_labels))))
    labels = []
    for column, name in enumerate(LABELS):
        truth, predicted = plain.labels[:, column], plain.probabilities[:, column]
        positives = int(positive(truth).sum())
        share = positives / len(truth)
        labels.append(LabelScore(name, positives, share, float(losses[column]), roc(truth, predicted)))
    any_column = LABELS.index(ANY)
    return Scores(
        slices=len(plain.slice_ids),
        left_out=plain.left_out,
        score=plain.score,
        spread=plain.spread,
        score_tta=flipped.score,
        spread_tta=flipped.spread,
        prevalence_score=constant_score(plain.labels, plain.labels),
        folds=tuple(folds),
        labels=tuple(labels),
        reliability=reliability(plain.labels[:, any_column], plain.probabilities[:, any_column]),
    )


def _environments(runs: "Sequence[Run]") -> list[tuple[str, str]]:
    """Return each set of library versions once, with the runs that had it."""
    found: dict[str, list[str]] = {}
    for run in runs:
        libraries = ", ".join(f"{name} {version}" for name, version in run.libraries.items())
        found.setdefault(libraries, []).append(f"fold {run.fold} attempt {run.attempt}")
    return [(libraries, ", ".join(used)) for libraries, used in found.items()]


def _five(value: float | None) -> str:
    """Return a score with five decimals, as the challenge counts them."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.5f}"


def _utc(moment: datetime | None) -> str:
    return "–" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with draft.open("w", encoding="utf-8") as handle:
                handle.write(text)
                handle.flush()
                os.fsync(handle.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise IchxError(f"cannot write {path}: {error.strerror}", "free some space or choose another --out") from error
