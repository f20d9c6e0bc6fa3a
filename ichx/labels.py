"""The six labels of a slice, their order and their weights in the score."""

from typing import Final

SUBTYPES: Final = ("epidural", "intraparenchymal", "intraventricular", "subarachnoid", "subdural")
"""The five hemorrhage subtypes, in the order that every array, file and table of ichx uses."""

ANY: Final = "any"
"""The sixth label: the maximum of the five subtypes."""

LABELS: Final = (*SUBTYPES, ANY)
"""The label axis of every `(N, 6)` array."""

LABEL_WEIGHTS: Final = (1.0, 1.0, 1.0, 1.0, 1.0, 2.0)
"""Weights of the RSNA 2019 score, `any` counting double; their sum, 7, is its divisor."""

UNKNOWN_MASK: Final = 255
"""Value of every pixel of the mask of a slice for which none was drawn."""

STUDY_LABELS: Final = tuple(f"study_{name}" for name in LABELS)
"""Columns of a slice's study labels, in datasets with labels of studies or series; see `ichx.datasets.study_labels`."""

UNSCORED: Final = "unscored"
"""Column of slices: the labels, separated by spaces, that scores leave out; see `ichx.datasets.unscored_labels`."""
LABEL_GROUP: Final = "label_group"
"""Column of the study or series that a slice's study labels describe; empty without any."""

PSEUDO: Final = "pseudo"
"""Key of a version's summary with the origin of its pseudo-labels, see `ichx.evaluation.pseudo_labels`."""
