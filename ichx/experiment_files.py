"""Names of the files in an experiment's folder. Their contents are described where they are written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ichx.errors import CorruptFileError
from ichx.text import parse_json

START_FILE: Final = "start.json"
"""The weights that all folds of the experiment start from."""
RECORD_FILE: Final = "experiment.json"
"""What the folder contains, from which the store can be rebuilt."""
THRESHOLDS_FILE: Final = "thresholds.json"
RECALIBRATIONS_FILE: Final = "recalibrations.json"
"""Stored operating points of an experiment or ensemble."""
REPORT_FILE: Final = "report.html"
WEIGHTS_FILE: Final = "weights.safetensors"
LOG_FILE: Final = "run.log"
CODE_DIFF_FILE: Final = "code.diff"
"""Uncommitted changes of the code that trained the fold."""
NOT_FINITE_FILE: Final = "nonfinite.json"
"""The step and the slices at which the fold's training diverged."""
FEATURES_FOLDER: Final = "features"
INPUTS_FILE: Final = "inputs.json"
CHECKPOINT_PREFIX: Final = "checkpoint-"
CHECKPOINT_PATTERN: Final = f"{CHECKPOINT_PREFIX}*.pt"
_FOLD_PREFIX: Final = "fold-"


def checkpoint_name(stage: int, epoch: int, batch: int) -> str:
    """Return the file name of a checkpoint in the folder of its fold."""
    return f"{CHECKPOINT_PREFIX}{stage:03d}-{epoch:05d}-{batch:09d}.pt"


@dataclass(frozen=True)
class FoldFiles:
    """The files of one fold of an experiment."""

    folder: Path

    @property
    def weights(self) -> Path:
        """Final parameters of the network."""
        return self.folder / WEIGHTS_FILE

    @property
    def log(self) -> Path:
        """Log of all runs of the fold."""
        return self.folder / LOG_FILE

    @property
    def code_diff(self) -> Path:
        """Uncommitted changes of the code that the latest run used."""
        return self.folder / CODE_DIFF_FILE

    @property
    def not_finite(self) -> Path:
        """Where the training diverged."""
        return self.folder / NOT_FINITE_FILE

    @property
    def inputs(self) -> Path:
        """What the fold of a sequence experiment has read of its members."""
        return self.folder / INPUTS_FILE

    def predictions(self, role: str, view: str, dataset: str | None = None, version: int | None = None) -> Path:
        """Return the prediction file of one view.

        Args:
            role: `oof`, `test` or `evaluation`.
            view: A name of `ichx.views`.
            dataset: Name of the predicted dataset; None for `oof`.
            version: Its version number; None for `oof`.
        """
        name = role if dataset is None else f"{role}-{dataset}-v{version}"
        return self.folder / f"{name}-{view}.parquet"


@dataclass(frozen=True)
class ExperimentFiles:
    """The files of one experiment."""

    folder: Path

    @property
    def start(self) -> Path:
        """The weights that all folds start from."""
        return self.folder / START_FILE

    @property
    def record(self) -> Path:
        """The id of the experiment, and everything recorded about it."""
        return self.folder / RECORD_FILE

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / REPORT_FILE

    @property
    def thresholds(self) -> Path:
        """The stored operating points."""
        return self.folder / THRESHOLDS_FILE

    @property
    def recalibrations(self) -> Path:
        """Recalibrations on local samples."""
        return self.folder / RECALIBRATIONS_FILE

    @property
    def features_folder(self) -> Path:
        """The feature tables of the experiment."""
        return self.folder / FEATURES_FOLDER

    def features(self, fold: int, view: str, dataset: str, version: int) -> Path:
        """Return the feature table of a fold's network for a dataset version in one view."""
        return self.features_folder / f"fold-{fold}-{dataset}-v{version}-{view}.npy"

    def export(self, suffix: str) -> Path:
        """Return the default path of a model exported with this `suffix`."""
        return self.folder / "export" / f"experiment-{self.folder.name}{suffix}"

    def fold(self, number: int) -> FoldFiles:
        """Return the files of fold `number`."""
        return FoldFiles(self.folder / f"{_FOLD_PREFIX}{number}")

    def existing_folds(self) -> dict[int, FoldFiles]:
        """Return the files of every fold that has a folder, by fold number."""
        numbers = (path.name.removeprefix(_FOLD_PREFIX) for path in self.folder.glob(f"{_FOLD_PREFIX}*"))
        return {fold: self.fold(fold) for fold in sorted(int(number) for number in numbers if number.isdecimal())}

    def has_training(self) -> bool:
        """Return whether a fold has weights, checkpoints or predictions."""
        return any(
            path.suffix in (".safetensors", ".pt", ".parquet")
            for fold in self.existing_folds().values()
            for path in fold.folder.iterdir()
        )

    def sizes(self) -> dict[str, int]:
        """Return the sizes of all files in bytes by relative path, with equal files of all folds added up."""
        found: dict[str, int] = {}
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                name = path.relative_to(self.folder).as_posix()
                if name.startswith(_FOLD_PREFIX):
                    inner = name.partition("/")[2]
                    name = f"fold-*/{CHECKPOINT_PATTERN if inner.startswith(CHECKPOINT_PREFIX) else inner}"
                found[name] = found.get(name, 0) + path.stat().st_size
        return found


def read_start(path: Path) -> dict[str, str] | None:
    """Return `kind`, `path` and `sha256` of the start weights in `start.json`; None if there is no such file.

    Raises:
        CorruptFileError: It is damaged.
    """
    try:
        found = parse_json(path.read_bytes())
        return {name: str(found[name]) for name in ("kind", "path", "sha256")}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(
            f"{path} is damaged: {error}.",
            'Restore it from a backup or, if the folds started from random weights, write {"kind": "random", '
            '"path": "", "sha256": ""} into it.',
        ) from error
