"""What a version of a test set records of its sample submission."""

import hashlib
from typing import Any

from ichx.datasets.id_matching import IdMatch
from ichx.datasets.label_csv import SampleTable


def sample_counts(sample: SampleTable, match: IdMatch, slices: int) -> dict[str, Any]:
    """Return what the summary of a version records of a sample submission, given the number of usable slices."""
    return {
        "ids": len(sample.ids),
        "images": len(sample.images),
        "by": match.by,
        "digest": hashlib.sha256("\n".join(sample.ids).encode()).hexdigest()[:16],
        "absent": match.absent,
        "defective": match.defective,
        "not_asked": slices - int((match.image >= 0).sum()),
    }
