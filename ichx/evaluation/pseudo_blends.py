"""The blends of an ensemble behind its pseudo-labels: for each fold, one that was fitted without that fold.

The stored blend of an ensemble was fitted to the labels of all folds. Fitted without fold k, on the members' OOF
predictions of the other folds, it knows nothing of the patients that fold k validates on.
"""

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from ichx.errors import ChangedDataError, CorruptFileError
from ichx.evaluation.ensemble import blend_data
from ichx.evaluation.ensemble_file import EnsembleModel, decode, encode
from ichx.evaluation.nested_score import BlendData, BlendPipeline, FittedBlend
from ichx.evaluation.oof import read_oof
from ichx.files import atomic_write, sha256_file, write_text
from ichx.text import parse_json

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Experiment

BLENDS_FILE: Final = "blends.json"
ARRAYS_FILE: Final = "blends.npz"

_RESTORE: Final = "Restore the file from a backup, or create the labels again with `ichx data pseudo`."


def blends_without_each_fold(
    project: "Project", model: EnsembleModel, experiments: "dict[int, Experiment]", note: Callable[[str], None]
) -> dict[int, FittedBlend]:
    """Return a blend for each fold of an ensemble, fitted to the OOF predictions of its other folds.

    Args:
        project: The open project.
        model: The stored model: its options apply, and its members with a weight are the candidates.
        experiments: These members, numbered from 0; the blends refer to them by these numbers.
        note: Receives the progress.
    """
    members = list(experiments.values())
    version = project.store.version_by_id(members[0].version_id)
    tables = [read_oof(project, e, model.tta, model.folds, average=model.average) for e in members]
    data = blend_data(project.workspace, version, members, tables)
    blends = {}
    for fold in model.folds:
        note(f"fits the blend without fold {fold}, whose patients its labels must not know")
        rows = np.flatnonzero(data.folds != fold)
        others = BlendData(
            tuple(p[rows] for p in data.members),
            data.labels[rows],
            data.neighbours.take(rows),
            data.patients[rows],
            data.folds[rows],
        )
        blends[fold] = BlendPipeline(others, replace(model.options, top=None)).fit()
    return blends


def write_blends(folder: Path, blends: dict[int, FittedBlend]) -> None:
    """Write the blends to the folder of a version. Raises `StorageError`."""
    arrays: list[npt.NDArray[Any]] = []
    tree = encode(blends, arrays)
    with atomic_write(folder / ARRAYS_FILE, "the blends") as draft:
        named: dict[str, Any] = {f"a{at}": array for at, array in enumerate(arrays)}
        np.savez(draft, **named)
        digest = sha256_file(draft)
    write_text(folder / BLENDS_FILE, json.dumps({"arrays": digest, "blends": tree}, allow_nan=False), "the blends")


def read_blends(folder: Path) -> dict[int, FittedBlend] | None:
    """Return the blends in the folder of a version; None if it has none, as its labels are by one experiment.

    Raises:
        ChangedDataError: The files do not belong together.
        CorruptFileError: They are invalid.
    """
    path = folder / BLENDS_FILE
    try:
        document = parse_json(path.read_bytes())
        if sha256_file(folder / ARRAYS_FILE) != document["arrays"]:
            raise ChangedDataError(f"{folder / ARRAYS_FILE} was changed.", _RESTORE)
        with zipfile.ZipFile(folder / ARRAYS_FILE) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("its arrays are compressed")  # could expand to any size
        with np.load(folder / ARRAYS_FILE, allow_pickle=False) as opened:
            blends: dict[int, FittedBlend] = decode(document["blends"], dict(opened))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, zipfile.BadZipFile) as error:
        raise CorruptFileError(f"{path} is invalid: {type(error).__name__} {error}.", _RESTORE) from error
    return blends
