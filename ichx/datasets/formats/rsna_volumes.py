"""Names of the volumes that were made from studies of RSNA 2019: PatientID and StudyInstanceUID."""

import re
from typing import Final

from ichx.datasets.formats.contract import FileIds

STUDY: Final = r"ID_[0-9a-f]{8}_ID_[0-9a-f]{10}"
"""Regular expression of a name."""

RSNA_NOTE: Final = (
    "Volumes are studies of RSNA 2019 under its ids: do not evaluate models that were trained on RSNA on them."
)


def rsna_ids(volume: str) -> FileIds:
    """Return the ids in the name of a volume."""
    patient, study = re.findall(r"ID_[0-9a-f]+", volume)
    return FileIds(volume=volume, patient=patient, study=study)


def rsna_name(seed: int, number: int) -> str:
    """Return the name of a synthetic study."""
    patient = (0x9E3779B1 * (number + 1) + seed) % (1 << 32)
    study = (0x9E3779B97F4A7C15 * (number + 1) + seed) % (1 << 40)
    return f"ID_{patient:08x}_ID_{study:010x}"
