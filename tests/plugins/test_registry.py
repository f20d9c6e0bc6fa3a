"""Plugins come over entry points, the built-in ones too; a broken one is one warning."""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from conftest import Program

from ichx.errors import NotFoundError
from ichx.plugins import Plugin, load_registry
from ichx.plugins.contract import reference_recipe
from ichx.plugins.registry import GROUP

SOURCE = """
from ichx.plugins.contract import Plugin, reference_recipe
ONE = Plugin("ours", "a third party's", reference_recipe("ours", "resnet18.tv_in1k", batch=1))
SEVERAL = (Plugin("ours_too", "another", reference_recipe("ours_too", "resnet18.tv_in1k", batch=2)),)
TAKEN = Plugin("resnext50", "not ours", reference_recipe("resnext50", "resnet18.tv_in1k", batch=3))
WRONG = (3, "text")
"""


def point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name=name, value=value, group=GROUP)


@pytest.fixture
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_third_party.py").write_text(SOURCE)
    (tmp_path / "z_broken_import.py").write_text("import a_module_that_is_not_there\n")
    (tmp_path / "z_broken_exit.py").write_text("raise RuntimeError('cannot start')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("a_third_party", "z_broken_import", "z_broken_exit"):
        sys.modules.pop(name, None)


def test_built_in_models_come_over_the_same_entry_points() -> None:
    registry = load_registry()
    assert registry.warnings == ()
    assert {"efficientnet_b2", "efficientnet_b3", "resnext101_wsl", "resnext50", "seresnext50"} <= set(registry.plugins)
    assert len([name for name in registry.plugins if name.startswith("tiny_")]) >= 4
    assert list(registry.plugins) == sorted(registry.plugins)


@pytest.mark.usefixtures("third_party")
def test_a_third_party_adds_one_or_several() -> None:
    points = [point("one", "a_third_party:ONE"), point("several", "a_third_party:SEVERAL")]
    registry = load_registry(points)
    assert (list(registry.plugins), registry.warnings) == (["ours", "ours_too"], ())


@pytest.mark.usefixtures("third_party")
def test_a_broken_plugin_costs_one_warning() -> None:
    points = [
        point("gone", "z_broken_import:PLUGINS"),
        point("crash", "z_broken_exit:PLUGINS"),
        point("attribute", "a_third_party:NOTHING"),
        point("one", "a_third_party:ONE"),
    ]
    registry = load_registry(points)
    assert list(registry.plugins) == ["ours"]
    assert len(registry.warnings) == 3
    assert any("a_module_that_is_not_there" in line for line in registry.warnings)
    assert any("RuntimeError: cannot start" in line for line in registry.warnings)
    assert all("\n" not in line for line in registry.warnings)


@pytest.mark.usefixtures("third_party")
def test_objects_that_are_not_plugins_and_taken_names() -> None:
    registry = load_registry([point("wrong", "a_third_party:WRONG"), point("also", "a_third_party:ONE")])
    assert list(registry.plugins) == ["ours"]
    assert [line for line in registry.warnings if "declares a int, no Plugin" in line]
    twice = load_registry([point("a", "a_third_party:ONE"), point("b", "a_third_party:ONE")])
    assert "the name 'ours' is taken" in twice.warnings[0]


@pytest.mark.usefixtures("third_party")
def test_a_built_in_name_is_not_taken_over() -> None:
    built_in = point("resnext", "ichx.plugins.resnext:PLUGINS")
    registry = load_registry([point("taker", "a_third_party:TAKEN"), built_in])
    assert registry.plugins["resnext50"].recipe.batch == 64
    assert len(registry.warnings) == 1


def test_an_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(NotFoundError, match="'resnet50'") as caught:
        load_registry().get("resnet50")
    assert "resnext50" in caught.value.remedy
    assert "ichx plugin list" in caught.value.remedy


def test_an_installed_package_that_breaks_is_one_line_for_the_user(tmp_path: Path, ichx_process: Program) -> None:
    """A real installation: a .dist-info folder on the path with an entry point of the group."""
    (tmp_path / "site" / "broken_zoo-1.0.dist-info").mkdir(parents=True)
    info = tmp_path / "site" / "broken_zoo-1.0.dist-info"
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-zoo\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\nzoo = broken_zoo:PLUGINS\n")
    (tmp_path / "site" / "broken_zoo.py").write_text("import torchh\n")
    done = ichx_process("plugin", "list", "--json", cwd=tmp_path, PYTHONPATH=str(tmp_path / "site"))
    assert done.code == 0
    assert "resnext50" in done.out
    assert "Traceback" not in done.err
    assert done.err.count("\n") == 1
    assert "broken_zoo:PLUGINS" in done.err
    assert "torchh" in done.err


def test_a_plugin_declares_its_recipe() -> None:
    with pytest.raises(ValueError, match="declares a recipe of 'other'"):
        Plugin("mine", "wrong", reference_recipe("other", "resnet18.tv_in1k", batch=1))
