"""The workspace: the directory with the store, experiments, datasets and caches. The open project: `ichx.project`.

The workspace is found by walking up from the current directory; `ICHX_WORKSPACE` overrides. Its settings are in
`ichx.toml`.
"""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ichx.errors import CorruptFileError, InvalidInputError, NotFoundError, StorageError, did_you_mean
from ichx.experiment_files import ExperimentFiles
from ichx.files import absolute_path, create_once, read_text
from ichx.text import format_command, parse_json, parse_toml

SETTINGS_FILE = "ichx.toml"
STORE_RECORD: Final = Path("db", "workspace.json")
"""Where in a workspace its `StoreRecord` is."""
SETTINGS = {
    "store": "path of a SQLite file or SQLAlchemy URL of the store; default: db/ichx.db",
    "cache": "directory for HU caches, 80 GB and more for a full dataset; default: cache/",
    "cache_local": "directory on a disk of each machine to which the needed shards are copied; default: none",
    "mlflow": "MLflow server or database that also receives the runs; default: none",
    "tensorboard": "true, or a folder, for TensorBoard files of the runs; default: none",
}
ENGINE_SETTINGS: Final = "engine"
"""Name of the table with the settings of engines; `ichx.jobs.engine_settings` defines its values."""
ENGINE_VARIABLE: Final = "ICHX_ENGINE"
"""Environment variable that overrides the default engine: the command of a job must not submit itself again."""

PATH_SETTINGS = ("cache", "tensorboard")
"""Settings in which `~` and environment variables are replaced."""


@dataclass(frozen=True)
class StoreRecord:
    """What a workspace knows of its store, so that another or an older one is noticed; see `ichx.store.binding`."""

    id: str
    """The id that the store has, too."""
    changes: int
    """Number of changes of the store when it was last used."""
    store: str
    """Its name in messages: a file, or a URL without the password."""

    def to_json(self) -> str:
        """Return the content of the file."""
        return json.dumps({"id": self.id, "changes": self.changes, "store": self.store}) + "\n"


