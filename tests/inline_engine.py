"""An engine for tests of job effects: it runs `ichx` jobs in this process, which saves importing torch for each."""

from collections.abc import Callable

from typer.testing import CliRunner

from ichx.cli.app import app
from ichx.errors import IchxError
from ichx.jobs import Job, JobResult


class InlineEngine:
    """Executes `ichx` jobs one by one, when they are submitted."""

    def __init__(self, before: Callable[[int], None] = lambda n: None) -> None:
        """Create the engine; `before` is called with the number of earlier jobs before each one."""
        self.jobs: list[Job] = []
        self.results: list[JobResult] = []
        self._before = before

    def submit(self, job: Job) -> int:
        self._before(len(self.jobs))
        self.jobs.append(job)
        job.log.parent.mkdir(parents=True, exist_ok=True)
        result = CliRunner().invoke(app, job.argv[3:])
        problem = f"error: {result.exception.problem}\n" if isinstance(result.exception, IchxError) else ""
        with job.log.open("a") as log:
            log.write(result.output + problem)
        self.results.append(JobResult(result.exit_code, 0.0))
        return len(self.jobs) - 1

    def poll(self, handle: int) -> JobResult | None:
        return self.results[handle]

    def wait(self, handle: int, timeout: float | None = None) -> JobResult | None:
        return self.results[handle]

    def cancel(self, handle: int) -> None:
        pass

    def kill(self, handle: int) -> None:
        pass

    def close(self) -> None:
        pass
