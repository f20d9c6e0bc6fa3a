"""All defects of a catalog: those of DICOM files in `ichx.ct`, and those of zip members."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ichx.ct.dicom import DEFECTS as FILE_DEFECTS
from ichx.datasets.zip_archive import MEMBER_DEFECTS

DEFECTS: Final[Mapping[str, str]] = MappingProxyType(dict(FILE_DEFECTS) | dict(MEMBER_DEFECTS))
"""Defects and their meanings."""
