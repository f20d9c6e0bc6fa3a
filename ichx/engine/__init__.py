"""Where jobs execute: subprocesses here, a cluster later, behind one interface. What a job does is not known here."""

from ichx.engine.job import Engine, Job, JobResult
from ichx.engine.local import LocalEngine

__all__ = ["Engine", "Job", "JobResult", "LocalEngine"]
