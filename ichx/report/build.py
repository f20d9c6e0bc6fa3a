"""Writes a report: one HTML page that needs no network and no other file. What it shows is in `ichx.report.collect`.

The page is a function of what is stored: the same again gives the same bytes. No path and no id of a patient, study
or series stands in it.
"""

import base64
import hashlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ichx.errors import IchxError
from ichx.experiment_files import REPORT_FILE
from ichx.labels import LABELS
from ichx.report import plots
from ichx.report.chart import RIGHT
from ichx.report.collect import STEPS, Progress, ReportData, collect_ensemble, collect_experiment
from ichx.report.tuned import pictures
from ichx.store import marks
from ichx.tuning.describe import format_good, format_range, format_searched

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Run


@dataclass(frozen=True)
class WrittenReport:
    """A written page, and what stands at its head; `notes` say what it could not show. One of two numbers is None."""

    experiment: int | None
    ensemble: int | None
    path: Path
    score: float | None
    marks: tuple[str, ...]
    notes: tuple[str, ...]


def write_report(
    project: "Project",
    number: int,
    out: Path | None = None,
    *,
    ensemble: bool = False,
    anonymous: bool = False,
    progress: Progress | None = None,
) -> WrittenReport:
    """Write the page of experiment (or `ensemble`) `number` to `out`, or to `report.html` in its folder, atomically.

    An `anonymous` page has numbers for slice ids, and no host. Raises `IchxError` for one that is unknown, for an
    experiment that has trained nothing, for predictions that cannot be trusted, and for a file that cannot be written.
    """
    collect = collect_ensemble if ensemble else collect_experiment
    workspace = project.workspace
    folder = workspace.ensemble_dir(number) if ensemble else workspace.experiment_dir(number)
    data = collect(project, number, anonymous=anonymous, progress=progress)
    path = (out or folder / REPORT_FILE).expanduser().resolve()
    _write(path, render(data))
    if progress:
        progress(STEPS, STEPS)
    return WrittenReport(
        experiment=data.experiment.number if data.experiment else None,
        ensemble=data.ensemble.number if data.ensemble else None,
        path=path,
        score=data.diagnosis.bootstrap.scores.log_loss if data.diagnosis else None,
        marks=_marks(data) if data.diagnosis else (),
        notes=(*(data.gallery.notes if data.gallery else ()), *(data.tuning.notes if data.tuning is not None else ())),
    )


def render(data: ReportData) -> str:
    """Return the page of `data` as HTML."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"score": _five, "utc": _utc, "count": "{:,}".format}
    script, style = _part("page.js"), _part("page.css")
    found, gallery = data.diagnosis, data.gallery
    strip = gallery.strip if gallery else None
    return environment.from_string(_part("page.html.j2")).render(
        data=data,
        experiment=data.experiment,
        ensemble=data.ensemble,
        found=found,
        scores=found.bootstrap.scores if found else None,
        gallery=gallery,
        widest=max((1.0, *(member.weight for member in data.members))),
        marks=_marks(data),
        marks_of=marks,
        label_names=LABELS,
        style=Markup(style),
        script=Markup(script),
        script_digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        environments=_environments(data.runs),
        curves=plots.learning_curves(data.recipe, data.history) if data.history else (),
        tuning=_tuning(environment, data),
        roc=plots.roc_curves(found.curves) if found else None,
        precision_recall=plots.precision_recall_curves(found.curves) if found else None,
        reliability=plots.reliability_diagram(found.calibration) if found else None,
        strip=plots.head_strip(strip) if strip else None,
        strip_width=plots.strip_width(strip) if strip else 0,
        strip_left=plots.STRIP_LEFT,
        strip_right=RIGHT,
    )


def _tuning(environment: Environment, data: ReportData) -> Markup | None:
    """Return the section on tuning, where there is something to tell."""
    if not data.tuning:
        return None
    formats = {"format_range": format_range, "format_searched": format_searched, "format_good": format_good}
    template = environment.from_string(_part("tuning.html.j2"))
    return Markup(template.render(tuning=data.tuning, pictures=pictures(data.tuning), **formats))


def _marks(data: ReportData) -> tuple[str, ...]:
    scored = data.experiment or data.ensemble
    assert scored is not None
    found = marks(scored)
    return (*found, "in-sample") if data.ensemble and not data.nested else found


def _part(name: str) -> str:
    return files("ichx.report").joinpath(name).read_text(encoding="utf-8")


def _environments(runs: "Sequence[Run]") -> list[tuple[str, str]]:
    """Return each set of library versions once, with the runs that had it."""
    found: dict[str, list[str]] = {}
    several = len({run.experiment for run in runs}) > 1
    for run in runs:
        libraries = ", ".join(f"{name} {version}" for name, version in run.libraries.items())
        whose = f"experiment {run.experiment} " if several else ""
        found.setdefault(libraries, []).append(f"{whose}fold {run.fold} attempt {run.attempt}")
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
