"""Optuna's side of a study: its file, its lock, its pruner, and the quiet. Only one process writes there.

A study belongs to one experiment, fold, search space and budget; another one is refused rather than mixed in.
"""

import contextlib
import fcntl
import re
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from ichx.errors import IchxError
from ichx.tuning.database import DATABASE
from ichx.tuning.setup import differences

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial

    from ichx.workspace import Workspace

BUSY_SECONDS = 30.0
PRUNERS = ("median", "hyperband", "none")
STAGE_STEPS = 10
"""Steps of a pruner in each stage, of whatever length: epochs are compared at the same part of the same stage."""
STARTUP_TRIALS = 5
"""Whole trials that the median is first taken of."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a study may be called: its lock is a file of that name."""


def study_name(experiment: int, name: str | None) -> str:
    """Return what an experiment's study is called in the file, where it has several by their `name`.

    Raises `IchxError` for what is no name.
    """
    if name and not NAME.fullmatch(name):
        raise IchxError(
            f"--study {name!r} is no name", "use up to 64 letters, digits, '.', '_' and '-', a letter first"
        )
    return f"experiment-{experiment}" + (f"-{name}" if name else "")


@contextlib.contextmanager
def open_study(
    workspace: "Workspace",
    name: str,
    setup: Mapping[str, Any],
    pruner: BasePruner | None = None,
    sampler: BaseSampler | None = None,
) -> Iterator["Study"]:
    """Yield the study called `name`, made where there is none, held against other processes.

    `setup` (plain JSON values by what they are) is what its trials have in common. Raises `IchxError` where another
    process holds the study, where it was made with another setup, or where its file is no database.
    """
    folder = workspace.root / "db"
    folder.mkdir(exist_ok=True)
    with _quiet(), _held(folder / f"tuning-{name}.lock", name):
        path = folder / DATABASE
        more = (RuntimeError, sqlite3.Error)  # the first: of another version
        with _made(folder / "tuning.lock"), told_of(path, "used", *more):
            _log_ahead(path)
            storage = RDBStorage(f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": BUSY_SECONDS}})
        try:
            with told_of(path, "used"):
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


def make_pruner(name: str, stages: int) -> BasePruner:
    """Return the pruner `name` of `PRUNERS` for trials of so many stages."""
    if name == "median":
        return MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=1)
    if name == "hyperband":
        return HyperbandPruner(min_resource=STAGE_STEPS // 2, max_resource=stages * STAGE_STEPS, reduction_factor=3)
    return NopPruner()


def begin_with(study: "Study", values: Mapping[str, Any]) -> None:
    """Have the first trial of a new study try `values`: those that the recipe has, as far as the space holds them.

    All others are held against it: where it failed, the next trial tries them again.
    """
    trials = study.get_trials(deepcopy=False)
    if not any(t.user_attrs.get("baseline") and t.state != TrialState.FAIL for t in trials):
        study.enqueue_trial(dict(values), user_attrs={"baseline": True})


def reopen(study: "Study", number: int) -> "Trial":
    """Return the unfinished trial `number`; the values it has been given stay."""
    return optuna.trial.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)


@contextlib.contextmanager
def told_of(path: Path, done: str, *more: type[Exception]) -> Iterator[None]:
    """Raise `IchxError` for errors of Optuna's storage, and `more`: its file at `path` cannot be `read` or `used`."""
    expected: tuple[type[Exception], ...] = (SQLAlchemyError, optuna.exceptions.StorageInternalError, *more)
    try:
        yield
    except expected as error:
        raise IchxError(
            f"{path} cannot be {done}: {_reason(error)}",
            "see to its disk and to Optuna's version, and the same command goes on; a damaged file can be moved away: "
            "the study then begins anew, and the trials stay as experiments",
        ) from error


def _reason(error: BaseException) -> str:
    """Return what is behind an error of Optuna's storage, which tells of a commit only."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def _made(path: Path) -> Iterator[None]:
    """Let one process at a time make the tables of a new file."""
    with path.open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _check_setup(study: "Study", name: str, setup: Mapping[str, Any]) -> None:
    known = study.user_attrs.get("setup")
    if known is None:
        study.set_user_attr("setup", dict(setup))
        return
    found = differences(known, setup)
    if found:
        raise IchxError(
            "\n  ".join([f"the study {name} is another one than is asked for:", *found]),
            "ask with all that it was made with, or begin another study of this experiment with --study NAME",
        )


def _log_ahead(path: Path) -> None:
    """Have the file log ahead: a process that is killed while it writes leaves one that can be read right away."""
    with contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


@contextlib.contextmanager
def _held(path: Path, name: str) -> Iterator[None]:
    """Hold a lock that ends with this process, however that ends."""
    with path.open("ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise IchxError(f"another process is tuning {name}", "wait for it, or end it; nothing is lost") from error
        yield


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's own messages to itself, and leave its settings as they were."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
