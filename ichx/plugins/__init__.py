"""The model zoo: the contract, the registry, and one short file per model family."""

from ichx.plugins.contract import Plugin
from ichx.plugins.registry import Registry, load_registry

__all__ = ["Plugin", "Registry", "load_registry"]