@dataclass(frozen=True)
class Workspace:
    """Paths and settings of a workspace. All paths are absolute."""

    root: Path
    store_url: str
    """URL of the store, or the path of a SQLite file."""
    cache_dir: Path
    mlflow: str | None = None
    tensorboard: Path | None = None
    cache_local: str | None = None
    """The setting as it is written: each machine replaces the environment variables; see `local_cache_dir`."""
    engine: Mapping[str, Any] = field(default_factory=dict)
    """The table `[engine]` of the settings, unchecked."""

    @property
    def experiments_dir(self) -> Path:
        """One folder per experiment, named by its number."""
        return self.root / "experiments"

    @property
    def datasets_dir(self) -> Path:
        """One folder per dataset, with one folder per version."""
        return self.root / "datasets"

    @property
    def jobs_dir(self) -> Path:
        """One folder per submission of jobs to a scheduler."""
        return self.root / "jobs"

    @property
    def trash_dir(self) -> Path:
        """Folders with trained weights that `ichx gc` found and the store does not know."""
        return self.root / "trash"

    @property
    def ensembles_dir(self) -> Path:
        """One folder per ensemble, named by its number."""
        return self.root / "ensembles"

    def local_cache_dir(self) -> Path | None:
        """Return the folder on this machine for copies of caches, if the setting `cache_local` names one.

        Raises:
            InvalidInputError: An environment variable in it is not set on this machine.
        """
        if not self.cache_local:
            return None
        return self.root / _expand(self.cache_local, "cache_local", self.root / SETTINGS_FILE)

    def experiment_dir(self, number: int) -> Path:
        """Return the folder of experiment `number`."""
        return self.experiments_dir / str(number)

    def experiment_files(self, number: int) -> ExperimentFiles:
        """Return the paths of the files of experiment `number`."""
        return ExperimentFiles(self.experiment_dir(number))

    def ensemble_dir(self, number: int) -> Path:
        """Return the folder of ensemble `number`."""
        return self.ensembles_dir / str(number)

    def used_numbers(self, kind: str) -> set[int]:
        """Return the numbers of the folders with files of a `kind`: `experiment` or `ensemble`."""
        folder = self.experiments_dir if kind == "experiment" else self.ensembles_dir
        paths = folder.iterdir() if folder.is_dir() else ()
        return {int(path.name) for path in paths if path.name.isdecimal() and _has_entries(path)}

    def is_used(self, kind: str, number: int) -> bool:
        """Return whether the folder of a `kind` and `number` has files."""
        return _has_entries(self.experiment_dir(number) if kind == "experiment" else self.ensemble_dir(number))

    def store_record(self) -> StoreRecord | None:
        """Return what this workspace knows of its store; None before the first use of a store.

        Raises:
            CorruptFileError: The file is damaged.
            StorageError: It cannot be read.
        """
        path = self.root / STORE_RECORD
        try:
            found: Mapping[str, Any] = parse_json(path.read_bytes())
            return StoreRecord(str(found["id"]), int(found["changes"]), str(found["store"]))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"Cannot read {path}: {error.strerror}.", "Make the file readable.") from error
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise CorruptFileError(
                f"{path} is damaged: {error}.", "Run `ichx store adopt` to write it again."
            ) from error

    def create_store_record(self, record: StoreRecord) -> StoreRecord:
        """Save `record` unless another process has saved one; return the saved one.

        Raises:
            StorageError: The file cannot be written.
        """
        path = self.root / STORE_RECORD
        try:
            create_once(path, record.to_json().encode(), 0o644)
        except OSError as error:
            raise StorageError(f"Cannot write {path}: {error.strerror}.", "Make the workspace writable.") from error
        return self.store_record() or record

    def save_store_record(self, record: StoreRecord) -> None:
        """Save what this workspace knows of its store, atomically.

        Raises:
            StorageError: The file cannot be written.
        """
        from ichx.files import write_text

        write_text(self.root / STORE_RECORD, record.to_json(), "the id of the workspace")

    def privacy_key(self) -> bytes:
        """Return the key for hashes of patient, study and series ids, created on first use. It is never exported."""
        path = self.root / "db" / "privacy.key"
        try:
            return path.read_bytes()
        except FileNotFoundError:
            pass
        import secrets  # only here: importing it takes longer than finding the workspace

        create_once(path, secrets.token_bytes(32), 0o600)
        return path.read_bytes()


def find_workspace(start: Path | None = None) -> Workspace:
    """Return the workspace in `ICHX_WORKSPACE`, or the nearest one at or above `start` (the current directory).

    Raises:
        NotFoundError: There is no workspace.
        InvalidInputError: Its settings are invalid.
    """
    override = os.environ.get("ICHX_WORKSPACE")
    if override:
        root = absolute_path(override)
        if not is_workspace(root):
            raise NotFoundError(
                f"ICHX_WORKSPACE is {root}, which is not a workspace.",
                f"Run {format_command('ichx init', root)} to create it.",
            )
        return open_workspace(root)
    current = absolute_path(start or Path.cwd())
    for root in (current, *current.parents):
        if is_workspace(root):
            return open_workspace(root)
    raise NotFoundError(
        f"No workspace at or above {current}.", "Run `ichx init` to create one here, or set ICHX_WORKSPACE."
    )


def init_workspace(root: Path) -> Workspace:
    """Create a workspace at `root`, if there is none, and return it.

    Raises:
        StorageError: `root` is not writable.
    """
    root = absolute_path(root)
    _check_encoding(root)
    try:
        for name in ("db", "experiments"):
            (root / name).mkdir(parents=True, exist_ok=True)
        settings = root / SETTINGS_FILE
        if not settings.exists():
            lines = [f'# {name} = "..."  # {meaning}' for name, meaning in SETTINGS.items()]
            lines += ["# [engine]  # default engine and settings of Slurm and Ray; see docs/cluster.md"]
            settings.write_text("# Settings of this ichx workspace.\n" + "\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"Cannot create a workspace at {root}: {error.strerror}.", "Choose a writable directory."
        ) from error
    return open_workspace(root)


