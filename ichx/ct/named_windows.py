"""Windows with a name, for contact sheets and for the viewer. Applying a window: `ichx.ct.windows`."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ichx.recipe import FILE_WINDOW

Window = tuple[float, float]
"""Centre and width in HU."""

WINDOWS: Final[Mapping[str, Window]] = MappingProxyType(
    {
        "file": FILE_WINDOW,
        "brain": (40.0, 80.0),
        "subdural": (80.0, 200.0),
        "stroke": (40.0, 40.0),
        "bone": (600.0, 2800.0),
    }
)
"""Windows by name. `file` is the window in the header of each slice."""
