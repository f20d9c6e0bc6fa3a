"""Storing a new version of a dataset: its name, its folder and its row in the store, both or neither."""

import dataclasses
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pandas as pd

from ichx.datasets.dataset import SAMPLE_FILE
from ichx.datasets.summary import format_defects
from ichx.errors import InvalidInputError
from ichx.files import write_error
from ichx.store import DatasetVersion, VersionDraft
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.project import Project

NAME_REMEDY: Final = "Use 1 to 100 letters, digits, '-', '_' and '.'; the first is not '-' or '.'."


def store_version(
    project: "Project", draft: VersionDraft, number: int, write: Callable[[Path], None]
) -> DatasetVersion:
    """Create the folder of a version and its row in the store; if one fails, neither remains.

    Args:
        project: Workspace and store.
        draft: The row, without `path` and `sample`.
        number: The version's expected number, which names the folder.
        write: Writes the version's files to the folder.

    Raises:
        StorageError: The folder cannot be written.
    """
    wanted = project.workspace.datasets_dir / draft.dataset / f"v{number}"
    unfinished = wanted.with_name(f".{wanted.name}.{secrets.token_hex(4)}")
    try:
        unfinished.mkdir(parents=True)
        write(unfinished)
        # The name is taken if a killed process left the folder, or another one adds the same dataset now.
        folder = wanted.with_name(f"{wanted.name}-{secrets.token_hex(4)}") if wanted.exists() else wanted
        unfinished.rename(folder)
    except OSError as error:
        raise write_error(wanted, "the dataset", error) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    path = folder.relative_to(project.workspace.root).as_posix()
    sample = f"{path}/{SAMPLE_FILE}" if (folder / SAMPLE_FILE).exists() else None
    try:
        return project.store.add_version(dataclasses.replace(draft, path=path, sample=sample))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def require_usable_slices(source: Path, catalog: pd.DataFrame) -> None:
    """Raise `InvalidInputError` with the defects of `catalog`, the files of `source`, if no slice is usable."""
    if catalog["defect"].isna().any():
        return
    reasons = catalog["defect"].value_counts()
    files = format_count(len(catalog), "file")
    if set(reasons.index) == {"not_dicom"}:
        raise InvalidInputError(f"None of {files} in {source} is DICOM or NIfTI.", "Give the folder with these files.")
    explained = catalog.loc[catalog["detail"] != "", ["file", "detail"]]
    example = "" if explained.empty else f" {explained['file'].iloc[0]}: {explained['detail'].iloc[0]}."
    raise InvalidInputError(
        f"No usable CT slice in {source}: {files} with defects, {format_defects(catalog)}.{example}",
        "Give a folder with CT slices.",
    )


def check_name(name: str, what: str, remedy: str = NAME_REMEDY) -> None:
    """Raise `InvalidInputError` if `name` cannot be the name of a dataset or of folds (`what`)."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
        raise InvalidInputError(f"Invalid name of {what}: {name!r}.", remedy)
