"""`ichx data cache` on a cluster: the missing shards as jobs."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from ichx.cache.hu_cache import CacheSpec
from ichx.cache.requests import request_caches
from ichx.cli.command_jobs import PLACEMENT_OPTIONS, command_arguments, submit_command
from ichx.cli.output import info
from ichx.cli.placement import Placement
from ichx.errors import ProcessError
from ichx.jobs.command_jobs import CommandRequest

if TYPE_CHECKING:
    from ichx.project import Project

_DROPPED = PLACEMENT_OPTIONS | {"jobs", "as_json"}


def build_on_cluster(
    project: "Project", context: typer.Context, placement: Placement, specs: Sequence[CacheSpec], jobs: int
) -> None:
    """Build the missing shards of the caches that a command requests with up to `jobs` jobs.

    Raises:
        ProcessError: Shards are still missing after that.
        typer.Exit: A job failed, or nobody waits for them.
    """
    name, for_ = str(context.params["name"]), context.params["for_"] or ()
    plans = [plan for request in request_caches(project, name, specs, for_) for plan in request.plans]
    for plan in plans:
        info(str(plan))
    missing = sum(plan.missing_shards for plan in plans)
    if all(plan.complete for plan in plans):
        return
    count = max(min(jobs, missing), 1)
    parts = [None] if count == 1 else [f"{k}/{count}" for k in range(1, count + 1)]
    commands = tuple(command_arguments(context, drop=_DROPPED, part=part) for part in parts)
    as_json = bool(context.params["as_json"])
    # The caller lists the caches; the list of a single job would be the same.
    submit_command(project, placement, CommandRequest("cache", commands), as_json=as_json, show_output=False)
    left = [plan for request in request_caches(project, name, specs, for_) for plan in request.plans]
    if not all(plan.complete for plan in left):
        shards = sum(plan.missing_shards for plan in left)
        raise ProcessError(f"{shards} shards of {name} are still missing.", "Rerun the command to build them.")
