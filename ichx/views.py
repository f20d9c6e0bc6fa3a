"""Views of a slice that a network predicts besides the slice itself: their names and what they stand for.

A view is a chain of a mirror image, a shift and a scale, e.g. `hflip-right4-scale105`. The pixels are computed in
`ichx.training.view_images`.
"""

import functools
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

IDENTITY: Final = "identity"
HFLIP: Final = "hflip"

DEFAULT_VIEWS: Final = (IDENTITY, HFLIP)
"""The views of experiments whose recipe does not name any."""

MAX_VIEWS: Final = 16
MAX_SHIFT: Final = 64
"""Pixels of the network's input."""

SCALES: Final = range(50, 201)
"""Percent."""

MAX_LENGTH: Final = 32
"""Characters of a name, as the store has room for."""

_NAME: Final = re.compile(r"(hflip)?-?(?:(left|right)([1-9]\d*))?-?(?:(up|down)([1-9]\d*))?-?(?:scale([1-9]\d*))?")


@dataclass(frozen=True)
class View:
    """What a view does to an image: mirror it, then move it, then scale it about its centre."""

    hflip: bool = False
    right: int = 0
    """Pixels, negative to the left; like `down`."""
    down: int = 0
    scale: int = 100
    """Percent; above 100 enlarges."""

    @property
    def name(self) -> str:
        """The name of the view, the only one that it has."""
        parts = [
            HFLIP if self.hflip else "",
            f"{'right' if self.right > 0 else 'left'}{abs(self.right)}" if self.right else "",
            f"{'down' if self.down > 0 else 'up'}{abs(self.down)}" if self.down else "",
            f"scale{self.scale}" if self.scale != 100 else "",
        ]
        return "-".join(filter(None, parts)) or IDENTITY


def parse_view(name: str) -> View:
    """Return the view `name`. Raises `ValueError` if there is none."""
    if name == IDENTITY:
        return View()
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"unknown view {name!r}")
    hflip, side, right, end, down, scale = match.groups()
    view = View(
        hflip is not None,
        int(right or 0) * (-1 if side == "left" else 1),
        int(down or 0) * (-1 if end == "up" else 1),
        int(scale or 100),
    )
    in_range = max(abs(view.right), abs(view.down)) <= MAX_SHIFT and view.scale in SCALES
    if view.name != name or not in_range or len(name) > MAX_LENGTH:
        raise ValueError(f"unknown view {name!r}")
    return view


@functools.lru_cache(maxsize=4096)
def views_in(recipe: str) -> tuple[str, ...]:
    """Return the views of a recipe in TOML; other values are not read, because that takes longer.

    An invalid recipe has the default views: whoever reads the other values reports it.
    """
    try:
        return tuple(tomllib.loads(recipe)["prediction"]["views"])
    except (tomllib.TOMLDecodeError, KeyError, TypeError):
        return DEFAULT_VIEWS


def with_views(views: Sequence[str]) -> str:
    """Return what a score of the mean over `views` is called, e.g. `with hflip`."""
    return "with hflip" if tuple(views) == DEFAULT_VIEWS else f"with {len(views)} view{'s' * (len(views) != 1)}"


def mean_over(views: Sequence[str]) -> str:
    """Return what the mean over `views` is, e.g. `mean of identity and hflip` or `mean of 5 views`."""
    return f"mean of {' and '.join(views)}" if len(views) < 3 else f"mean of {len(views)} views"


def is_view(name: object) -> bool:
    """Return whether `name` is the name of a view."""
    try:
        parse_view(str(name))
    except ValueError:
        return False
    return True


def views_problem(names: Sequence[str]) -> str:
    """Return the rule that a list of views violates, e.g. "different names"; empty if it is valid."""
    if not names or names[0] != IDENTITY:
        return f"a list that begins with {IDENTITY}"
    if len(set(names)) != len(names):
        return "different names"
    if len(names) > MAX_VIEWS:
        return f"at most {MAX_VIEWS} names"
    unknown = [name for name in names if not is_view(name)]
    if unknown:
        return (
            f"names such as hflip, left4, up4, scale105 or hflip-right4-scale95 (shifts up to {MAX_SHIFT} pixels, "
            f"scales of {SCALES[0]} to {SCALES[-1]} percent), not {', '.join(unknown)}"
        )
    return ""
