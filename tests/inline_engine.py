"""An engine for tests of job effects: it runs `ichx` jobs in this process, which saves importing torch for each."""

from collections.abc import Callable, Sequence

from typer.testing import CliRunner

from ichx.cli.app import app
from ichx.errors import IchxError
from ichx.jobs import Job, JobResult, JobState


class InlineEngine:
    """Executes `ichx` jobs one by one, when they are submitted."""

    name = "inline"
    outlives_submitter = False

    def __init__(self, before: Callable[[int], None] = lambda n: None) -> None:
        """Create the engine; `before` is called with the number of earlier jobs before each one."""
        self.jobs: list[Job] = []
        self.results: dict[str, JobResult] = {}
        self._before = before

    def submit(self, jobs: Sequence[Job], *, at_once: int | None = None, submission: str | None = None) -> list[str]:
        return [self.execute(job) for job in jobs]

    def execute(self, job: Job) -> str:
        """Run `job` and return its handle."""
        self._before(len(self.jobs))
        self.jobs.append(job)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        result = CliRunner().invoke(app, job.argv[3:])
        problem = f"error: {result.exception.problem}\n" if isinstance(result.exception, IchxError) else ""
        with job.log.open("a") as log:
            log.write(result.output + problem)
        handle = f"inline:{len(self.jobs) - 1}"
        self.results[handle] = JobResult(result.exit_code, 0.0)
        return handle

    def find(self, submission: str) -> None:
        pass

    def states(self, handles: Sequence[str]) -> dict[str, JobState]:
        return {handle: "ended" if self.poll(handle) else "running" for handle in handles}

    def poll(self, handle: str) -> JobResult | None:
        return self.results[handle]

    def wait(self, handle: str, timeout: float | None = None) -> JobResult | None:
        return self.results[handle]

    def cancel(self, handle: str) -> None:
        pass

    def kill(self, handle: str) -> None:
        pass

    def close(self) -> None:
        pass
