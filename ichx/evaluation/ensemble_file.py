"""The stored model of an ensemble: `model.json` and `model.npz` in its folder, read back to the same bits.

A model is a tree of frozen dataclasses, tuples, dicts, NumPy arrays and plain values. The classes are those of
`STORED_TYPES` and no others, so a file cannot contain code. The arrays are in the npz file, whose digest is in the JSON
file, whose digest is in the store.
"""

import dataclasses
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from ichx import __version__
from ichx.errors import ChangedDataError, CorruptFileError, InvalidInputError, NotReadyError, UnsupportedError
from ichx.evaluation.blend_methods import LinearPool, LogitPool, RankPool, Stack
from ichx.evaluation.blend_record import BlendChoice, BlendRecord, LabelLoss, Submission
from ichx.evaluation.bootstrap import Interval
from ichx.evaluation.calibration import Bounds, Consistent, Isotonic, Temperatures
from ichx.evaluation.choices import Average, Tta, check_average, check_tta
from ichx.evaluation.metric import FloatArray
from ichx.evaluation.nested_score import Alternative, BlendOptions, FittedBlend
from ichx.evaluation.selecting_folds import SelectedMember
from ichx.evaluation.series_neighbours import SeriesNeighbours
from ichx.evaluation.smoothing import Kernels
from ichx.files import atomic_write, sha256_file, write_text
from ichx.labels import LABELS
from ichx.text import parse_json

if TYPE_CHECKING:
    from ichx.store import Ensemble
    from ichx.workspace import Workspace

FORMAT: Final = 1
"""Version of the format. Increase it when an older ichx would misread a file."""
MODEL_FILE: Final = "model.json"
ARRAYS_FILE: Final = "model.npz"

_INVALID = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    zipfile.BadZipFile,
    EOFError,
    InvalidInputError,
)
_TYPE, _ARRAY, _DICT, _FLOAT = "$type", "$array", "$dict", "$float"


@dataclass(frozen=True)
class ModelMember:
    """An experiment of an ensemble, as it was when the ensemble was blended."""

    experiment: int
    name: str
    id: str
    """By which it is recognized, see `ichx.evaluation.member_outputs.member_id`."""
    weights: dict[int, str | None]
    """SHA-256 of each blended fold's weights, None if it had no file; empty if the experiment has no weight."""
    predictions: dict[str, str]
    """SHA-256 of the OOF prediction files that were blended, by `FOLD/VIEW`."""
    members: "tuple[ModelMember, ...]" = ()
    """The experiments that it reads, if it is a sequence experiment."""


@dataclass(frozen=True)
class EnsembleModel:
    """Everything that an ensemble needs to predict, and what it was made of."""

    dataset: str
    dataset_version: int
    dataset_digest: str
    """Digest of the catalog."""
    label_digest: str
    fold_digest: str
    folds: tuple[int, ...]
    """The folds that were blended, of `k`."""
    k: int
    tta: Tta
    options: BlendOptions
    """What the blend was chosen from."""
    members: tuple[ModelMember, ...]
    """The candidates; `fitted` refers to them by their place."""
    fitted: FittedBlend
    prevalence: FloatArray
    """Means of the training labels, `(6,)`: predictions of images without a slice."""
    oof_digest: str
    """SHA-256 of the OOF file."""
    record: BlendRecord
    average: Average = "logit"
    """What is averaged over views and folds: `logit` or `probability`."""
    ichx: str = __version__
    """The version that made it."""

    @property
    def used(self) -> tuple[ModelMember, ...]:
        """The members with a weight."""
        return tuple(self.members[k] for k in self.fitted.pool.members)


STORED_TYPES: Final[Mapping[str, type]] = {
    cls.__name__: cls
    for cls in (
        EnsembleModel,
        ModelMember,
        FittedBlend,
        BlendOptions,
        Alternative,
        LinearPool,
        LogitPool,
        RankPool,
        Stack,
        Kernels,
        Temperatures,
        Isotonic,
        Consistent,
        Bounds,
        BlendRecord,
        BlendChoice,
        LabelLoss,
        Submission,
        SelectedMember,
        Interval,
    )
}
"""All classes of a stored model. Register a class here that may occur in a `FittedBlend`."""


def write_model(folder: Path, model: EnsembleModel) -> str:
    """Write `model` to `folder`; return the SHA-256 of its JSON file. Raises `StorageError`."""
    arrays: list[npt.NDArray[Any]] = []
    tree = encode(model, arrays)
    with atomic_write(folder / ARRAYS_FILE, "the ensemble") as draft:
        named: dict[str, Any] = {f"a{at}": array for at, array in enumerate(arrays)}
        np.savez(draft, **named)
        digest = sha256_file(draft)
    document = {"format": FORMAT, "ichx": model.ichx, "arrays": digest, "model": tree}
    write_text(folder / MODEL_FILE, json.dumps(document, indent=1, allow_nan=False) + "\n", "the ensemble")
    return sha256_file(folder / MODEL_FILE)


