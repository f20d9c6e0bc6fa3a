"""Finds plugins through the entry-point group `ichx.plugins`; built-in models come the same way.

An entry point names a `Plugin` or an iterable of them. One that fails to import is a warning and no crash.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points

from ichx.errors import NotFoundError
from ichx.plugins.contract import Plugin

GROUP = "ichx.plugins"


@dataclass(frozen=True)
class Registry:
    """All plugins by name, and one line for each entry point that could not be used."""

    plugins: dict[str, Plugin]
    warnings: tuple[str, ...]
    packages: dict[str, str] = field(default_factory=dict)
    """Installed package of each plugin that is not built in."""

    def get(self, name: str) -> Plugin:
        """Return the plugin called `name`; raises `NotFoundError` with the nearest names."""
        if name not in self.plugins:
            raise NotFoundError.named("plugin", name, self.plugins, "`ichx plugin list` shows them all.")
        return self.plugins[name]


def load_registry(points: Iterable[EntryPoint] | None = None) -> Registry:
    """Return the plugins of `points` (all installed ones), in the order of their names.

    A name belongs to the first that declares it; the built-in ones come before all others.
    """
    found: dict[str, Plugin] = {}
    warnings: list[str] = []
    packages: dict[str, str] = {}
    for point in sorted(entry_points(group=GROUP) if points is None else points, key=_rank):
        try:
            declared = point.load()
            plugins = (declared,) if isinstance(declared, Plugin) else tuple(declared)
        except Exception as error:  # a third party's code may raise anything
            warnings.append(f"plugin {point.name!r} ({point.value}) cannot be used: {type(error).__name__}: {error}")
            continue
        for plugin in plugins:
            if not isinstance(plugin, Plugin):
                warnings.append(f"plugin {point.name!r} ({point.value}) declares a {type(plugin).__name__}, no Plugin")
            elif plugin.name in found:
                warnings.append(f"plugin {point.name!r} ({point.value}): the name {plugin.name!r} is taken; skipped")
            else:
                found[plugin.name] = plugin
                if point.dist is not None and _rank(point)[0]:
                    packages[plugin.name] = point.dist.name
    return Registry(dict(sorted(found.items())), tuple(warnings), packages)


def _rank(point: EntryPoint) -> tuple[bool, str, str]:
    return not point.value.startswith(f"{__package__}."), point.value, point.name
