"""Where jobs execute: subprocesses here, a cluster later, behind one interface. What a job does is not known here."""

from ichx.jobs.engine import Engine, Job, JobResult
from ichx.jobs.local_engine import LocalEngine

__all__ = ["Engine", "Job", "JobResult", "LocalEngine"]
