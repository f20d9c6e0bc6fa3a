"""Predictions on request, of a study that is in no dataset: computed by another process, shown by the viewer."""

from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ichx.errors import ConflictError, InvalidInputError
from ichx.web.changes import change
from ichx.web.prediction_jobs import PredictionJob, PredictionJobs
from ichx.web.shown_errors import without_paths
from ichx.web.sources import Source, sources_of
from ichx.web.studies_api import FILE_PREDICTIONS, check_predictor


@without_paths
def start(request: Request, body: Mapping[str, Any]) -> Response:
    """Start the prediction `of` a predictor, of one `study` or of all; answer with its state."""
    source, study, of = _request(request, body)
    if source.version is not None:
        raise ConflictError(
            f"{source.name} is a dataset, whose predictions are stored.", "Run or evaluate an experiment instead."
        )
    job = sources_of(request).part(PredictionJobs).start(source, study, of)
    return JSONResponse(_state(of, job))


@without_paths
def show(request: Request) -> Response:
    """Return the state of a prediction."""
    source, study, of = _request(request, dict(request.query_params))
    if source.version is not None or of == FILE_PREDICTIONS:
        return JSONResponse(_state(of, None) | {"state": "done"})  # it is stored
    return JSONResponse(_state(of, sources_of(request).part(PredictionJobs).find(source.name, study, of)))


@without_paths
def cancel(request: Request, body: Mapping[str, Any]) -> Response:
    """Cancel a prediction; one that is done stays so."""
    source, study, of = _request(request, body)
    job = sources_of(request).part(PredictionJobs).find(source.name, study, of)
    if job is not None:
        job.stop.set()
    return JSONResponse(_state(of, job))


def _request(request: Request, body: Mapping[str, Any]) -> tuple[Source, str | None, str]:
    """Return the source, the study if one is named, and the predictor. Raises `IchxError` unless they exist."""
    from ichx.evaluation.study_curves import parse_predictor

    of, study = body.get("of"), body.get("study")
    for name, value in (("of", of), ("study", study or "")):
        if not isinstance(value, str):
            raise InvalidInputError(f"Invalid value for `{name}`: {str(value)[:40]!r}.", "Use text.")
    source = sources_of(request).get(request.path_params["source"])
    found = source.study(study)["study"] if study else None
    if of == FILE_PREDICTIONS and request.method == "GET":
        return source, found, FILE_PREDICTIONS
    kind, number = parse_predictor(str(of))
    check_predictor(sources_of(request).site, kind, number)
    return source, found, f"{kind}:{number}"


def _state(of: str, job: PredictionJob | None) -> dict[str, Any]:
    what, done, total = ("", 0, 0) if job is None else job.progress
    error = None if job is None else job.error
    return {
        "of": of,
        "state": "none" if job is None or job.state == "cancelled" else job.state,
        "what": what,
        "done": done,
        "total": total,
        "problem": None if error is None else error.problem,
        "remedy": None if error is None else error.remedy,
    }


ROUTES: Final = (
    Route("/api/predictions/{source}", show),
    Route("/api/predictions/{source}", change(start), methods=["POST"]),
    Route("/api/predictions/{source}/cancel", change(cancel), methods=["POST"]),
)
