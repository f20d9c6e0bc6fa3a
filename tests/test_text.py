"""JSON and TOML of unknown origin: every invalid text is a `ValueError`, however it is invalid."""

import tomllib
from pathlib import Path

import pytest

from ichx.cache.hu_cache import CACHE_FILE, read_manifest
from ichx.errors import CorruptFileError, InvalidInputError
from ichx.experiment_files import read_start
from ichx.experiments.folder_record import read_record
from ichx.plugins.contract import reference_recipe
from ichx.recipe_text import apply_settings, from_toml
from ichx.text import parse_json, parse_toml
from ichx.workspace import SETTINGS_FILE, STORE_RECORD, init_workspace, open_workspace

DEEP_JSON = ("[" * 200_000, '{"a":' * 100_000)
DEEP_TOML = "a = " + "[" * 5000 + "]" * 5000
LONG_NUMBER = "a = " + "9" * 5000


@pytest.mark.parametrize("text", [*DEEP_JSON, "9" * 5000, "", "{", b"\xff"])
def test_invalid_json(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


@pytest.mark.parametrize("text", [DEEP_TOML, LONG_NUMBER, "a ="])
def test_invalid_toml(text: str, tmp_path: Path) -> None:
    with pytest.raises(tomllib.TOMLDecodeError):
        parse_toml(text)
    with pytest.raises(InvalidInputError):
        from_toml(text)
    init_workspace(tmp_path)
    (tmp_path / SETTINGS_FILE).write_text(text)
    with pytest.raises(InvalidInputError, match=SETTINGS_FILE):
        open_workspace(tmp_path)


def test_a_setting_nested_too_deeply() -> None:
    with pytest.raises(InvalidInputError, match="seed"):
        apply_settings(reference_recipe("mine", "resnet18.tv_in1k", batch=64), ["seed=" + "[" * 5000 + "]" * 5000])


@pytest.mark.parametrize("text", [*DEEP_JSON, "[]", "null", "1e999", '{"format": 1}'])
def test_damaged_files_of_a_workspace(text: str, tmp_path: Path) -> None:
    workspace = init_workspace(tmp_path)
    (tmp_path / STORE_RECORD).write_text(text)
    with pytest.raises(CorruptFileError, match=Path(STORE_RECORD).name):
        workspace.store_record()
    files = workspace.experiment_files(1)
    files.folder.mkdir()
    files.start.write_text(text)
    with pytest.raises(CorruptFileError, match=files.start.name):
        read_start(files.start)
    (tmp_path / CACHE_FILE).write_text(text)
    assert read_manifest(tmp_path) is None


@pytest.mark.parametrize("text", DEEP_JSON)
def test_a_record_nested_too_deeply(text: str, tmp_path: Path) -> None:
    (tmp_path / "experiment.json").write_text(text)
    with pytest.raises(CorruptFileError, match=r"experiment\.json"):
        read_record(tmp_path / "experiment.json")


def test_an_infinite_number_of_changes(tmp_path: Path) -> None:
    workspace = init_workspace(tmp_path)
    (tmp_path / STORE_RECORD).write_text('{"id": "a", "changes": 1e999, "store": "b"}')
    with pytest.raises(CorruptFileError, match=Path(STORE_RECORD).name):
        workspace.store_record()
