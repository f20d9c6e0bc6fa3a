"""The workspace: the directory with the store, experiments, datasets and caches. The open project: `ichx.project`.

The workspace is found by walking up from the current directory; `ICHX_WORKSPACE` overrides. Its settings are in
`ichx.toml`.
"""

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ichx.errors import InvalidInputError, NotFoundError, StorageError, did_you_mean
from ichx.experiment_files import ExperimentFiles
from ichx.files import read_text
from ichx.locks import file_lock

SETTINGS_FILE = "ichx.toml"
SETTINGS = {
    "store": "SQLAlchemy URL of the store; default: db/ichx.db (SQLite)",
    "cache": "directory for HU caches, 80 GB and more for a full dataset; default: cache/",
    "mlflow": "MLflow server or database that also receives the runs; default: none",
    "tensorboard": "true, or a folder, for TensorBoard files of the runs; default: none",
}


@dataclass(frozen=True)
class Workspace:
    """Paths and settings of a workspace. All paths are absolute."""

    root: Path
    store_url: str
    cache_dir: Path
    mlflow: str | None = None
    tensorboard: Path | None = None

    @property
    def experiments_dir(self) -> Path:
        """One folder per experiment, named by its number."""
        return self.root / "experiments"

    @property
    def datasets_dir(self) -> Path:
        """One folder per dataset, with one folder per version."""
        return self.root / "datasets"

    @property
    def ensembles_dir(self) -> Path:
        """One folder per ensemble, named by its number."""
        return self.root / "ensembles"

    def experiment_dir(self, number: int) -> Path:
        """Return the folder of experiment `number`."""
        return self.experiments_dir / str(number)

    def experiment_files(self, number: int) -> ExperimentFiles:
        """Return the paths of the files of experiment `number`."""
        return ExperimentFiles(self.experiment_dir(number))

    def ensemble_dir(self, number: int) -> Path:
        """Return the folder of ensemble `number`."""
        return self.ensembles_dir / str(number)

    def privacy_key(self) -> bytes:
        """Return the key for hashes of patient, study and series ids, created on first use. It is never exported."""
        path = self.root / "db" / "privacy.key"
        try:
            return path.read_bytes()
        except FileNotFoundError:
            pass
        import secrets  # only here: importing it takes longer than finding the workspace

        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
            handle.write(secrets.token_bytes(32))
        try:
            os.link(draft, path)  # fails if another process was faster: then its key is used
        except FileExistsError:
            pass
        except OSError:  # exFAT, SMB and others have no hard links
            with file_lock(path.with_name("privacy.lock")):
                if not path.exists():
                    draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        return path.read_bytes()


def find_workspace(start: Path | None = None) -> Workspace:
    """Return the workspace in `ICHX_WORKSPACE`, or the nearest one at or above `start` (the current directory).

    Raises:
        NotFoundError: There is no workspace.
        InvalidInputError: Its settings are invalid.
    """
    override = os.environ.get("ICHX_WORKSPACE")
    if override:
        root = Path(override).expanduser().resolve()
        if not _is_workspace(root):
            raise NotFoundError(
                f"ICHX_WORKSPACE is {root}, which is not a workspace.", f"Run `ichx init {root}` to create it."
            )
        return open_workspace(root)
    current = (start or Path.cwd()).resolve()
    for root in (current, *current.parents):
        if _is_workspace(root):
            return open_workspace(root)
    raise NotFoundError(
        f"No workspace at or above {current}.", "Run `ichx init` to create one here, or set ICHX_WORKSPACE."
    )


def init_workspace(root: Path) -> Workspace:
    """Create a workspace at `root`, if there is none, and return it.

    Raises:
        StorageError: `root` is not writable.
    """
    root = root.expanduser().resolve()
    try:
        for name in ("db", "experiments"):
            (root / name).mkdir(parents=True, exist_ok=True)
        settings = root / SETTINGS_FILE
        if not settings.exists():
            lines = [f'# {name} = "..."  # {meaning}' for name, meaning in SETTINGS.items()]
            settings.write_text("# Settings of this ichx workspace.\n" + "\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise StorageError(
            f"Cannot create a workspace at {root}: {error.strerror}.", "Choose a writable directory."
        ) from error
    return open_workspace(root)


def open_workspace(root: Path) -> Workspace:
    """Return the workspace at `root` with its settings; `ICHX_STORE` overrides the URL of the store.

    Raises:
        InvalidInputError: Its settings are invalid.
    """
    settings = _read_settings(root / SETTINGS_FILE)
    tensorboard = settings.get("tensorboard", False)
    folder = "tensorboard" if tensorboard is True else tensorboard
    return Workspace(
        root=root,
        store_url=os.environ.get("ICHX_STORE") or settings.get("store") or f"sqlite:///{root / 'db' / 'ichx.db'}",
        cache_dir=root / Path(settings.get("cache", "cache")).expanduser(),
        mlflow=settings.get("mlflow") or None,
        tensorboard=root / Path(folder).expanduser() if folder else None,
    )


def _is_workspace(root: Path) -> bool:
    return (root / SETTINGS_FILE).is_file() or ((root / "db").is_dir() and (root / "experiments").is_dir())


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        raw: dict[str, Any] = tomllib.loads(read_text(path))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"Invalid TOML in {path}: {error}.", "Correct the file or remove it.") from error
    for name, value in raw.items():
        if name not in SETTINGS:
            hint = did_you_mean(name, list(SETTINGS))
            raise InvalidInputError(f"Unknown setting {name!r} in {path}.", f"{hint}Settings: {', '.join(SETTINGS)}.")
        if not isinstance(value, str) and not (name == "tensorboard" and isinstance(value, bool)):
            raise InvalidInputError(
                f"Invalid value for `{name}` in {path}: {value!r}.", f"Use a string in quotes: {SETTINGS[name]}."
            )
    return raw
