"""The batch script of a submission to Slurm, the options of `sbatch`, and the environment of its jobs."""

import math
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ichx.child_processes import JOB, PARENT
from ichx.errors import InvalidInputError, ResourceError, StorageError, did_you_mean
from ichx.files import read_text
from ichx.jobs.engine import Resources
from ichx.jobs.engine_settings import SlurmSettings
from ichx.jobs.slurm_commands import NodeGroup
from ichx.text import escape, format_bytes, format_count

SCRIPT_FILE: Final = "job.sh"
OUTPUT_FILE: Final = "slurm-%A_%a.out"
"""Output of the wrapper itself; empty unless it cannot work."""

_EXPORTED: Final = (
    *("HOME", "LANG", "LD_LIBRARY_PATH", "LOGNAME", "MODULEPATH", "PATH", "PYTHONPATH", "SHELL", "TZ", "USER"),
    *("VIRTUAL_ENV", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "ftp_proxy", "http_proxy", "https_proxy", "no_proxy"),
)
_EXPORTED_PREFIXES: Final = ("CONDA_", "HF_", "ICHX_", "LC_", "MLFLOW_", "PG", "TORCH_")
_NOT_EXPORTED: Final = frozenset({JOB, PARENT})
"""Environment variables that jobs receive, and those that they never receive."""
_OWN_OPTIONS: Final = ("--array", "--job-name", "--wrap")
"""Options by which ichx starts and finds its jobs; `sbatch` accepts abbreviations, too."""


@dataclass(frozen=True)
class ArrayRequest:
    """One job array."""

    submission: str
    first: int
    """Position of its first job in the submission."""
    count: int
    at_once: int | None
    after: int | None
    """Array that must have ended before this one starts."""


