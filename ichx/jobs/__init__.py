"""Jobs: engines that execute commands, the machine's resources, the scheduler, and launches of several folds.

What a fold's run does is in `ichx.experiments.run`; trials are scheduled by `ichx.tuning`.
"""

from ichx.jobs.engine import Engine, Job, JobResult, JobState, Resources
from ichx.jobs.local_engine import LocalEngine

__all__ = ["Engine", "Job", "JobResult", "JobState", "LocalEngine", "Resources"]
