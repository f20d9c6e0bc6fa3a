"""A package of somebody else's adds a model: installed without ichx knowing of it, and used from the command line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Program, clean_environment

from ichx.store import open_store
from ichx.workspace import open_workspace

pytestmark = pytest.mark.slow

PACKAGE = Path(__file__).parents[1] / "plugin_package"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment in which the package is installed, in a folder of its own; nothing is downloaded."""
    folder = tmp_path_factory.mktemp("package")
    source = shutil.copytree(PACKAGE, folder / "source")  # a build leaves files beside it
    target = folder / "site"
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(target)]
    command = [sys.executable, "-m", "pip", "install", *options, str(source)]
    done = subprocess.run(command, env=clean_environment(), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    before = os.environ.get("PYTHONPATH", "")
    return {"PYTHONPATH": os.pathsep.join(filter(None, (before, str(target))))}


def test_it_is_listed_and_trains(dataset_copy: Path, installed: dict[str, str], ichx_process: Program) -> None:
    listed = json.loads(ichx_process("plugin", "list", "--json", cwd=dataset_copy, **installed).out)
    (facts,) = [plugin for plugin in listed if plugin["name"] == "shallow_ct"]
    assert (facts["size"], facts["channels"]) == (64, 3)

    made = ichx_process("exp", "new", "--plugin", "shallow_ct", "--size", 32, cwd=dataset_copy, **installed)
    assert (made.code, "experiment 1: shallow_ct" in made.out) == (0, True), made.err
    ran = ichx_process("run", 1, "--device", "cpu", "--save", "features", cwd=dataset_copy, **installed)
    assert (ran.code, "experiment 1: OOF score" in ran.out) == (0, True), ran.err
    folder = dataset_copy / "experiments" / "1"
    assert len(list(folder.glob("fold-*/weights.safetensors"))) == 2
    assert list(folder.rglob("*-features.parquet"))
    with open_store(open_workspace(dataset_copy)) as store:
        assert {run.libraries["shallow-ct"] for run in store.runs(1)} == {"1.0"}


def test_experiments_of_a_missing_package_name_it(
    dataset_copy: Path, installed: dict[str, str], ichx_process: Program
) -> None:
    assert ichx_process("exp", "new", "--plugin", "shallow_ct", cwd=dataset_copy, **installed).code == 0
    assert "shallow_ct" in ichx_process("exp", "list", cwd=dataset_copy).out
    ran = ichx_process("run", 1, "--device", "cpu", cwd=dataset_copy)
    assert (ran.code, "Traceback" in ran.err) == (1, False)
    assert "'shallow_ct'" in ran.err


def test_codecs_raise_typed_errors(dataset_copy: Path, installed: dict[str, str], ichx_process: Program) -> None:
    assert ichx_process("exp", "new", "--plugin", "shallow_ct", cwd=dataset_copy, **installed).code == 0
    ran = ichx_process("run", 1, "--device", "cpu", "--pretrained", cwd=dataset_copy, **installed)
    assert (ran.code, "Traceback" in ran.err) == (1, False)
    assert "shallow_ct has no pretrained weights" in ran.err
