"""Archives of experiments on mixtures in a workspace that lacks the mixture, or parts of it."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from conftest import Program

from ichx.datasets.mix import mix_datasets
from ichx.datasets.mix_request import MixRequest, PartRequest
from ichx.experiments.archive_export import archive_experiment
from ichx.experiments.pinned_parts import describe_parts_of
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.project import Project
from ichx.store import open_store
from ichx.workspace import open_workspace


@pytest.fixture
def archive(mixed_root: Path, tmp_path: Path) -> Path:
    """Return the archive of an experiment on a mixture of three sites, one of them for training only."""
    root = Path(shutil.copytree(mixed_root, tmp_path / "here"))
    workspace = open_workspace(root)
    with open_store(workspace) as store:
        project = Project(workspace, store)
        request = ExperimentRequest(plugin="tiny_resnet", size=32, dataset="mixed")
        number = new_experiment(store, project.registry, request).number
        archive_experiment(project, number, tmp_path / "archive.zip")
    return tmp_path / "archive.zip"


def test_missing_parts_are_named_with_commands_that_add_them(
    archive: Path, mixed_root: Path, tmp_path: Path, ichx: Program
) -> None:
    there = tmp_path / "there"
    assert ichx("init", there, cwd=tmp_path).code == 0
    first = ichx("exp", "import", archive, "--json", cwd=there)
    first.check_error("not_ready", "mixed version 1", "are its parts site-a version 1", "site-b", "site-c version 1")
    for round_ in range(4):
        failed = ichx("exp", "import", archive, "--json", cwd=there)
        failed.check_error("not_ready", "mixed")
        commands = [shlex.split(command) for command in re.findall(r"`(.+?)`", failed.error["remedy"])]
        assert len(commands) == 4 - round_
        assert ichx("exp", "list", "--json", cwd=there).out.strip() == "[]"
        if len(commands) == 1:
            assert "nor" not in failed.error["problem"]
        command = commands[0]
        if "PATH" in command:
            folder = mixed_root.parent / command[3]
            command[command.index("PATH")] = str(folder / "stage_2_train")
            command[command.index("CSV")] = str(folder / "stage_2_train.csv")
            command += ["--folds", "2"]
        done = ichx(*command[1:], cwd=there)
        assert done.code == 0, done.err
    assert ichx("exp", "import", archive, cwd=there).code == 0


def test_parts_under_other_names_are_recognized(archive: Path, mixed_root: Path, tmp_path: Path, ichx: Program) -> None:
    there = tmp_path / "there"
    assert ichx("init", there, cwd=tmp_path).code == 0
    source, labels = (mixed_root.parent / "site-a" / f"stage_2_train{suffix}" for suffix in ("", ".csv"))
    assert ichx("data", "add", "ours", source, "--labels", labels, "--folds", 2, cwd=there).code == 0
    failed = ichx("exp", "import", archive, "--json", cwd=there)
    failed.check_error("not_ready", "are its parts site-b")
    assert "site-a version" not in failed.error["problem"]
    assert "ichx data mix mixed --of ours --of site-b=0.5 --train-only site-c" in failed.error["remedy"]


def test_the_record_of_an_archive_has_how_parts_are_mixed(mixed_root: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(mixed_root, tmp_path / "here"))
    workspace = open_workspace(root)
    with open_store(workspace) as store:
        parts = (PartRequest("site-a"), PartRequest("site-b", separate=True))
        version = mix_datasets(Project(workspace, store), MixRequest("other", parts)).version
        recorded = describe_parts_of(store, version)
        assert [(part["name"], part["weight"], part["separate"]) for part in recorded] == [
            ("site-a", 1.0, False),
            ("site-b", 1.0, True),
        ]
        assert describe_parts_of(store, store.version("site-a")) == []
