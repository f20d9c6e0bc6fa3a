"""Drafts and snapshots of runs and of the jobs that execute them; see `ichx.store.snapshots`."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

EndState = Literal["done", "failed", "stopped"]
"""States that a run can end in; other processes derive `dead`."""
JobRecordState = Literal["submitting", "queued", "running", "done", "failed", "cancelled", "lost"]
"""`submitting`: recorded, and not known to be queued. `lost`: the scheduler does not know it, and it has no result."""


@dataclass(frozen=True)
class RunDraft:
    """A run of one fold that is about to start."""

    experiment: int
    fold: int
    host: str
    """`socket.gethostname()` of its machine."""
    pid: int
    code_version: str
    libraries: Mapping[str, str]
    """Versions by name."""
    device: str
    """Device and precision."""
    command: str
    provenance: Mapping[str, Any] | None = None
    """Changes of the code, machine, seed."""
    job: str | None = None
    """Handle of the scheduler's job that executes it."""


@dataclass(frozen=True, kw_only=True)
class Run(RunDraft):
    """A recorded run of one fold."""

    id: int
    attempt: int
    """Counts from 1 within the fold."""
    state: str
    """`running`, `stalled`, `done`, `failed`, `stopped` or `dead`; see `ichx.store.runs.current_state`."""
    started: datetime
    heartbeat: datetime
    ended: datetime | None
    stage: str | None
    epoch: int | None
    epochs_done: int
    error: str | None


@dataclass(frozen=True)
class EpochRecord:
    """Metrics of one epoch of one stage."""

    stage: str
    stage_index: int
    epoch: int
    values: Mapping[str, float]
    """By name of the metric; values may be NaN."""


@dataclass(frozen=True)
class JobDraft:
    """A job that is about to be queued by a scheduler."""

    submission: str
    """Name of the jobs that are submitted together."""
    position: int
    """From 0 within the submission."""
    engine: str
    kind: str
    """`fold`, `trial`, `tune`, `cache`, `predict` or `evaluate`."""
    name: str
    """What it does, for people."""
    log: str
    experiment: int | None = None
    fold: int | None = None


@dataclass(frozen=True, kw_only=True)
class JobRecord(JobDraft):
    """A recorded job."""

    id: int
    handle: str | None
    """Name of the job in the scheduler; None before it is queued."""
    state: JobRecordState
    """The last known state."""
    exit_code: int | None
    reason: str | None
    """Why it did not succeed."""
    seconds: float | None
    submitted: datetime
    ended: datetime | None


@dataclass(frozen=True)
class JobChange:
    """A new state of a recorded job."""

    state: JobRecordState
    exit_code: int | None = None
    reason: str | None = None
    seconds: float | None = None
