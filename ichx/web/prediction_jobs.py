"""Predictions on request: another process computes one at a time, requests ask for their state."""

from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, Final

from ichx.errors import ConflictError, IchxError, as_user_error
from ichx.web.helper import Helper
from ichx.web.shown_errors import shown_error
from ichx.web.sources import Source, Sources

PREDICT_SECONDS: Final = 6 * 3600.0
MOST_WAITING: Final = 20


@dataclass
class PredictionJob:
    """The prediction of a study, or of all files, by an experiment or ensemble."""

    source: str
    study: str | None
    """None for all studies of the source."""
    of: str
    folder: Path
    state: str = "running"
    """`running`, `done`, `failed` or `cancelled`."""
    progress: tuple[str, int, int] = ("waiting for another prediction", 0, 0)
    error: IchxError | None = None
    result: dict[str, Any] = field(default_factory=dict)
    stop: Event = field(default_factory=Event)

    @property
    def out(self) -> Path:
        """The file with the predictions."""
        return self.folder / "predictions.parquet"


class PredictionJobs:
    """All predictions on request of a server; one at a time computes."""

    def __init__(self, sources: Sources) -> None:
        """Prepare for jobs; they end with the sources."""
        self._sources = sources
        self._jobs: list[PredictionJob] = []
        self._lock, self._turn = Lock(), Lock()
        self._helper = Helper(sources.site.workspace.root, sources.folder / "predict.log")
        sources.closing.callback(self._helper.close)
        sources.closing.callback(self._stop_all)

    def start(self, source: Source, study: str | None, of: str) -> PredictionJob:
        """Start a prediction, or return the one that runs or is done.

        Raises:
            ConflictError: Too many predictions wait.
        """
        with self._lock:
            known = self._find(source.name, study, of)
            if known is not None and known.state in ("running", "done"):
                return known
            if sum(job.state == "running" for job in self._jobs) >= MOST_WAITING:
                raise ConflictError("Too many predictions are waiting.", "Cancel one of them, or wait.")
            job = PredictionJob(source.name, study, of, self._sources.folder / f"predict-{len(self._jobs)}")
            self._jobs.append(job)
        Thread(target=self._run, args=(job, source), name=f"predict {of}", daemon=True).start()
        return job

    def find(self, source: str, study: str | None, of: str) -> PredictionJob | None:
        """Return the newest job that predicts a study."""
        with self._lock:
            return self._find(source, study, of)

    def _find(self, source: str, study: str | None, of: str) -> PredictionJob | None:
        found = (job for job in reversed(self._jobs) if (job.source, job.of) == (source, of))
        return next((job for job in found if job.study in (study, None)), None)

    def _run(self, job: PredictionJob, source: Source) -> None:
        while not self._turn.acquire(timeout=0.2):
            if job.stop.is_set():
                job.state = "cancelled"
                return
        try:
            job.progress = "starting", 0, 0
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
            shown = as_user_error(error) if isinstance(error, OSError) else error
            job.error = None if cancelled else shown_error(shown, self._sources.site)
            job.state = "cancelled" if cancelled else "failed"
        finally:
            self._turn.release()

    def _stop_all(self) -> None:
        for job in self._jobs:
            job.stop.set()
