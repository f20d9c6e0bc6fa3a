"""Views of a slice, and the test-time augmentations that average their probabilities."""

from typing import Final, Literal

from ichx.errors import check_choice

VIEWS: Final = ("identity", "hflip")
"""The views that every fold predicts."""

Tta = Literal["none", "hflip"]
"""A test-time augmentation."""

TTA_VIEWS: Final[dict[Tta, tuple[str, ...]]] = {"none": ("identity",), "hflip": VIEWS}
"""The views that each test-time augmentation averages."""


def check_tta(tta: str) -> Tta:
    """Return `tta`; raise `InvalidInputError` if there is no such test-time augmentation."""
    return check_choice("tta", tta, TTA_VIEWS)
