"""The settings of engines in `ichx.toml`: the tables `[engine]`, `[engine.slurm]` and `[engine.ray]`."""

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar, get_args

from ichx.errors import did_you_mean, raise_problems
from ichx.text import parse_bytes, parse_duration

GpuOption = Literal["gres", "gpus-per-node", "gpus"]
"""The options by which sites accept requests for GPUs: `--gres=gpu:2`, `--gpus-per-node=2`, `--gpus=2`."""

ENGINES: Final = ("local", "slurm", "ray")

_Settings = TypeVar("_Settings")
_Convert = Callable[[Any], Any]


@dataclass(frozen=True)
class SlurmSettings:
    """The table `[engine.slurm]`. None leaves a value to the site; a command's options override cpus to time."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    cpus: int | None = None
    """CPU cores per node."""
    gpus: int | None = None
    """GPUs per node."""
    memory: int | None = None
    """Bytes per node."""
    time: float | None = None
    """Time limit in seconds."""
    gpu_option: GpuOption = "gres"
    gpu_type: str | None = None
    options: tuple[str, ...] = ()
    """Further options of `sbatch`."""
    setup: tuple[str, ...] = ()
    """Shell commands that run on the node before the job, e.g. `module load cuda`."""
    template: str | None = None
    """Path of a batch script whose lines come first, e.g. with `#SBATCH` lines; relative to the workspace."""
    export: tuple[str, ...] = ()
    """Names of further environment variables that jobs receive."""
    signal_seconds: float = 120.0
    """Time before the time limit at which a job is asked to write a checkpoint."""
    max_requeues: int = 100
    """How often a job that was preempted or reached its time limit is queued again."""
    lost_after: float = 60.0
    """Seconds for which a job that Slurm does not know may still have results that a network file system hides."""


@dataclass(frozen=True)
class RaySettings:
    """The table `[engine.ray]`."""

    address: str | None = None
    """URL of the dashboard of the cluster; default: the variable RAY_API_SERVER_ADDRESS or RAY_ADDRESS."""
    cpus: float = 1.0
    """CPU cores that each job reserves."""
    gpus: float = 0.0
    """GPUs that each job reserves."""
    memory: int = 0
    """Bytes that each job reserves."""
    resources: Mapping[str, float] = field(default_factory=dict)
    """Custom resources that each job reserves."""
    autoscaling: bool = False
    """Whether the cluster adds nodes on demand: a request that no present node can satisfy is then valid."""


@dataclass(frozen=True)
class EngineSettings:
    """The table `[engine]`."""

    default: str = "local"
    """The engine of commands without `--on`."""
    slurm: SlurmSettings = SlurmSettings()
    ray: RaySettings = RaySettings()


def parse_engine_settings(raw: Mapping[str, Any]) -> EngineSettings:
    """Return the settings in the table `[engine]`, `Workspace.engine`.

    Raises:
        InvalidInputError: Lists all unknown keys and invalid values.
    """
    problems: list[str] = []
    tables = {name: _table(raw, name, problems) for name in ("slurm", "ray")}
    for name in sorted(raw.keys() - {"default", *tables}):
        problems.append(f"Unknown key `{name}` in [engine]. {did_you_mean(name, ['default', *tables])}".rstrip())
    default = raw.get("default", "local")
    if default not in ENGINES:
        problems.append(f"Invalid value for `default` in [engine]: {default!r}: use {', '.join(ENGINES)}.")
    slurm = _parse(SlurmSettings, tables["slurm"], _SLURM, "engine.slurm", problems)
    ray = _parse(RaySettings, tables["ray"], _RAY, "engine.ray", problems)
    raise_problems(problems, "Correct ichx.toml. The settings are listed in docs/cluster.md.")
    return EngineSettings(default, slurm, ray)


def _table(raw: Mapping[str, Any], name: str, problems: list[str]) -> Mapping[str, Any]:
    value = raw.get(name, {})
    if isinstance(value, Mapping):
        return value
    problems.append(f"Invalid value for `{name}` in [engine]: {value!r}: use a table [engine.{name}].")
    return {}


def _parse(
    kind: type[_Settings], raw: Mapping[str, Any], converters: Mapping[str, _Convert], table: str, problems: list[str]
) -> _Settings:
    values = {}
    for name, value in raw.items():
        if name not in converters:
            problems.append(f"Unknown key `{name}` in [{table}]. {did_you_mean(name, list(converters))}".rstrip())
            continue
        try:
            values[name] = converters[name](value)
        except ValueError as error:
            problems.append(f"Invalid value for `{name}` in [{table}]: {value!r}: {error}.")
    return kind(**values)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or "\n" in value or "\x00" in value:
        raise ValueError("use a string in quotes")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("use a list of strings")
    return tuple(_text(item) for item in value)


def _options(value: Any) -> tuple[str, ...]:
    given = _texts(value)
    for option in given:
        if not option.startswith("-"):
            raise ValueError("use options such as --exclusive or --mail-type=FAIL")
    return given


def _names(value: Any) -> tuple[str, ...]:
    for name in _texts(value):
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise ValueError("use names of environment variables without their values")
    return tuple(value)


def _count(least: int) -> _Convert:
    def convert(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"use an integer of {least} or more")
        return value

    return convert


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
        raise ValueError("use a number of 0 or more")
    return float(value)


def _memory(value: Any) -> int:
    size = parse_bytes(value) if isinstance(value, str) else None
    if not size:
        raise ValueError("use a size such as '64GB'")
    return size


def parse_time(text: Any) -> float:
    """Return the seconds in e.g. `90m`, `12h`, `2d`, `12:00:00` or `2-12:00:00`. Raises `ValueError`."""
    if isinstance(text, str):
        seconds = parse_duration(text) or 0.0
        if found := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", text.strip()):
            days, hours, minutes, rest = (float(part or 0) for part in found.groups())
            seconds = 86400 * days + 3600 * hours + 60 * minutes + rest
        if 0 < seconds < float("inf"):
            return seconds
    raise ValueError("use a time such as '12h', '90m' or '2-00:00:00'")


def _gpu_option(value: Any) -> str:
    if value not in get_args(GpuOption):
        raise ValueError(f"use {', '.join(get_args(GpuOption))}")
    return str(value)


def _custom_resources(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise ValueError("use a table of names and numbers")
    return {name: _number(number) for name, number in value.items()}


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("use true or false")
    return value


_SLURM: Final[dict[str, _Convert]] = {
    "partition": _text,
    "account": _text,
    "qos": _text,
    "constraint": _text,
    "cpus": _count(1),
    "gpus": _count(0),
    "memory": _memory,
    "time": parse_time,
    "gpu_option": _gpu_option,
    "gpu_type": _text,
    "options": _options,
    "setup": _texts,
    "template": _text,
    "export": _names,
    "signal_seconds": _number,
    "max_requeues": _count(0),
    "lost_after": _number,
}
_RAY: Final[dict[str, _Convert]] = {
    "address": _text,
    "cpus": _number,
    "gpus": _number,
    "memory": _memory,
    "resources": _custom_resources,
    "autoscaling": _flag,
}
