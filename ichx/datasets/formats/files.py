"""The files of a source as formats see them: names and contents, of a folder or a zip alike."""

import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd

from ichx.ct.defects import DicomDefectError
from ichx.datasets.file_list import FileLocation, list_files
from ichx.errors import CorruptFileError, InvalidInputError, StorageError
from ichx.text import format_examples

LARGEST_TABLE = 1 << 28
"""Bytes of a table."""


class FormatFiles:
    """The files of the source of a dataset."""

    def __init__(self, source: Path, name: str, options: Mapping[str, str] | None = None) -> None:
        """List the files of `source`, which should have the format `name`. Raises like `list_files`.

        `options` are values of the format's options by name.
        """
        self.source = source
        self._options = dict(options or {})
        self._format = name
        files = list_files(source)
        self.names: list[str] = files.names
        """POSIX paths relative to the source, sorted."""
        self._locate: Callable[[int], FileLocation] = files.locate
        self._number = {name: number for number, name in enumerate(self.names)}

    def option(self, name: str) -> str:
        """Return the value of an option of the format."""
        return self._options[name]

    def find(self, pattern: str) -> list[str]:
        """Return the names in which the regular expression `pattern` is found, in any case."""
        search = re.compile(pattern, re.IGNORECASE).search
        return [name for name in self.names if search(name)]

    def require(self, pattern: str, what: str) -> list[str]:
        """Return `find(pattern)`. Raises `InvalidInputError`, which names `what` is missing, if there is none."""
        if found := self.find(pattern):
            return found
        raise self.unlike(f"it has no {what}")

    def one(self, pattern: str, what: str) -> str:
        """Return the only file whose name matches. Raises `InvalidInputError` if there is none or several."""
        found = self.require(pattern, what)
        if len(found) > 1:
            raise self.unlike(f"it has several files {what}{format_examples(found)}")
        return found[0]

    def locate(self, name: str) -> FileLocation:
        """Return where the file is."""
        return self._locate(self._number[name])

    def read(self, name: str) -> bytes:
        """Return the content of a small file. Raises `CorruptFileError` or `StorageError`."""
        location = self.locate(name)
        try:
            with location.open() as handle:
                content = handle.read(LARGEST_TABLE + 1)
        except DicomDefectError as defect:
            raise CorruptFileError(f"Cannot read {location}: {defect.detail}.", "Download it again.") from defect
        except OSError as error:
            raise StorageError(
                f"Cannot read {location}: {error.strerror or error}.", "Check its permissions."
            ) from error
        if len(content) > LARGEST_TABLE:
            raise self.unlike(f"{name} is too large for a table")
        return content

    def table(self, name: str, columns: tuple[str, ...]) -> pd.DataFrame:
        """Return the CSV `name` as texts, empty where a cell is; its names of columns have no outer spaces.

        Raises `InvalidInputError` if it lacks one of `columns` or is no CSV.
        """
        try:
            table = pd.read_csv(io.BytesIO(self.read(name)), dtype=str, keep_default_na=False, encoding="utf-8-sig")
        except (ValueError, pd.errors.ParserError) as error:  # also an empty or a binary file
            raise self.unlike(f"{name} is not a CSV ({error})") from error
        table.columns = [str(column).strip() for column in table.columns]
        if missing := [column for column in columns if column not in table.columns]:
            found = ", ".join(map(str, table.columns))
            raise self.unlike(f"{name} has no column {', '.join(missing)}; its columns are {found}")
        for column in table.columns:
            table[column] = table[column].str.strip()
        return table

    def unlike(self, why: str) -> InvalidInputError:
        """Return the error for a source that does not have the format."""
        return InvalidInputError(
            f"{self.source} does not have the format {self._format}: {why}.",
            "Give the folder or zip of the dataset as it is published; "
            f"`ichx data phantom DIR --layout {self._format}` writes an example.",
        )
