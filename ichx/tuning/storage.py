"""Optuna's storage: the database with all studies, locks, pruners. Only one process writes a study.

The studies of a SQLite store are in a file, those of a PostgreSQL store in its database (`server_storage`). A study
belongs to one experiment, fold, search space and budget; opening it with another setup is an error.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from ichx.errors import ConflictError
from ichx.evaluation.choices import CALIBRATED
from ichx.locks import file_lock
from ichx.store.database import is_sqlite
from ichx.tuning import database_path, studies_url
from ichx.tuning.connection import connect, quiet_optuna, storage_errors
from ichx.tuning.study_setup import differences
from ichx.tuning.study_transfer import adopt_file

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial

    from ichx.workspace import Workspace

Pruner = Literal["median", "hyperband", "none"]
STAGE_STEPS = 10
"""Pruning steps of each stage: epochs are compared at the same part of the same stage, whatever its length."""
STARTUP_TRIALS = 5
"""Number of done trials that the median pruner needs."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""Valid names of studies, which are part of a file name."""


def study_name(experiment: int, name: str | None) -> str:
    """Return the full name of the study `name` of an experiment; the first study has no name."""
    return f"experiment-{experiment}" + (f"-{name}" if name else "")


def study_owner(full_name: str) -> int | None:
    """Return the number of the experiment of a study; None for a study of another program."""
    number, _, name = full_name.removeprefix(study_name(0, None)[:-1]).partition("-")
    return int(number) if number.isdecimal() and study_name(int(number), name or None) == full_name else None


@contextlib.contextmanager
def open_study(
    workspace: "Workspace",
    name: str,
    setup: Mapping[str, Any],
    pruner: BasePruner | None = None,
    sampler: BaseSampler | None = None,
    note: Callable[[str], object] = lambda message: None,
) -> Iterator["Study"]:
    """Yield a study, which is created if it does not exist, and lock it against other processes.

    Args:
        workspace: The workspace.
        name: Full name of the study.
        setup: What all trials have in common, as plain JSON values.
        pruner: None prunes nothing.
        sampler: None is Optuna's default.
        note: Receives a line if the server is away.

    Raises:
        ConflictError: Another process has locked the study, or it was created with another setup.
        StoreError: The database cannot be used.
    """
    folder = workspace.root / "db"
    folder.mkdir(exist_ok=True)
    with quiet_optuna(), _locked(folder / f"tuning-{name}.lock", name):
        with file_lock(folder / "tuning.lock"):
            storage = open_storage(workspace, note=note)
        try:
            with storage_errors(studies_url(workspace)):
                study = optuna.create_study(
                    storage=storage,
                    study_name=name,
                    direction="minimize",
                    load_if_exists=True,
                    pruner=pruner or NopPruner(),
                    sampler=sampler,
                )
                _check_setup(study, name, setup)
                yield study
        finally:
            storage.remove_session()
            storage.engine.dispose()


def open_storage(
    workspace: "Workspace", *, note: Callable[[str], object] = lambda message: None, read_only: bool = False
) -> RDBStorage:
    """Return Optuna's storage of a workspace. A new one is created unless it is `read_only`.

    On a server, it begins with the studies of the workspace's file, where older versions stored them.

    Raises:
        NotFoundError: There is none, and it is `read_only`.
        StoreError: The database cannot be used, or was created by another version of Optuna.
    """
    url = studies_url(workspace)
    if is_sqlite(url):
        return connect(url, read_only=read_only)
    adopt_file(database_path(workspace), url)
    return connect(url, note=note, read_only=read_only)


def create_pruner(name: Pruner, stages: int) -> BasePruner:
    """Return the pruner `name` for trials with this number of stages."""
    if name == "median":
        return MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=1)
    if name == "hyperband":
        return HyperbandPruner(min_resource=STAGE_STEPS // 2, max_resource=stages * STAGE_STEPS, reduction_factor=3)
    return NopPruner()


def enqueue_baseline(study: "Study", values: Mapping[str, Any]) -> None:
    """Let the next trial run the unchanged recipe, unless one that has not failed exists.

    Args:
        study: The study.
        values: The recipe's values that the search space contains.
    """
    trials = study.get_trials(deepcopy=False)
    if not any(t.user_attrs.get("baseline") and t.state != TrialState.FAIL for t in trials):
        study.enqueue_trial(dict(values), user_attrs={"baseline": True})


def reopen(study: "Study", number: int) -> "Trial":
    """Return the unfinished trial `number` with the values that it has."""
    return optuna.trial.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


def _check_setup(study: "Study", name: str, setup: Mapping[str, Any]) -> None:
    known = study.user_attrs.get("setup")
    if known is None:
        study.set_user_attr("setup", dict(setup))
        return
    if setup.get("objective") == CALIBRATED != known.get("objective"):
        raise ConflictError(
            f"An older version of ichx created the study {name} and compared its trials by their score without "
            "calibration. New trials are compared by their calibrated score.",
            "Start another study of this experiment with --study NAME. The old one stays as it is.",
        )
    found = differences(known, setup)
    if found:
        raise ConflictError(
            "\n  ".join([f"The study {name} has another setup than requested:", *found]),
            "Use the setup of the study, or create another study of this experiment with --study NAME.",
        )


@contextlib.contextmanager
def _locked(path: Path, name: str) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(file_lock(path, wait=False))
        except BlockingIOError as error:
            remedy = "Wait until it ends, or stop it."
            if error.filename is not None:  # a file system without locks
                remedy += f" If it was on another machine that has crashed, delete {error.filename}."
            raise ConflictError(f"Another process is tuning {name}.", remedy) from error
        yield
