"""How to repeat an experiment: the commands, and how this environment differs from the original one."""

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ichx.experiment_files import read_start
from ichx.experiments.provenance import LIBRARIES, code_version, library_versions, machine
from ichx.store import require_network

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Run
    from ichx.workspace import Workspace

_MACHINE = ("cpu", "cores", "gpus", "cuda", "driver", "system")


@dataclass(frozen=True)
class Difference:
    """A value that has changed: `then` where the experiment ran, `now` here; None is absent."""

    what: str
    then: Any
    now: Any


@dataclass(frozen=True)
class Repro:
    """How to repeat an experiment."""

    preparations: tuple[str, ...]
    """Steps that come before, for a person."""
    commands: tuple[str, ...]
    differences: tuple[Difference, ...]
    run: int | None
    """The run that the differences refer to; None before the first."""


def repro(project: "Project", number: int) -> Repro:
    """Return how to repeat experiment `number` in a workspace that has its dataset."""
    experiment = project.store.experiment(number)
    require_network(experiment, "reproduce it")
    runs = project.store.runs(number)
    ended = [run for run in runs if run.state == "done"] or runs
    run = max(ended, key=lambda r: r.id) if ended else None
    version = project.store.version_by_id(experiment.version_id)
    folds = version.fold_set(experiment.fold_set)
    recipe = f"experiment-{number}.toml"
    new = ["ichx", "exp", "new", "--from", recipe, "--dataset", experiment.dataset]
    if folds.name != version.folds[0].name:
        new += ["--folds", folds.name]
    if experiment.members:
        new += ["--members", ",".join(map(str, experiment.members))]
    new += ["--name", experiment.name]
    commands = [
        f"ichx exp show {number} --toml > {recipe}",
        " ".join(shlex.quote(word) for word in new),
        f"ichx run last{_start(project.workspace, number)}",
    ]
    preparations = []
    newest = project.store.version(experiment.dataset)
    if newest.id != version.id:
        preparations.append(
            f"{experiment.dataset} is at version {newest.number}; to stay at version {version.number}, "
            f"use `ichx exp clone {number}` instead of `ichx exp new`"
        )
    if folds.source:
        preparations.append(f"its folds {folds.name} were imported from {folds.source} (digest {folds.digest[:12]})")
    if run is not None and (run.provenance or {}).get("commit"):
        commit = (run.provenance or {})["commit"]
        preparations.append(f"check out commit {commit[:12]} of ichx" + _changes(project.workspace, run))
    return Repro(
        tuple(preparations), tuple(commands), () if run is None else _differences(run), None if run is None else run.id
    )


def _start(workspace: "Workspace", number: int) -> str:
    """Return the options for the start weights of the experiment."""
    start = read_start(workspace.experiment_files(number).start)
    if start is None:
        return ""
    if start["kind"] == "file":
        return f" --weights {shlex.quote(start['path'])}"
    return " --pretrained" if start["kind"] == "pretrained" else " --no-pretrained"


def _changes(workspace: "Workspace", run: "Run") -> str:
    provenance = run.provenance or {}
    if not provenance.get("dirty"):
        return ""
    steps = []
    if provenance.get("diff"):
        folder = workspace.experiment_files(run.experiment).fold(run.fold).folder
        steps.append(f"apply {(folder / provenance['diff']).relative_to(workspace.root)}")
    if provenance.get("untracked"):
        steps.append(f"it had untracked files: {', '.join(provenance['untracked'][:3])}")
    return "; " + "; ".join(steps)


def _differences(run: "Run") -> tuple[Difference, ...]:
    """Return what differs between the environment of `run` and this one."""
    pairs: dict[str, tuple[Any, Any]] = {"ichx": (run.code_version, code_version())}
    now = library_versions({*LIBRARIES, *run.libraries} - {"python"})
    for name in {**run.libraries, **now}:
        pairs[name] = (run.libraries.get(name), now.get(name))
    here = machine()
    for name in _MACHINE:
        pairs[name] = ((run.provenance or {}).get(name), here.get(name))
    return tuple(Difference(what, then, now) for what, (then, now) in pairs.items() if then != now)
