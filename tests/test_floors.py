"""Imports run downward only, and no two files import each other."""

import ast
from pathlib import Path

import ichx

FLOORS = (
    ("labels", "errors", "processes"),
    ("ct", "recipe", "recipe_rules", "recipe_text", "workspace"),
    ("data", "plugins", "store"),
    ("evaluation", "engine"),
    ("training", "tuning", "report"),
    ("cli", "__main__"),
)
"""The rooms of the package, from the ground up."""

FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def imports() -> dict[str, set[str]]:
    """Return the modules of ichx that each module imports, anywhere in it."""
    package = Path(ichx.__file__).parent
    found: dict[str, set[str]] = {}
    for path in package.rglob("*.py"):
        module = ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = [f"{node.module}.{alias.name}" for alias in node.names]
                files = [name for name in inner if (package.parent / f"{name.replace('.', '/')}.py").is_file()]
                names = files or [node.module]
            else:
                continue
            found.setdefault(module, set()).update(name for name in names if name.startswith("ichx."))
    return found


def test_no_room_imports_from_a_floor_above() -> None:
    pairs = [(module, other) for module, others in imports().items() if "." in module for other in others]
    assert len(pairs) > 300
    upward = [(a, b) for a, b in pairs if FLOOR_OF[b.split(".")[1]] > FLOOR_OF[a.split(".")[1]]]
    assert not upward


def test_no_two_files_import_each_other() -> None:
    found = imports()
    assert not [(a, b) for a, others in found.items() for b in others if a < b and a in found.get(b, ())]