def exported_names(settings: SlurmSettings, environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the names of the variables in `environment` that jobs receive. Slurm transports the values."""
    wanted = {*_EXPORTED, *settings.export}
    return sorted(
        name
        for name in environment
        if (name in wanted or name.startswith(_EXPORTED_PREFIXES)) and name not in _NOT_EXPORTED and name.isidentifier()
    )


def sbatch_options(settings: SlurmSettings, resources: Resources) -> list[str]:
    """Return the options that request the resources."""
    cpus = resources.cpus or settings.cpus
    gpus = settings.gpus if resources.gpus is None else resources.gpus
    memory = resources.memory or settings.memory
    seconds = resources.seconds or settings.time
    options = [
        f"--{name}={value}"
        for name, value in (
            ("partition", settings.partition),
            ("account", settings.account),
            ("qos", settings.qos),
            ("constraint", settings.constraint),
        )
        if value
    ]
    options += [f"--nodes={resources.nodes}", "--ntasks-per-node=1"]
    if cpus:
        options.append(f"--cpus-per-task={cpus}")
    if gpus:
        kind = f"{settings.gpu_type}:" if settings.gpu_type else ""
        number = gpus * resources.nodes if settings.gpu_option == "gpus" else gpus
        options.append(f"--{settings.gpu_option}={'gpu:' if settings.gpu_option == 'gres' else ''}{kind}{number}")
    if memory:
        options.append(f"--mem={math.ceil(memory / 2**20)}M")
    notice = settings.signal_seconds
    if seconds:
        options.append(f"--time={math.ceil(seconds / 60)}")
        notice = min(notice, math.ceil(seconds / 60) * 15)  # or a short job would be asked to stop when it starts
    options += [f"--signal=B:TERM@{math.ceil(notice)}"]
    return [*options, *settings.options, *resources.options]


def array_options(request: ArrayRequest, folder: Path) -> list[str]:
    """Return the options by which an array is queued, continued after preemption, and found again."""
    limit = f"%{request.at_once}" if request.at_once else ""
    return [
        "--parsable",
        f"--array=0-{request.count - 1}{limit}",
        f"--job-name={request.submission}",
        f"--comment=ichx {request.first}",
        "--requeue",
        "--open-mode=append",
        f"--output={_output(folder)}",
        *([f"--dependency=afterany:{request.after}"] if request.after else []),
    ]


def _output(folder: Path) -> str:
    """Return the path of the wrappers' output, as `sbatch` writes it: `%` starts a pattern.

    Slurm replaces no pattern in a path with a backslash: all elements append to one file there.
    """
    text = str(folder)
    if "\\" in text:
        return "{}/slurm.out".format(text.replace("\\", "\\\\"))
    return "{}/{}".format(text.replace("%", "%%"), OUTPUT_FILE)


def batch_script(settings: SlurmSettings, root: Path, folder: Path) -> str:
    """Return the script that starts the wrapper; its argument is the position of the first job of the array.

    Raises:
        StorageError: The template cannot be read.
    """
    lines = ["#!/bin/bash -l"] if settings.setup else ["#!/bin/bash"]
    if settings.template:
        path = root / Path(settings.template).expanduser()
        try:
            template = read_text(path).rstrip("\n").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8"
            remedy = "Correct `template` in [engine.slurm]."
            raise StorageError(f"Cannot read the template {path}: {reason}.", remedy) from error
        lines = template if template[0].startswith("#!") else [*lines, *template]
    wrapper = shlex.join([sys.executable, "-m", "ichx.jobs.wrapper", str(folder)])
    return "\n".join(
        [
            *lines,
            *settings.setup,
            "trap '' TERM  # until the wrapper handles it",
            f'exec {wrapper} "$(($1 + SLURM_ARRAY_TASK_ID))"',
            "",
        ]
    )


def check_request(settings: SlurmSettings, resources: Resources, nodes: list[NodeGroup]) -> None:
    """Compare a request with the partitions: Slurm queues some jobs that it can never start.

    Raises:
        InvalidInputError: The partition does not exist, or an option is one that ichx needs for itself.
        ResourceError: No node of the partition has the resources, or its time limit is shorter.
    """
    for option in (*settings.options, *resources.options):
        name = option.partition("=")[0].strip()
        if name[:2] in ("-a", "-J") or (len(name) > 3 and any(own.startswith(name) for own in _OWN_OPTIONS)):
            raise InvalidInputError(
                f"ichx sets the option {escape(name)!r} of sbatch itself.",
                "Remove it from `options` in [engine.slurm] and from --engine-option.",
            )
    names = list(dict.fromkeys(group.partition for group in nodes))
    if not names:
        return
    if settings.partition is None:
        chosen = [group for group in nodes if group.is_default]
        if not chosen:
            raise InvalidInputError(
                "Slurm has no default partition here.", f"Set `partition` in [engine.slurm] to {' or '.join(names)}."
            )
    else:
        wanted = settings.partition.split(",")
        chosen = [group for group in nodes if group.partition in wanted]
        for name in wanted:
            if name not in names:
                raise InvalidInputError(
                    f"Unknown partition of Slurm: {escape(name)!r}.",
                    f"{did_you_mean(name, names)}Set `partition` in [engine.slurm] to {' or '.join(names)}.",
                )
    cpus, memory = resources.cpus or settings.cpus or 0, resources.memory or settings.memory or 0
    gpus = (settings.gpus if resources.gpus is None else resources.gpus) or 0
    kind = settings.gpu_type if gpus else None
    seconds = resources.seconds or settings.time or 0
    partition = " and ".join(dict.fromkeys(group.partition for group in chosen))
    with_kind = [group for group in chosen if kind is None or not group.gpu_types or kind in group.gpu_types]
    if not any(g.cpus >= cpus and g.memory >= memory and g.gpus >= gpus for g in with_kind):
        most = (
            f"at most {format_count(max(g.cpus for g in chosen), 'CPU')}, "
            f"{format_count(max(g.gpus for g in chosen), 'GPU')}, "
            f"{format_bytes(max(g.memory for g in chosen))} of memory"
        )
        of_type = f" of type {kind}" if kind else ""
        request = f"{format_count(cpus or 1, 'CPU')}, {format_count(gpus, 'GPU')}{of_type}"
        raise ResourceError(
            f"No node of partition {partition} has {request}"
            f"{f', {format_bytes(memory)} of memory' if memory else ''}; its nodes have {most}.",
            "Request less, or use another partition.",
        )
    limit = max(group.time_limit for group in chosen)
    if seconds > limit:
        raise ResourceError(
            f"The time limit of {seconds / 3600:g} h is longer than that of partition {partition}, {limit / 3600:g} h.",
            "Request less: a job that reaches its limit saves a checkpoint, is queued again and resumes.",
        )
