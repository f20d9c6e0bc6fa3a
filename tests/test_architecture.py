"""Imports run downward only, at every depth, and no cycle of any length exists."""

import ast
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import ichx

LAYERS = (
    (
        "labels",
        "errors",
        "text",
        "files",
        "locks",
        "mounts",
        "preferences",
        "process_identity",
        "signals",
        "child_processes",
        "experiment_files",
    ),
    (
        "recipe",
        "recipe_augmentation",
        "recipe_fields",
        "recipe_rules",
        "recipe_text",
        "views",
        "workspace",
        "worker_pool",
    ),
    ("ct", "store"),
    ("plugins", "phantom"),
    ("project", "formatting"),
    ("datasets",),
    ("cache",),
    ("loading", "evaluation"),
    ("training",),
    ("sequences",),
    ("experiments",),
    ("inference", "jobs"),
    ("tuning",),
    ("report",),
    ("publish",),
    ("web",),
    ("cli", "__main__"),
)
"""Top-level modules and packages, lowest first. A layer imports from itself and from those below."""

SEPARATE = {("inference", "jobs"), ("loading", "evaluation"), ("plugins", "phantom")}
"""Packages of one layer that do not import each other."""

LAYER_OF = {name: layer for layer, names in enumerate(LAYERS) for name in names}


def import_graph() -> dict[str, set[str]]:
    """Return the modules of ichx that each module imports, anywhere in it."""
    package = Path(ichx.__file__).parent
    paths = {
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in package.rglob("*.py")
    }
    graph: dict[str, set[str]] = {name: set() for name in paths}
    for module, path in paths.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                names = (inner & paths.keys()) | ({node.module} if inner - paths.keys() else set())
            else:
                continue
            graph[module] |= {name for name in names if name in paths and name != module and name != "ichx"}
    return graph


GRAPH = import_graph()
PACKAGES = sorted({module.rpartition(".")[0] for module in GRAPH if module.count(".") >= 1})


def contracted(graph: Mapping[str, set[str]], package: str) -> dict[str, set[str]]:
    """Return the graph of the direct children of `package`: each stands for all modules in it."""
    depth = package.count(".") + 2
    inside = {module for module in graph if module.startswith(f"{package}.")}
    children: dict[str, set[str]] = {".".join(module.split(".")[:depth]): set() for module in inside}
    for module in inside:
        child = ".".join(module.split(".")[:depth])
        targets = {".".join(name.split(".")[:depth]) for name in graph[module] if name in inside}
        children[child] |= targets - {child}
    return children


def test_every_module_has_a_layer() -> None:
    found = {module.split(".")[1] for module in GRAPH if "." in module}
    assert found <= LAYER_OF.keys(), found - LAYER_OF.keys()


def test_imports_run_downward() -> None:
    edges = [(a, b) for a, others in GRAPH.items() for b in others if "." in a]
    assert len(edges) > 500
    upward = [(a, b) for a, b in edges if LAYER_OF[b.split(".")[1]] > LAYER_OF[a.split(".")[1]]]
    sideways = [(a, b) for a, b in edges for pair in SEPARATE if {a.split(".")[1], b.split(".")[1]} == set(pair)]
    assert not upward + sideways


@pytest.mark.parametrize("package", PACKAGES)
def test_no_cycle_between_the_children_of(package: str) -> None:
    try:
        TopologicalSorter(contracted(GRAPH, package)).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_no_cycle_between_modules() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_a_cycle_is_found() -> None:
    looped = {"ichx.a.b": {"ichx.c"}, "ichx.c": {"ichx.a.d"}, "ichx.a.d": set()}
    with pytest.raises(CycleError):
        TopologicalSorter(contracted(looped, "ichx")).prepare()


def test_training_imports_no_store_and_no_workspace() -> None:
    banned = {"store", "workspace", "project", "experiments"}
    assert not [
        (a, b)
        for a, others in GRAPH.items()
        for b in others
        if a.startswith("ichx.training") and b.split(".")[1] in banned
    ]


def test_no_two_public_classes_share_a_name() -> None:
    owners: dict[str, list[str]] = {}
    for path in Path(ichx.__file__).parent.rglob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                owners.setdefault(node.name, []).append(path.name)
    assert {name: files for name, files in owners.items() if len(files) > 1} == {}
