"""All reasons for which a file is refused: those of DICOM, of zips, and of a whole dataset."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ichx.ct.dicom import DEFECTS as OF_FILES
from ichx.datasets.zip_archive import MEMBER_DEFECTS

DEFECTS: Final[Mapping[str, str]] = MappingProxyType(dict(OF_FILES) | dict(MEMBER_DEFECTS))
"""Each reason and what it means."""