def open_workspace(root: Path) -> Workspace:
    """Return the workspace at `root` with its settings; `ICHX_STORE` and `ICHX_CACHE_LOCAL` override two of them.

    Raises:
        InvalidInputError: Its settings are invalid.
    """
    _check_encoding(root)
    settings = _read_settings(root / SETTINGS_FILE)
    tensorboard = settings.get("tensorboard", False)
    folder = "tensorboard" if tensorboard is True else tensorboard
    return Workspace(
        root=root,
        store_url=os.environ.get("ICHX_STORE") or settings.get("store") or str(root / "db" / "ichx.db"),
        cache_dir=root / settings.get("cache", "cache"),
        mlflow=settings.get("mlflow") or None,
        tensorboard=root / folder if folder else None,
        cache_local=os.environ.get("ICHX_CACHE_LOCAL", settings.get("cache_local")) or None,
        engine=settings.get(ENGINE_SETTINGS, {}),
    )


def _check_encoding(root: Path) -> None:
    """Raise `InvalidInputError` if `root` has bytes that are not UTF-8: Parquet and SQLite cannot open such paths."""
    try:
        os.fsencode(root).decode("utf-8")
    except UnicodeDecodeError as error:
        shown = os.fsencode(root).decode("utf-8", "backslashreplace")
        raise InvalidInputError(
            f"The path of the workspace, {shown}, is not valid UTF-8 at byte {error.start}.",
            "Rename the folder, or use a workspace elsewhere.",
        ) from error


def _has_entries(folder: Path) -> bool:
    """Return whether `folder` is a folder that is not empty; one that cannot be read counts as such.

    Raises:
        StorageError: The folder above it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except (NotADirectoryError, FileNotFoundError):
        return False
    except OSError as error:
        try:
            folder.lstat()
        except OSError:
            raise StorageError(f"Cannot read {folder.parent}: {error.strerror}.", "Make it readable.") from error
        return True


def is_workspace(root: Path) -> bool:
    """Return whether `root` is the folder of a workspace."""
    return (root / SETTINGS_FILE).is_file() or ((root / "db").is_dir() and (root / "experiments").is_dir())


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        raw: dict[str, Any] = parse_toml(read_text(path))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"Invalid TOML in {path}: {error}.", "Correct the file or remove it.") from error
    for name, value in raw.items():
        if name == ENGINE_SETTINGS and isinstance(value, dict):
            continue
        if name not in SETTINGS:
            known = [*SETTINGS, ENGINE_SETTINGS]
            hint = did_you_mean(name, known)
            raise InvalidInputError(f"Unknown setting {name!r} in {path}.", f"{hint}Settings: {', '.join(known)}.")
        if not isinstance(value, str) and not (name == "tensorboard" and isinstance(value, bool)):
            raise InvalidInputError(
                f"Invalid value for `{name}` in {path}: {value!r}.", f"Use a string in quotes: {SETTINGS[name]}."
            )
        if isinstance(value, str) and name in PATH_SETTINGS:
            raw[name] = _expand(value, name, path)
    return raw


def _expand(text: str, name: str, file: Path) -> str:
    """Return the path `text` with `~` and environment variables replaced. Raises `InvalidInputError`."""
    expanded = os.path.expandvars(text)
    if missing := re.search(r"\$(\w+|\{\w+\})", expanded):
        problem = f"{missing[0]}, in the value of `{name}` in {file}, is not set: {text!r}."
        raise InvalidInputError(problem, "Set the variable, or write the path out.")
    return str(absolute_path(expanded)) if expanded.startswith("~") else expanded
