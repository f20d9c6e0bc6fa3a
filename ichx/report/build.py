"""Renders and writes a report: one HTML page that needs no network and no other file.

`ichx.report.collect` computes its content. The same stored data gives the same bytes. The page contains no path and no
id of a patient, study or series.
"""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from ichx.evaluation.ranking import SENSITIVITIES, SPECIFICITIES
from ichx.evaluation.scores import SENSITIVITY_METRICS, SPECIFICITY_METRICS
from ichx.evaluation.subgroup_scores import worst_of
from ichx.experiment_files import REPORT_FILE
from ichx.files import absolute_path, check_suffix, check_writable, write_text
from ichx.labels import LABELS
from ichx.report import plots
from ichx.report.chart import RIGHT
from ichx.report.collect import STEPS, ProgressCallback, ReportData, collect_ensemble, collect_experiment
from ichx.report.decision_plot import decision_chart
from ichx.report.gallery import SeriesStrip
from ichx.report.slice_images import heat_scale
from ichx.report.tuning_section import study_figures
from ichx.store import marks
from ichx.text import format_count
from ichx.tuning.describe import format_good, format_range, format_searched
from ichx.views import with_views

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Run

WRITE_REMEDY = "Free some space or choose another path with `--out`."


@dataclass(frozen=True)
class WrittenReport:
    """A written page."""

    experiment: int | None
    """None for the report of an ensemble."""
    ensemble: int | None
    """None for the report of an experiment."""
    path: Path
    score: float | None
    """None before a fold is finished."""
    marks: tuple[str, ...]
    notes: tuple[str, ...]
    """What the page does not show, and why."""


def write_report(
    project: "Project",
    number: int,
    out: Path | None = None,
    *,
    ensemble: bool = False,
    anonymous: bool = False,
    progress: ProgressCallback | None = None,
) -> WrittenReport:
    """Write the report of an experiment or ensemble.

    Args:
        project: The open project.
        number: Number of the experiment or ensemble.
        out: The file to write; `report.html` in the folder of the experiment or ensemble if None.
        ensemble: Whether `number` is an ensemble's.
        anonymous: Replace slice ids by numbers and omit host names.
        progress: Receives the number of finished steps and of all steps.

    Raises:
        InvalidInputError: `out` has the suffix of another format, or is a folder.
        NotFoundError: The experiment or ensemble does not exist.
        NotReadyError: The experiment has no finished epoch, or predictions are missing.
        ChangedDataError: Predictions have changed since they were recorded.
        CorruptFileError: A prediction file is damaged.
        StorageError: The page cannot be written.
    """
    if out is not None:
        remedy = "The figures of the page are SVG elements; a browser prints it as PDF."
        check_suffix(out, "a report", (".html", ".htm"), remedy)
    collect = collect_ensemble if ensemble else collect_experiment
    workspace = project.workspace
    default = workspace.ensemble_dir(number) / REPORT_FILE if ensemble else workspace.experiment_files(number).report
    path = absolute_path(out or default)
    check_writable(path, "the report", remedy=WRITE_REMEDY)
    data = collect(project, number, anonymous=anonymous, progress=progress)
    write_text(path, render(data), "the report", remedy=WRITE_REMEDY)
    if progress:
        progress(STEPS, STEPS)
    return WrittenReport(
        experiment=data.experiment.number if data.experiment else None,
        ensemble=data.ensemble.number if data.ensemble else None,
        path=path,
        score=data.results.headline.scores.log_loss if data.results else None,
        marks=_marks(data) if data.results else (),
        notes=(*(data.gallery.notes if data.gallery else ()), *(data.tuning.notes if data.tuning is not None else ())),
    )


def render(data: ReportData) -> str:
    """Return the HTML of a report."""
    environment = page_environment()
    results, gallery = data.results, data.gallery
    strip = gallery.strip if gallery else None
    return environment.get_template("page.html.j2").render(
        data=data,
        experiment=data.experiment,
        ensemble=data.ensemble,
        with_views=with_views(data.experiment.views) if data.experiment else "",
        results=results,
        scores=results.headline.scores if results else None,
        gallery=gallery,
        largest_weight=max((1.0, *(member.weight for member in data.members))),
        marks=_marks(data),
        marks_of=marks,
        environments=_environments(data.runs),
        curves=plots.learning_curves(data.recipe, data.history) if data.history else (),
        tuning=_render_tuning(environment, data),
        roc=plots.roc_curves(results.curves) if results else None,
        study_roc=plots.roc_curves(results.study_curves, "study-roc", "study") if results else None,
        precision_recall=plots.precision_recall_curves(results.curves) if results else None,
        reliability=plots.reliability_diagram(results.calibration, results.reliability) if results else None,
        decision=decision_chart(results.decision) if results else None,
        **strip_values(strip),
    )


def page_environment() -> Environment:
    """Return the templates of pages with their filters, style and script."""
    environment = Environment(
        loader=FunctionLoader(_read_resource),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "score": _format_score,
        "utc": _format_utc,
        "count": "{:,}".format,
        "quantity": format_count,
        "share": _format_share,
        "worst": worst_of,
    }
    script, style = _read_resource("page.js"), _read_resource("page.css")
    environment.globals |= {
        "label_names": LABELS,
        "heat_scale": heat_scale(),
        "rate_metrics": {
            "sensitivity": dict(zip(SENSITIVITY_METRICS, SPECIFICITIES, strict=True)),
            "specificity": dict(zip(SPECIFICITY_METRICS, SENSITIVITIES, strict=True)),
        },
        "style": Markup(style),
        "script": Markup(script),
        "script_digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    }
    return environment


def strip_values(strip: SeriesStrip | None) -> dict[str, object]:
    """Return the variables of a page that its example series needs."""
    return {
        "strip": plots.series_strip(strip) if strip else None,
        "strip_width": plots.strip_width(strip) if strip else 0,
        "strip_left": plots.STRIP_LEFT,
        "strip_right": RIGHT,
    }


def _render_tuning(environment: Environment, data: ReportData) -> Markup | None:
    """Return the tuning section, or None without any tuning."""
    if not data.tuning:
        return None
    formats = {"format_range": format_range, "format_searched": format_searched, "format_good": format_good}
    template = environment.get_template("tuning.html.j2")
    return Markup(template.render(tuning=data.tuning, figures=study_figures(data.tuning), **formats))


def _marks(data: ReportData) -> tuple[str, ...]:
    scored = data.experiment or data.ensemble
    assert scored is not None
    found = marks(scored)
    return (*found, "in-sample") if data.ensemble and not data.nested else found


def _read_resource(name: str) -> str:
    return files("ichx.report").joinpath(name).read_text(encoding="utf-8")


def _environments(runs: "Sequence[Run]") -> list[tuple[str, str]]:
    """Return each distinct set of library versions with the runs that used it."""
    found: dict[str, list[str]] = {}
    several = len({run.experiment for run in runs}) > 1
    for run in runs:
        libraries = ", ".join(f"{name} {version}" for name, version in run.libraries.items())
        experiment = f"experiment {run.experiment} " if several else ""
        found.setdefault(libraries, []).append(f"{experiment}fold {run.fold} run {run.attempt}")
    return [(libraries, ", ".join(runs_of_set)) for libraries, runs_of_set in found.items()]


def _format_score(value: float | None) -> str:
    """Return a score with five decimals, as on the challenge's leaderboard."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.5f}"


def _format_share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _format_utc(moment: datetime | None) -> str:
    return "–" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d %H:%M}"
