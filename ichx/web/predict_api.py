"""Predictions on request, of a study that is in no dataset: computed by another process, shown by the viewer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ichx.errors import ConflictError, IchxError, InvalidInputError, NotFoundError
from ichx.web.changes import change
from ichx.web.helper import Helper
from ichx.web.sources import Source, Sources, sources_of
from ichx.web.studies_api import check_predictor, shown_error, without_paths

PREDICT_SECONDS: Final = 6 * 3600.0
MOST_WAITING: Final = 20


@dataclass
class PredictionJob:
    """The prediction of a study by an experiment or ensemble."""

    number: int
    source: str
    study: str
    of: str
    folder: Path
    state: str = "waiting"
    """`waiting`, `running`, `done`, `failed` or `cancelled`."""
    progress: tuple[str, int, int] = ("waiting", 0, 0)
    error: IchxError | None = None
    result: dict[str, Any] = field(default_factory=dict)
    stop: Event = field(default_factory=Event)

    @property
    def out(self) -> Path:
        """The file with the predictions."""
        return self.folder / "predictions.parquet"

    def to_dict(self) -> dict[str, Any]:
        """Return the job as JSON values, without paths."""
        phase, done, total = self.progress
        facts = {"job": self.number, "of": self.of, "state": self.state, "phase": phase, "done": done, "total": total}
        return facts | {"error": None if self.error is None else self.error.to_dict()}


class PredictionJobs:
    """All predictions on request of a server; one at a time computes."""

    def __init__(self, sources: Sources) -> None:
        """Prepare for jobs; they end with the sources."""
        self._sources = sources
        self._jobs: dict[int, PredictionJob] = {}
        self._lock, self._turn = Lock(), Lock()
        self._helper = Helper(sources.site.workspace.root, sources.folder / "predict.log")
        sources.closing.callback(self._helper.close)
        sources.closing.callback(self._stop_all)

    def start(self, source: Source, study: str, of: str) -> PredictionJob:
        """Start a prediction, or return the one that runs or is done.

        Raises:
            ConflictError: Too many predictions wait.
        """
        with self._lock:
            known = self._find(source.name, study, of)
            if known is not None and known.state in ("waiting", "running", "done"):
                return known
            if sum(job.state in ("waiting", "running") for job in self._jobs.values()) >= MOST_WAITING:
                raise ConflictError("Too many predictions are waiting.", "Cancel one of them, or wait.")
            number = len(self._jobs) + 1
            job = PredictionJob(number, source.name, study, of, self._sources.folder / f"predict-{number}")
            self._jobs[number] = job
        Thread(target=self._run, args=(job, source), name=f"predict-{number}", daemon=True).start()
        return job

    def find(self, source: str, study: str, of: str) -> PredictionJob | None:
        """Return the newest job of a study and predictor."""
        with self._lock:
            return self._find(source, study, of)

    def get(self, number: int) -> PredictionJob:
        """Return the job with this number. Raises `NotFoundError`."""
        with self._lock:
            job = self._jobs.get(number)
        if job is None:
            raise NotFoundError(f"There is no prediction {number}.", "Start it again.")
        return job

    def _find(self, source: str, study: str, of: str) -> PredictionJob | None:
        jobs = reversed(self._jobs.values())
        return next((job for job in jobs if (job.source, job.study, job.of) == (source, study, of)), None)

    def _run(self, job: PredictionJob, source: Source) -> None:
        while not self._turn.acquire(timeout=0.2):
            if job.stop.is_set():
                job.state = "cancelled"
                return
        try:
            job.state, job.progress = "running", ("starting", 0, 0)
            job.folder.mkdir()

            def report(phase: str, done: int, total: int) -> None:
                job.progress = phase, done, total

            arguments = {
                "of": job.of,
                "source": str(source.path),
                "index": str(source.folder),
                "study": job.study,
                "out": str(job.out),
            }
            job.result = self._helper.call(
                "predict", arguments, seconds=PREDICT_SECONDS, progress=report, stop=job.stop
            )
            job.state = "done"
        except (IchxError, OSError) as error:
            cancelled = job.stop.is_set()
            job.error = None if cancelled else self._shown(error)
            job.state = "cancelled" if cancelled else "failed"
        finally:
            self._turn.release()

    def _shown(self, error: IchxError | OSError) -> IchxError:
        from ichx.errors import as_user_error

        return shown_error(as_user_error(error) if isinstance(error, OSError) else error, self._sources.site)

    def _stop_all(self) -> None:
        for job in self._jobs.values():
            job.stop.set()


@without_paths
def start(request: Request, body: Mapping[str, Any]) -> Response:
    """Start the prediction of `study` in `source` by `of`, e.g. `experiment:6`; answer with the job."""
    from ichx.evaluation.study_curves import parse_predictor

    texts = {name: body.get(name) for name in ("source", "study", "of")}
    for name, value in texts.items():
        if not isinstance(value, str):
            raise InvalidInputError(f"Invalid value for `{name}`: {str(value)[:40]!r}.", "Use text.")
    source = sources_of(request).get(str(texts["source"]))
    if source.version is not None:
        raise ConflictError(
            f"{source.name} is a dataset, whose predictions are stored.", "Run or evaluate an experiment instead."
        )
    study = source.study(str(texts["study"]))["study"]
    kind, number = parse_predictor(str(texts["of"]))
    check_predictor(sources_of(request).site, kind, number)
    job = sources_of(request).part(PredictionJobs).start(source, study, f"{kind}:{number}")
    return JSONResponse(job.to_dict())


@without_paths
def show(request: Request) -> Response:
    """Return the state of a prediction."""
    return JSONResponse(_job(request).to_dict())


@without_paths
def cancel(request: Request, body: Mapping[str, Any]) -> Response:
    """Cancel a prediction; one that is done stays so."""
    job = _job(request)
    job.stop.set()
    return JSONResponse(job.to_dict())


def _job(request: Request) -> PredictionJob:
    return sources_of(request).part(PredictionJobs).get(request.path_params["job"])


ROUTES: Final = (
    Route("/api/predict", change(start), methods=["POST"]),
    Route("/api/predict/{job:int}", show),
    Route("/api/predict/{job:int}/cancel", change(cancel), methods=["POST"]),
)