def read_model(workspace: "Workspace", ensemble: "Ensemble") -> EnsembleModel:
    """Return the stored model of `ensemble`.

    Raises:
        NotReadyError: It was made by a version of ichx that stored no model.
        ChangedDataError: A file is missing or differs from its record.
        UnsupportedError: The format is that of another version of ichx.
        CorruptFileError: The files are invalid.
    """
    again = blend_again(ensemble)
    if ensemble.digest is None:
        raise NotReadyError(f"Ensemble {ensemble.number} has no stored model: an older ichx made it.", again)
    return load_model(workspace.ensemble_dir(ensemble.number), ensemble.digest, again)


def load_model(folder: Path, digest: str, remedy: str) -> EnsembleModel:
    """Return the model in `folder`, whose JSON file has the SHA-256 `digest`; raises like `read_model`.

    Args:
        folder: The folder of the files.
        digest: SHA-256 of the JSON file.
        remedy: What to do about a missing or changed file.
    """
    path, version = folder / MODEL_FILE, __version__
    _check_digest(path, digest, remedy)
    try:
        document = parse_json(path.read_bytes())
        found, version = document["format"], str(document["ichx"])
        if found != FORMAT:
            raise UnsupportedError(
                f"{path} has format {found!r} of ichx {version}, which ichx {__version__} does not read.",
                f"Use ichx {version}.",
            )
        _check_digest(folder / ARRAYS_FILE, str(document["arrays"]), remedy)
        model = decode(document["model"], _read_arrays(folder / ARRAYS_FILE))
        if not isinstance(model, EnsembleModel):
            raise ValueError(f"it contains {type(model).__name__}")
        _try(model)
    except _INVALID as error:
        if version != __version__:  # e.g. a step that only that version has
            raise UnsupportedError(
                f"{path} was written by ichx {version}, and ichx {__version__} cannot read it: "
                f"{type(error).__name__} {error}.",
                f"Use ichx {version}.",
            ) from error
        raise CorruptFileError(f"{path} is invalid: {type(error).__name__} {error}.", remedy) from error
    return model


def blend_again(ensemble: "Ensemble") -> str:
    """Return the remedy for an ensemble that cannot be used: the command that blends its members again."""
    members = ",".join(str(number) for number in sorted(m.experiment for m in ensemble.members))
    return f"Blend again: `ichx ensemble --members {members} --tta {ensemble.tta}`."


def encode(value: Any, arrays: list[npt.NDArray[Any]]) -> Any:
    """Return a tree as JSON values; its arrays are appended to `arrays`. Raises `TypeError` for another class."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, np.generic):
        return encode(value.item(), arrays)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else {_FLOAT: repr(value)}
    if isinstance(value, tuple):
        return [encode(item, arrays) for item in value]
    if isinstance(value, dict):
        return {_DICT: [[encode(key, arrays), encode(item, arrays)] for key, item in value.items()]}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        arrays.append(value)
        return {_ARRAY: f"a{len(arrays) - 1}"}
    name = type(value).__name__
    if STORED_TYPES.get(name) is type(value):
        fields = [field.name for field in dataclasses.fields(STORED_TYPES[name])]
        return {_TYPE: name, **{field: encode(getattr(value, field), arrays) for field in fields}}
    raise TypeError(f"{name} is not in STORED_TYPES")


def decode(value: Any, arrays: Mapping[str, npt.NDArray[Any]]) -> Any:
    """Return the tree that `encode` made into `value`. Raises `ValueError` and the like for an invalid one."""
    if isinstance(value, list):
        return tuple(decode(item, arrays) for item in value)
    if not isinstance(value, dict):
        return value
    if _ARRAY in value:
        return arrays[value[_ARRAY]]
    if _FLOAT in value:
        return float(value[_FLOAT])
    if _DICT in value:
        return {decode(key, arrays): decode(item, arrays) for key, item in value[_DICT]}
    values = dict(value)
    return STORED_TYPES[values.pop(_TYPE)](**{name: decode(item, arrays) for name, item in values.items()})


def _check_digest(path: Path, digest: str, remedy: str) -> None:
    try:
        found = sha256_file(path)
    except OSError as error:
        raise ChangedDataError(f"{path} cannot be read: {error.strerror}.", remedy) from error
    if found != digest:
        raise ChangedDataError(f"{path} was changed: SHA-256 {found[:12]}..., recorded {digest[:12]}....", remedy)


def _read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("its arrays are compressed")  # could expand to any size
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def _try(model: EnsembleModel) -> None:
    """Predict two slices with `model`. Raises `ValueError` and the like if its values or shapes are invalid."""
    if len(model.members) <= max(model.fitted.pool.members) or min(model.fitted.pool.members) < 0 or not model.folds:
        raise ValueError("it refers to members that it does not have")
    check_tta(model.tta)
    check_average(model.average)
    half = np.full((2, len(LABELS)), 0.5)
    neighbours = SeriesNeighbours(np.zeros(2, np.int64), np.arange(2))
    predicted = model.fitted.apply(dict.fromkeys(model.fitted.pool.members, half), neighbours)
    if predicted.shape != half.shape or model.prevalence.shape != (len(LABELS),) or not (abs(predicted) <= 1).all():
        raise ValueError("it does not predict a probability for each label")
