"""Checks of an engine's settings: what can be asked of the scheduler, and a job that reports what its node sees."""

import json
import platform
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import ichx
from ichx.errors import IchxError, NotFoundError
from ichx.jobs.engine import Engine, Job, JobResult, Resources
from ichx.jobs.engine_settings import ENGINES, SlurmSettings, parse_engine_settings
from ichx.jobs.engines import open_engine
from ichx.jobs.job_folder import VISIBLE_SECONDS
from ichx.text import format_bytes, format_count

if TYPE_CHECKING:
    from ichx.workspace import Workspace

TICK_SECONDS: Final = 0.5


@dataclass(frozen=True)
class EngineCheck:
    """The result of one check."""

    what: str
    detail: str = ""
    problem: str | None = None
    remedy: str | None = None


def check_engine(
    workspace: "Workspace", name: str, *, timeout: float, note: Callable[[str], None] = lambda message: None
) -> list[EngineCheck]:
    """Check the settings of an engine and run a job with it; return all results up to the first that ends the checks.

    Args:
        workspace: Workspace with the settings.
        name: `local`, `slurm` or `ray`.
        timeout: Seconds to wait for the job.
        note: Called with what is being waited for.
    """
    if name not in ENGINES:
        raise NotFoundError.named("engine", name, ENGINES, f"Engines: {', '.join(ENGINES)}.")
    checks: list[EngineCheck] = []
    try:
        with _checked(checks, "settings in ichx.toml"):
            settings = parse_engine_settings(workspace.engine)
        if name == "slurm":
            _check_slurm(checks, settings.slurm, workspace.root)
        with _checked(checks, f"engine {name} opens"):
            engine = open_engine(workspace, name, 1)
        with closing(engine):
            _check_node(checks, engine, workspace, timeout, note)
    except _CheckFailedError:
        pass
    return checks


class _CheckFailedError(Exception):
    """A check has failed without which the others are useless."""


@contextmanager
def _checked(checks: list[EngineCheck], what: str) -> Iterator[None]:
    """Record whether the block succeeds; an `IchxError` ends the checks."""
    try:
        yield
    except IchxError as error:
        checks.append(EngineCheck(what, "", error.problem, error.remedy))
        raise _CheckFailedError from error
    checks.append(EngineCheck(what))


def _check_slurm(checks: list[EngineCheck], settings: SlurmSettings, root: Path) -> None:
    """Check what Slurm can be asked without a job."""
    from ichx.jobs.slurm_commands import call_slurm, read_nodes, require_slurm
    from ichx.jobs.slurm_script import batch_script, check_request, sbatch_options

    with _checked(checks, "commands of Slurm are on the path"):
        require_slurm()
    with _checked(checks, "Slurm answers"):
        nodes = read_nodes()
    with _checked(checks, "partition, CPUs, GPUs, memory and time limit exist"):
        check_request(settings, Resources(), nodes)
    with _checked(checks, "template can be read"):
        batch_script(settings, root, root)
    with _checked(checks, "Slurm accepts the partition, account, qos and options"):
        call_slurm("sbatch", "--test-only", *sbatch_options(settings, Resources()), "--wrap=true")


def _check_node(
    checks: list[EngineCheck], engine: Engine, workspace: "Workspace", timeout: float, note: Callable[[str], None]
) -> None:
    """Run a job that reports what its node sees."""
    name = f"ichx-check-{secrets.token_hex(4)}"
    folder = workspace.jobs_dir / f"{name}.report"
    report, log = folder / "report.json", folder / "job.log"
    argv = (sys.executable, "-m", "ichx.jobs.node_probe", str(workspace.root), str(report))
    try:
        with _checked(checks, "a job is accepted"):
            folder.mkdir(parents=True)
            (handle,) = engine.submit([Job(argv, log, "engine check", kind="check")], submission=name)
        note(f"waiting for job {handle}, up to {timeout:.0f} s")
        result = engine.wait(handle, timeout)
        if result is None:
            state = engine.states([handle])[handle]
            engine.cancel(handle)
            problem = f"The job {handle} is {state} after {timeout:.0f} s; it was cancelled."
            remedy = "Wait longer with --timeout, or use another partition."
            checks.append(EngineCheck("the job ends", "", problem, remedy))
            return
        checks.append(_check_result(handle, result, log, report))
        found = _read_report(report, wait=result.exit_code == 0)
        if found is None:
            if result.exit_code == 0:
                problem = f"The job wrote {report}, but this machine does not see it."
                checks.append(EngineCheck("the node sees the workspace", "", problem, _SHARE))
            return
        checks += _compare(found, workspace)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(workspace.jobs_dir / name, ignore_errors=True)


_SHARE: Final = "Put the workspace on a file system that all nodes share."


def _check_result(handle: str, result: JobResult, log: Path, report: Path) -> EngineCheck:
    what = "a job runs"
    if result.exit_code == 0:
        return EngineCheck(what, f"{handle}, {result.seconds:.1f} s")
    lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    ended = result.reason or f"exit code {result.exit_code}"
    problem = f"The job {handle} ended with {ended}: {lines[-1] if lines else 'it has no output'}."
    if not lines and not report.exists():
        remedy = f"The node may not see {report.parent.parent}, or not {sys.executable}. {_SHARE}"
    else:
        remedy = "Correct `setup` or `template`, or install ichx where the node sees it under the same path."
    return EngineCheck(what, "", problem, remedy)


def _read_report(path: Path, *, wait: bool) -> dict[str, Any] | None:
    """Return the report of a node; a network file system may show it late."""
    deadline = time.monotonic() + (VISIBLE_SECONDS if wait else 0.0)
    while True:
        try:
            found: dict[str, Any] = json.loads(path.read_bytes())
            return found
        except (OSError, ValueError):
            if time.monotonic() > deadline:
                return None
        time.sleep(TICK_SECONDS)


def _compare(found: dict[str, Any], workspace: "Workspace") -> list[EngineCheck]:
    host = found["host"]
    versions = f"ichx {found['ichx']}, Python {found['python']}"
    here = f"ichx {ichx.__version__}, Python {platform.python_version()}"
    differ = None if versions == here else f"{host} has {versions}; this machine has {here}."
    store_problem = found["store_problem"]
    return [
        EngineCheck("the node sees the workspace", f"{host} wrote to {workspace.jobs_dir}"),
        EngineCheck("same versions on the node", versions, differ, differ and "Use one environment for both."),
        EngineCheck("the node opens the store", found["store"] or "", store_problem, found["store_remedy"]),
        EngineCheck(
            "resources of the job", f"{format_count(found['cpus'], 'CPU')}, {format_count(found['gpus'], 'GPU')}"
        ),
        EngineCheck("local disk of the node", f"{found['temporary']}, {format_bytes(found['temporary_free'])} free"),
    ]
