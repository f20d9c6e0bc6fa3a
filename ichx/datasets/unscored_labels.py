"""Labels that are known for a selection of slices only, by their own value: scores leave them out.

If only `any` was read, subtypes are known where `any` is 0, and are 0 there. A loss over these easy slices alone would
be too good, and that over positive ones alone too bad. Trainings use such labels.
"""

import numpy as np
import pandas as pd

from ichx.datasets.mixture import PART
from ichx.datasets.study_labels import possible_labels
from ichx.labels import ANY, LABELS, UNSCORED

_AT_ANY = LABELS.index(ANY)


def unscored_labels(slices: pd.DataFrame) -> list[str]:
    """Return the labels that are not known for all of `slices`, and that scores leave out.

    These are subtypes that are known only where `any` is 0, and labels that are known only where they are positive.
    """
    labels = possible_labels(slices)
    known, negative = ~np.isnan(labels), labels == 0
    only_positive = ~negative.any(axis=0)
    only_without_any = ~(known & ~negative[:, [_AT_ANY]]).any(axis=0)
    only_without_any[_AT_ANY] = False
    found = known.any(axis=0) & ~known.all(axis=0) & (only_positive | only_without_any)
    return [name for name, unscored in zip(LABELS, found, strict=True) if unscored]


def with_unscored_labels(catalog: pd.DataFrame) -> pd.DataFrame:
    """Return `catalog` with the column `UNSCORED` if a label is left out of scores; of a mixture, by part."""
    good = catalog["defect"].isna().to_numpy(bool)
    by_part = {str(part): " ".join(unscored_labels(rows)) for part, rows in catalog[good].groupby(PART, sort=False)}
    if not any(by_part.values()):
        return catalog
    return catalog.assign(**{UNSCORED: catalog[PART].astype(object).map(by_part).fillna("")})
