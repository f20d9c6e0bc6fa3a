"""Thresholds, recalibrations and evaluations of an experiment or ensemble, as a part of its page."""

from typing import TYPE_CHECKING, Any

from ichx.formatting import format_interval, format_value
from ichx.project import Project

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.responses import Response

    from ichx.evaluation.bootstrap import Interval
    from ichx.evaluation.subject import Subject
    from ichx.evaluation.threshold_file import ChosenThreshold

    Report = Callable[[str, int, int], None]

HEADS = ("sensitivity", "specificity", "PPV", "NPV", "alarms per 100")


def describe_operating(project: Project, report: "Report", number: int, ensemble: bool) -> dict[str, Any]:
    """Return the stored thresholds with warnings, and the recalibrations, as JSON values."""
    from ichx.evaluation.recalibration_file import stored_recalibrations
    from ichx.evaluation.subject import Subject
    from ichx.evaluation.threshold_file import stale_warnings, stored_thresholds

    subject = Subject(number, ensemble)
    thresholds = stored_thresholds(project, subject)
    return {
        "thresholds": [_threshold(one) for one in thresholds],
        "warnings": stale_warnings(project, subject, thresholds),
        "recalibrations": [
            {
                "name": one.name,
                "dataset": one.dataset,
                "version": one.dataset_version,
                "unit": one.fitted.unit,
                "patients": one.fitted.patients,
                "labels": [
                    {
                        "label": judged.label,
                        "before": format_value(judged.before),
                        "after": format_value(judged.after),
                        "difference": _cell(judged.difference),
                    }
                    for judged in one.fitted.judged
                ],
                "created": one.created[:10],
            }
            for one in stored_recalibrations(project, subject)
        ],
    }


def operating_part(request: "Request", subject: "Subject") -> "Response":
    """Return the part of the page of `subject`."""
    from ichx.experiment_files import RECALIBRATIONS_FILE, THRESHOLDS_FILE
    from ichx.web.computed import COMPUTE_SECONDS, Computed
    from ichx.web.site import site_of
    from ichx.web.sources import sources_of

    site = site_of(request)
    folder = subject.folder(site.project)
    state = [
        path.stat().st_mtime_ns if path.is_file() else 0
        for path in (folder / THRESHOLDS_FILE, folder / RECALIBRATIONS_FILE)
    ]
    arguments = {"number": subject.number, "ensemble": subject.ensemble}
    found = sources_of(request).part(Computed).get("describe_operating", arguments, state, COMPUTE_SECONDS)
    own = "ensemble" if subject.ensemble else "experiment"
    evaluations = [one for one in site.project.store.evaluations() if getattr(one, own) == subject.number]
    return site.render(
        request,
        "operating.html.j2",
        heads=HEADS,
        argument=subject.argument,
        evaluations=evaluations[::-1],
        known={dataset.name for dataset in site.project.store.datasets()},
        **found,
    )


def _threshold(chosen: "ChosenThreshold") -> dict[str, Any]:
    request = chosen.request
    rule = f"cost {request.value:g}" if request.rule == "cost" else f"{request.rule} >= {request.value:g}"
    return {
        "label": request.label,
        "unit": request.unit,
        "rule": rule + ("" if request.tta == "none" else f", tta {request.tta}"),
        "threshold": f"{chosen.threshold:.4f}",
        "bounds": format_interval(chosen.low, chosen.high),
        "cells": [_cell(one) for one in chosen.calls.rates],
    }


def _cell(found: "Interval") -> dict[str, Any]:
    value = "-" if found.value is None else format_value(found.value)
    return {"value": value, "bounds": format_interval(found.low, found.high), "why": found.undefined}
