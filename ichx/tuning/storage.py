"""Optuna's storage: the file with all studies, locks, pruners. Only one process writes a study.

A study belongs to one experiment, fold, search space and budget; opening it with another setup is an error.
"""

import contextlib
import re
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import QueuePool
from sqlalchemy.exc import SQLAlchemyError

from ichx.errors import ConflictError, StoreError
from ichx.locks import file_lock
from ichx.tuning import database_path
from ichx.tuning.study_setup import differences

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial

    from ichx.workspace import Workspace

BUSY_SECONDS = 30.0
"""Time that SQLite waits for another process."""
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


@contextlib.contextmanager
def open_study(
    workspace: "Workspace",
    name: str,
    setup: Mapping[str, Any],
    pruner: BasePruner | None = None,
    sampler: BaseSampler | None = None,
) -> Iterator["Study"]:
    """Yield a study, which is created if it does not exist, and lock it against other processes.

    Args:
        workspace: The workspace.
        name: Full name of the study.
        setup: What all trials have in common, as plain JSON values.
        pruner: None prunes nothing.
        sampler: None is Optuna's default.

    Raises:
        ConflictError: Another process has locked the study, or it was created with another setup.
        StoreError: The file cannot be used.
    """
    path = database_path(workspace)
    path.parent.mkdir(exist_ok=True)
    with quiet_optuna(), _locked(path.with_name(f"tuning-{name}.lock"), name):
        # RuntimeError: the file was created by another version of Optuna.
        with file_lock(path.with_name("tuning.lock")), storage_errors(path, RuntimeError, sqlite3.Error):
            _enable_wal(path)
            storage = connect(path)
        try:
            with storage_errors(path):
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


def connect(path: Path, *, read_only: bool = False) -> RDBStorage:
    """Return Optuna's storage in the SQLite file `path`, which may contain characters that have a meaning in URLs."""
    uri = f"{path.as_uri()}?mode={'ro' if read_only else 'rwc'}"

    def open_file() -> sqlite3.Connection:
        return sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, check_same_thread=False)

    return RDBStorage("sqlite://", engine_kwargs={"creator": open_file, "poolclass": QueuePool})


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


@contextlib.contextmanager
def storage_errors(path: Path, *more: type[Exception]) -> Iterator[None]:
    """Raise `StoreError` for errors of Optuna's storage in the file `path`, and for the types `more`."""
    expected: tuple[type[Exception], ...] = (SQLAlchemyError, optuna.exceptions.StorageInternalError, *more)
    try:
        yield
    except expected as error:
        raise StoreError(
            f"Cannot use {path}: {_reason(error)}.",
            "Check the disk and the version of Optuna, then rerun the command to resume. A damaged file can be moved "
            "away: the study starts from scratch, and its trials stay as experiments.",
        ) from error


def _reason(error: BaseException) -> str:
    """Return the root cause of an error of Optuna's storage, whose message only mentions a commit."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_setup(study: "Study", name: str, setup: Mapping[str, Any]) -> None:
    known = study.user_attrs.get("setup")
    if known is None:
        study.set_user_attr("setup", dict(setup))
        return
    found = differences(known, setup)
    if found:
        raise ConflictError(
            "\n  ".join([f"The study {name} has another setup than requested:", *found]),
            "Use the setup of the study, or create another study of this experiment with --study NAME.",
        )


def _enable_wal(path: Path) -> None:
    """Let SQLite write ahead: a process that is killed while writing leaves a file that can be read at once."""
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


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


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silence Optuna's messages in this block and restore its settings afterwards."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
