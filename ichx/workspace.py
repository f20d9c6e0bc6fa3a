"""The workspace: the directory that holds the store, the experiment folders, datasets and caches.

It is found by walking up from the current directory; `ICHX_WORKSPACE` overrides. Settings stand in `ichx.toml`.
"""

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ichx.errors import IchxError, did_you_mean
from ichx.experiment_files import ExperimentFiles

SETTINGS_FILE = "ichx.toml"
SETTINGS = {
    "store": "SQLAlchemy URL of the store; default: db/ichx.db (SQLite)",
    "cache": "directory for HU caches, 80 GB and more for a full dataset; default: cache/",
    "mlflow": "MLflow server or database that runs are sent to, too; default: none",
    "tensorboard": "true, or a folder, for TensorBoard files of runs; default: none",
}


@dataclass(frozen=True)
class Workspace:
    """Where everything of one user's work lies. All paths are absolute."""

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
        """Return the key that patient, study and series ids are hashed with, made on first use and never exported."""
        path = self.root / "db" / "privacy.key"
        try:
            return path.read_bytes()
        except FileNotFoundError:
            pass
        import secrets  # imported for this one time: it takes longer than finding the workspace

        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as handle:
            handle.write(secrets.token_bytes(32))
        try:
            os.link(draft, path)  # the first process wins; a second one reads its key
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        return path.read_bytes()


def find_workspace(start: Path | None = None) -> Workspace:
    """Return the workspace of `ICHX_WORKSPACE`, or the nearest one at or above `start` (the current directory).

    Raises `IchxError` where there is none.
    """
    override = os.environ.get("ICHX_WORKSPACE")
    if override:
        root = Path(override).expanduser().resolve()
        if not _is_workspace(root):
            raise IchxError(f"ICHX_WORKSPACE names {root}, which is no workspace", f"run `ichx init {root}` first")
        return open_workspace(root)
    here = (start or Path.cwd()).resolve()
    for root in (here, *here.parents):
        if _is_workspace(root):
            return open_workspace(root)
    raise IchxError(f"no workspace at {here} or above it", "run `ichx init` to make one here, or set ICHX_WORKSPACE")


def init_workspace(root: Path) -> Workspace:
    """Make `root` a workspace (harmless where it is one already) and return it."""
    root = root.expanduser().resolve()
    try:
        for name in ("db", "experiments"):
            (root / name).mkdir(parents=True, exist_ok=True)
        settings = root / SETTINGS_FILE
        if not settings.exists():
            lines = [f'# {name} = "..."  # {meaning}' for name, meaning in SETTINGS.items()]
            settings.write_text("# Settings of this ichx workspace.\n" + "\n".join(lines) + "\n", encoding="utf-8")
    except OSError as error:
        raise IchxError(
            f"cannot make a workspace at {root}: {error.strerror}", "choose a writable directory"
        ) from error
    return open_workspace(root)


def open_workspace(root: Path) -> Workspace:
    """Return the workspace at `root` with its settings; `ICHX_STORE` overrides the store's URL."""
    settings = _read_settings(root / SETTINGS_FILE)
    store = os.environ.get("ICHX_STORE") or settings.get("store") or f"sqlite:///{root / 'db' / 'ichx.db'}"
    cache = root / Path(settings.get("cache", "cache")).expanduser()
    board = settings.get("tensorboard", False)
    folder = "tensorboard" if board is True else board
    return Workspace(
        root=root,
        store_url=store,
        cache_dir=cache,
        mlflow=settings.get("mlflow") or None,
        tensorboard=root / Path(folder).expanduser() if folder else None,
    )


def _is_workspace(root: Path) -> bool:
    return (root / SETTINGS_FILE).is_file() or ((root / "db").is_dir() and (root / "experiments").is_dir())


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        raw: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise IchxError(f"{path} is not valid TOML: {error}", "mend the file or remove it") from error
    for name, value in raw.items():
        if name not in SETTINGS:
            hint = did_you_mean(name, list(SETTINGS))
            raise IchxError(f"{path} sets {name!r}, which is no setting", f"{hint}settings are: {', '.join(SETTINGS)}")
        if not isinstance(value, str) and not (name == "tensorboard" and isinstance(value, bool)):
            raise IchxError(f"{path}: {name} must be a text in quotes", f"it is the {SETTINGS[name]}")
    return raw
