"""An experiment taken to another workspace as a file, and files that are none, damaged or hostile."""

import json
import os
import re
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Program

from ichx.errors import StorageError, check_name
from ichx.experiments.archive_export import PARTS, archive_experiment
from ichx.experiments.archive_import import import_experiment
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import open_store
from ichx.workspace import open_workspace

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def exported(trained_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return experiment 2 with tags and notes, in a file without weights."""
    root = tmp_path_factory.mktemp("export") / "workspace"
    shutil.copytree(trained_root, root)
    workspace = open_workspace(root)
    with open_store(workspace) as store:
        store.change_tags(2, add=["best"])
        store.add_note(2, "weak on epidural")
        archive_experiment(Project(workspace, store), 2, root.parent / "two.zip")
    return root.parent / "two.zip"


def test_an_experiment_is_the_same_elsewhere(
    exported: Path, trained_root: Path, dataset_copy: Path, ichx: Program
) -> None:
    ichx("exp", "new", "--plugin", "tiny_resnet", cwd=dataset_copy)
    done = ichx("exp", "import", exported, "--json", cwd=dataset_copy)
    assert done.code == 0, done.err
    assert json.loads(done.out)["number"] == 2
    assert "weights" in done.err
    with open_store(open_workspace(trained_root)) as one, open_store(open_workspace(dataset_copy)) as two:
        before, after = one.experiment(2), two.experiment(2)
        for name in (
            "name",
            "plugin",
            "recipe",
            "recipe_digest",
            "score",
            "score_tta",
            "score_low",
            "folds_done",
            "state",
        ):
            assert getattr(after, name) == getattr(before, name), name
        assert after.origin == {"number": 2, "workspace": "workspace", "id": before.id}
        assert after.tags == ("best",)
        assert [note.text for note in two.notes(2)] == ["weak on epidural"]
        assert [two.history(2, fold) for fold in (0, 1)] == [one.history(2, fold) for fold in (0, 1)]
        runs = [(r.fold, r.attempt, r.state, r.started, r.device, r.libraries) for r in two.runs(2)]
        assert runs == [(r.fold, r.attempt, r.state, r.started, r.device, r.libraries) for r in one.runs(2)]
        assert [(p.role, p.view, p.digest) for p in two.predictions(2)] == [
            (p.role, p.view, p.digest) for p in one.predictions(2)
        ]
    assert "workspace" in ichx("exp", "show", 2, cwd=dataset_copy).out


def test_an_imported_fold_with_weights_predicts_new_test_sets(
    trained_root: Path, dataset_copy: Path, tmp_path: Path, ichx: Program
) -> None:
    assert ichx("exp", "export", 1, tmp_path / "one.zip", "--weights", cwd=trained_root).code == 0
    done = ichx("exp", "import", tmp_path / "one.zip", cwd=dataset_copy)
    assert (done.code, "no weights" in done.err) == (0, False)
    assert ichx("audit", 1, cwd=dataset_copy).code == 0
    again = ichx("run", 1, cwd=dataset_copy)
    assert again.code == 0, again.err
    assert "folds 0, 1" in again.err
    assert "loss" not in again.err


def test_nothing_of_the_machine_is_in_the_file(exported: Path) -> None:
    with zipfile.ZipFile(exported) as archive:
        texts = [archive.read(name).decode() for name in archive.namelist() if name.endswith((".json", ".log"))]
    assert texts
    for text in texts:
        assert str(exported.parent) not in text
        assert "/home/" not in text
        assert "/tmp/" not in text


def test_predictions_of_a_missing_test_set_are_counted(exported: Path, dataset_copy: Path, ichx: Program) -> None:
    assert ichx("data", "rm", "ph-test", "--yes", cwd=dataset_copy).code == 0
    done = ichx("exp", "import", exported, cwd=dataset_copy)
    assert done.code == 0, done.err
    (line,) = [line for line in done.err.splitlines() if "ph-test" in line]
    assert "4 predictions" in line  # two folds in two views


def test_the_dataset_must_exist(exported: Path, tmp_path: Path, ichx: Program) -> None:
    assert ichx("init", tmp_path / "empty", cwd=tmp_path).code == 0
    done = ichx("exp", "import", exported, cwd=tmp_path / "empty")
    assert done.code == 1
    assert "ichx data add ph" in done.err


def rewritten(change: Callable[[dict[str, bytes]], None], exported: Path, target: Path) -> Path:
    with zipfile.ZipFile(exported) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target


def set_index(**values: object) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        members["experiment.json"] = json.dumps(json.loads(members["experiment.json"]) | values).encode()

    return change


def put(name: str, content: bytes) -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.update({name: content})


def drop(name: str) -> Callable[[dict[str, bytes]], None]:
    return lambda members: members.pop(name) and None


def edit_recipe(members: dict[str, bytes]) -> None:
    index = json.loads(members["experiment.json"])
    index["experiment"]["recipe"] = index["experiment"]["recipe"].replace("batch = 16", "batch = 17")
    members["experiment.json"] = json.dumps(index).encode()


def rename(name: str) -> Callable[[dict[str, bytes]], None]:
    def change(members: dict[str, bytes]) -> None:
        index = json.loads(members["experiment.json"])
        index["experiment"]["name"] = name
        members["experiment.json"] = json.dumps(index).encode()

    return change


HOSTILE = {
    "climbs out": (put("../../evil.parquet", b"x"), "../../evil.parquet"),
    "absolute": (put("/etc/evil.parquet", b"x"), "/etc/evil.parquet"),
    "climbs inside": (put("fold-0/../../../x.parquet", b"x"), "fold-0/../../../x.parquet"),
    "a program": (put("fold-0/run.py", b"x"), "fold-0/run.py"),
    "a bomb": (put("fold-0/zeros.parquet", bytes(300_000_000)), "300,"),
    "another format": (set_index(format=99), "99"),
    "no index": (drop("experiment.json"), "experiment.json"),
    "no JSON": (put("experiment.json", b"{"), "experiment.json"),
    "no runs": (set_index(runs=None), "experiment.json"),
    "a file is missing": (drop("fold-0/oof-hflip.parquet"), "fold-0/oof-hflip.parquet"),
    "a file is another": (put("fold-0/oof-hflip.parquet", b"PAR1"), "fold-0/oof-hflip.parquet"),
    "another recipe": (edit_recipe, "digest"),
    "a negative number": (set_index(number=-1), "-1"),
    "a number that is none": (set_index(number="2"), "'2'"),
    "a member without a number": (set_index(members=[{"id": "x", "number": 0, "name": "m"}]), "invalid number 0"),
    "an empty name": (rename(" "), "name"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_or_damaged_file_is_refused_and_leaves_nothing(
    what: str, exported: Path, dataset_copy: Path, tmp_path: Path, ichx: Program
) -> None:
    change, value = HOSTILE[what]
    file = rewritten(change, exported, tmp_path / "hostile.zip")
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if "db" not in path.parts)
    done = ichx("exp", "import", file, cwd=dataset_copy)
    assert done.code == 1, done.out
    assert value in done.err
    assert "Traceback" not in done.err
    assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if "db" not in path.parts) == before
    assert json.loads(ichx("exp", "list", "--json", cwd=dataset_copy).out) == []


def test_damaged_compressed_bytes_are_reported(
    exported: Path, dataset_copy: Path, tmp_path: Path, ichx: Program
) -> None:
    file = rewritten(lambda members: None, exported, tmp_path / "damaged.zip")
    with zipfile.ZipFile(file) as archive:
        at = archive.getinfo("experiment.json")
    content = bytearray(file.read_bytes())
    start = at.header_offset + 30 + len(at.filename)
    content[start : start + 20] = bytes([255]) * 20  # no block of DEFLATE begins like this
    file.write_bytes(content)
    done = ichx("exp", "import", file, cwd=dataset_copy)
    assert done.code == 1
    assert "damaged.zip is damaged" in done.err
    assert "Export the experiment again" in done.err


def test_names_of_ichx_0_1_get_visible_characters(
    exported: Path, dataset_copy: Path, tmp_path: Path, ichx: Program
) -> None:
    file = rewritten(rename("one\ttwo\x1b[31m "), exported, tmp_path / "old.zip")
    assert ichx("exp", "import", file, cwd=dataset_copy).code == 0
    [found] = json.loads(ichx("exp", "list", "--json", cwd=dataset_copy).out)
    assert found["name"] == check_name("name", r"one\ttwo\x1b[31m")


def test_files_that_are_not_archives_are_refused(
    dataset_copy: Path, tmp_path: Path, exported: Path, ichx: Program
) -> None:
    (tmp_path / "text.zip").write_text("no zip at all")
    cut = tmp_path / "cut.zip"
    cut.write_bytes(exported.read_bytes()[:-200])
    os.mkfifo(tmp_path / "pipe.zip")
    for file in (tmp_path / "text.zip", cut, tmp_path / "absent.zip", tmp_path, tmp_path / "pipe.zip"):
        done = ichx("exp", "import", file, cwd=dataset_copy)
        assert (done.code, "Traceback" in done.err) == (1, False), done.err


def test_an_import_whose_files_cannot_be_placed_records_nothing(
    exported: Path, dataset_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (dataset_copy / "experiments" / "1").write_text("mine")
    workspace = open_workspace(dataset_copy)
    with open_store(workspace) as store:
        with pytest.raises(StorageError, match="experiments"):
            import_experiment(Project(workspace, store, load_registry()), exported)
        assert store.experiments() == []
    assert [path.name for path in (dataset_copy / "experiments").iterdir()] == ["1"]


def test_an_export_never_replaces_a_file(trained_root: Path, tmp_path: Path, ichx: Program) -> None:
    (tmp_path / "mine.zip").write_text("mine")
    assert "mine.zip" in ichx("exp", "export", 1, tmp_path / "mine.zip", cwd=trained_root).err
    assert (tmp_path / "mine.zip").read_text() == "mine"


def test_an_unwritable_place_is_found_before_files_are_read(project: Project, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    log = project.workspace.experiment_files(1).fold(0).log
    log.unlink()
    log.mkdir()  # reading it would be the next error
    with pytest.raises(StorageError, match="file/one.zip"):
        archive_experiment(project, 1, tmp_path / "file" / "one.zip")


def test_what_a_killed_export_left_is_removed_by_a_later_one(project: Project, tmp_path: Path) -> None:
    def leave(name: str, age: float, parts: bool = False) -> Path:
        path = tmp_path / name
        inner = path / "1.zip" if parts else path
        inner.parent.mkdir(exist_ok=True)
        inner.write_text("")
        for one in (inner, path):
            os.utime(one, (time.time() - age,) * 2)
        return path

    old = leave(".one.123-0123abcd.tmp.zip", 4000)
    old_parts = leave(f"{PARTS}abc", 4000, parts=True)
    kept = {
        leave(".one.124-0123abcd.tmp.zip", 60),  # of a running export
        leave(f"{PARTS}def", 60, parts=True),
        leave(".mine.tmp.zip", 4000),  # of another program
        leave("one.123-0123abcd.tmp.zip", 4000),
    }
    archive_experiment(project, 1, tmp_path / "two.zip")
    assert {path for path in tmp_path.iterdir() if path in {old, old_parts, *kept}} == kept


def test_a_second_import_is_noticed(
    exported: Path, trained_root: Path, dataset_copy: Path, tmp_path: Path, ichx: Program
) -> None:
    original = shutil.copytree(trained_root, tmp_path / "original" / "workspace")
    ichx("exp", "import", exported, "--json", cwd=original).check_error("conflict", "experiment 2 ")
    assert ichx("exp", "import", exported, cwd=dataset_copy).code == 0
    with zipfile.ZipFile(exported) as archive:
        index = json.loads(archive.read("experiment.json"))
    for change in (set_index(), set_index(tags=["other"]), drop_ids):
        file = rewritten(change, exported, exported.with_name("again.zip"))
        ichx("exp", "import", file, "--json", cwd=dataset_copy).check_error("conflict", str(file), "experiment 1 ")
    other = rewritten(set_index(id="f" * 32), exported, exported.with_name("again.zip"))
    assert index["id"] != "f" * 32
    assert json.loads(ichx("exp", "import", other, "--json", cwd=dataset_copy).out)["number"] == 2
    assert ichx("exp", "rm", 1, cwd=dataset_copy).code == 0
    ichx("exp", "import", exported, "--json", cwd=dataset_copy).check_error("conflict", "experiment 1 ", "trash")
    assert json.loads(ichx("exp", "import", exported, "--again", "--json", cwd=dataset_copy).out)["number"] == 3


def drop_ids(members: dict[str, bytes]) -> None:
    """Change the archive into one of version 0.1."""
    index = json.loads(members["experiment.json"])
    del index["id"], index["created"]
    members["experiment.json"] = json.dumps(index).encode()


def test_a_log_of_half_a_character_and_files_of_1970_are_exported(
    trained_copy: Path, tmp_path: Path, ichx: Program
) -> None:
    files = open_workspace(trained_copy).experiment_files(1)
    with files.fold(0).log.open("ab") as log:
        log.write("killed \N{POUND SIGN}".encode()[:-1])
    for path in files.folder.rglob("*"):
        os.utime(path, (0, 0))
    done = ichx("exp", "export", 1, tmp_path / "one.zip", "--weights", cwd=trained_copy)
    assert done.code == 0, done.err
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.read("fold-0/run.log").decode().endswith("killed \N{REPLACEMENT CHARACTER}")


def test_a_file_that_cannot_be_read_is_named_by_the_export(project: Project, tmp_path: Path) -> None:
    log = project.workspace.experiment_files(1).fold(0).log
    log.unlink()
    log.mkdir()
    with pytest.raises(StorageError, match=re.escape(str(log))):
        archive_experiment(project, 1, tmp_path / "one.zip")
    assert not list(tmp_path.glob("one*"))
