"""What bad input gets: a line that says what is wrong, one that says what to do, exit code 1, nothing half-written."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome, Program
from dicom_files import write_ct, write_study
from full_disk import run_with_limit

from ichx.labels import LABELS
from ichx.phantom.dicom_files import PhantomFiles
from ichx.workspace import init_workspace


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a workspace with `files/` (4 patients), `labels.csv`, and nothing added."""
    root = init_workspace(tmp_path / "workspace").root
    ids = [i for p in range(4) for i in write_study(root / "files", str(p), 3)]
    write_labels(root / "labels.csv", ids)
    return root


def write_labels(path: Path, ids: list[str]) -> None:
    rows = [f"{i}_{label},{n % 2}" for n, i in enumerate(ids) for label in LABELS]
    path.write_text("ID,Label\n" + "\n".join(rows) + "\n")


def state(root: Path) -> dict[str, int]:
    """Return every file of the workspace but the store's own, which may grow its journal, and the privacy key."""
    files = [path for path in root.rglob("*") if path.is_file() and path.parent.name != "db"]
    return {str(path.relative_to(root)): path.stat().st_size for path in files}


def assert_told(done: Outcome, problem: str) -> None:
    """Check the two lines: the last that standard error has."""
    assert (done.code, done.out) == (1, "")
    assert "Traceback" not in done.err
    first, remedy = done.err.splitlines()[-2:]
    assert first.startswith("error: "), done.err
    assert problem in first
    assert remedy.startswith("       ")
    assert len(remedy.strip()) > 8


def damage_columns(root: Path) -> None:
    (root / "labels.csv").write_text("name,value\na,1\n")


def damage_value(root: Path) -> None:
    path = root / "labels.csv"
    path.write_text(path.read_text().replace("_any,1", "_any,2", 1))


def damage_word(root: Path) -> None:
    path = root / "labels.csv"
    path.write_text(path.read_text().replace("_any,1", "_any,yes", 1))


def remove_labels(root: Path) -> None:
    (root / "labels.csv").unlink()


def empty_labels(root: Path) -> None:
    (root / "labels.csv").write_text("")


def empty_files(root: Path) -> None:
    for path in [p for p in (root / "files").rglob("*") if p.is_file()]:
        path.unlink()


def other_files(root: Path) -> None:
    for path in [p for p in (root / "files").rglob("*") if p.is_file()]:
        path.write_text("not an image")


def truncated_files(root: Path) -> None:
    for path in [p for p in (root / "files").rglob("*") if p.is_file()]:
        path.write_bytes(path.read_bytes()[:700])


def other_labels(root: Path) -> None:
    write_labels(root / "labels.csv", ["ID_unknown_1", "ID_unknown_2"])


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (empty_files, "files has no files"),
        (other_files, "files is DICOM"),
        (truncated_files, "files with defects"),
        (remove_labels, "labels.csv"),
        (empty_labels, "labels.csv"),
        (damage_columns, "name, value"),
        (damage_value, "1 label"),
        (damage_word, "'yes'"),
        (other_labels, "labels.csv"),
    ],
)
def test_data_that_cannot_be_added(damage: Callable[[Path], None], told: str, ichx: Program, place: Path) -> None:
    damage(place)
    before = state(place)
    done = ichx("data", "add", "ph", "files", "--labels", "labels.csv", "--folds", 2, cwd=place)
    assert_told(done, told)
    assert state(place) == before
    assert "ph" not in ichx("data", "list", cwd=place).out


def test_a_folder_that_is_none(ichx: Program, place: Path) -> None:
    for path in ("nowhere", "labels.csv"):
        assert_told(ichx("data", "add", "ph", path, "--labels", "labels.csv", cwd=place), path)


def test_one_truncated_file_is_left_out_and_told(ichx: Program, place: Path) -> None:
    victim = sorted(path for path in (place / "files").rglob("*") if path.is_file())[0]
    victim.write_bytes(victim.read_bytes()[:700])
    done = ichx("data", "add", "ph", "files", "--labels", "labels.csv", "--folds", 2, cwd=place)
    assert done.code == 0
    assert "warning: Excluded 1 file" in done.err
    shown = ichx("data", "show", "ph", cwd=place).out
    assert victim.name in shown


def test_without_a_workspace_or_a_dataset(ichx: Program, tmp_path: Path, place: Path) -> None:
    nowhere = tmp_path / "nowhere"
    nowhere.mkdir()
    assert_told(ichx("exp", "list", cwd=nowhere), str(nowhere))
    for command in (
        ("exp", "new", "--plugin", "tiny_resnet"),
        ("exp", "new", "--reference"),
    ):
        done = ichx(*command, cwd=place)
        assert_told(done, "there is no labelled dataset yet")
        assert "ichx data add" in done.err
    assert_told(ichx("run", 1, cwd=place), "no experiment 1")
    assert_told(ichx("ensemble", cwd=place), "no experiment is complete")
    assert_told(ichx("data", "show", "ph", cwd=place), "'ph'")
    assert_told(ichx("data", "add", "t", "files", "--test-of", "ph", cwd=place), "'ph'")


def test_unknown_models_recipes_and_values(ichx: Program, dataset_copy: Path) -> None:
    (dataset_copy / "broken.toml").write_text("batch = [")
    (dataset_copy / "foreign.toml").write_text('plugin = "nobody"\n')
    (dataset_copy / "resnext.toml").write_text(ichx("plugin", "show", "resnext50", "--toml", cwd=dataset_copy).out)
    for arguments, told in (
        (("--plugin", "nobodys"), "'nobodys'"),
        ((), "no model was chosen"),
        (("--from", "none.toml"), "cannot read none.toml"),
        (("--from", "broken.toml"), "broken.toml"),
        (("--from", "."), "cannot read ."),
        (("--from", "resnext.toml", "--plugin", "tiny_resnet"), "resnext.toml is a recipe of 'resnext50', not of"),
        (("--plugin", "resnext50", "--crop", 999), "a crop of 999 px does not fit into 378 px"),
        (("--plugin", "resnext50", "--set", "batch=0"), "batch = 0: must be between 1 and 65536"),
        (("--plugin", "resnext50", "--set", "batch"), "'batch' is not of the form NAME=VALUE"),
        (("--plugin", "resnext50", "--dataset", "ph-test"), "ph-test is a test set, without labels"),
        (("--plugin", "resnext50", "--size", 8), "input.size = 8"),
    ):
        assert_told(ichx("exp", "new", *arguments, cwd=dataset_copy), told)
    foreign = ichx("exp", "new", "--from", "foreign.toml", cwd=dataset_copy)
    assert foreign.code == 1
    assert "foreign.toml: batch is missing" in foreign.err
    assert "Traceback" not in foreign.err
    assert "no experiment yet" in ichx("exp", "list", cwd=dataset_copy).err


def test_runs_that_cannot_begin(ichx: Program, dataset_copy: Path) -> None:
    ichx("exp", "new", "--plugin", "tiny_resnet", "--size", 32, cwd=dataset_copy)
    (dataset_copy / "text.pth").write_text("hello")
    for arguments, told in (
        (("--fold", 5), "experiment 1 has no fold 5"),
        (("--device", "gpu"), "'gpu' is no device"),
        (("--weights", "none.pth"), "cannot read the weights file none.pth"),
        (("--weights", "text.pth"), "text.pth"),
        (("--weights", "text.pth", "--pretrained"), "contradict each other"),
    ):
        assert_told(ichx("run", 1, *arguments, cwd=dataset_copy), told)
    assert {path.name for path in (dataset_copy / "experiments").rglob("fold-*/*")} <= {"run.log", "code.diff"}
    assert ichx("run", 1, "--workers", -1, cwd=dataset_copy).code == 2


def test_files_that_changed_or_left_since_they_were_added(ichx: Program, place: Path) -> None:
    ichx("data", "add", "ph", "files", "--labels", "labels.csv", "--folds", 2, cwd=place)
    ichx("exp", "new", "--plugin", "tiny_resnet", "--size", 32, cwd=place)
    victim = sorted(path for path in (place / "files").rglob("*") if path.is_file())[5]
    content = victim.read_bytes()
    victim.write_bytes(content[:-10])
    done = ichx("run", 1, cwd=place)
    assert done.code == 1
    assert victim.name in done.err
    assert "Traceback" not in done.err
    victim.unlink()
    assert ichx("run", 1, cwd=place).code == 1
    (place / "datasets" / "ph" / "v1" / "catalog.parquet").unlink()
    assert_told(ichx("run", 1, cwd=place), "catalog.parquet")


def test_a_test_set_that_does_not_fit(ichx: Program, place: Path) -> None:
    ichx("data", "add", "ph", "files", "--labels", "labels.csv", "--folds", 2, cwd=place)
    write_ct(place / "test.dcm")
    (place / "test").mkdir()
    (place / "test.dcm").rename(place / "test" / "a.dcm")
    (place / "sample.csv").write_text("ID,Label\nID_other_any,0.5\n")
    before = state(place)
    for arguments, told in (
        (("--sample", "sample.csv", "--test-of", "ph"), "sample.csv"),
        (("--sample", "none.csv", "--test-of", "ph"), "none.csv"),
        (("--sample", "sample.csv"), "--sample"),
        (("--test-of", "hp"), "'hp'"),
        (("--test-of", "ph", "--labels", "labels.csv"), "--labels"),
    ):
        assert_told(ichx("data", "add", "pht", "test", *arguments, cwd=place), told)
    assert state(place) == before


def test_a_place_that_is_no_place(ichx: Program, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert_told(ichx("init", "file/inner", cwd=tmp_path), str(tmp_path / "file" / "inner"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    done = ichx("data", "phantom", "full", "--patients", 1, "--size", 32, cwd=tmp_path)
    assert_told(done, "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]


def test_a_full_disk_while_adding(ichx: Program, place: Path, phantom: PhantomFiles) -> None:
    ichx("data", "list", cwd=place)  # the store is made before the disk is full
    before = state(place)
    add = ("data", "add", "ph", phantom.train, "--labels", phantom.train_labels, "--folds", "2")
    done = run_with_limit(1, "-m", "ichx", *add, cwd=place)
    assert_told(done, "failed")
    assert "not full" in done.err
    assert state(place) == before
    assert "ph " not in ichx("data", "list", cwd=place).out
    assert ichx(*add, cwd=place).code == 0


def test_a_full_disk_while_caching(ichx: Program, dataset_copy: Path) -> None:
    ichx("exp", "new", "--plugin", "tiny_resnet", "--size", 64, cwd=dataset_copy)
    done = run_with_limit(600, "-m", "ichx", "run", "1", cwd=dataset_copy)
    assert_told(done, "the cache")
    assert not list((dataset_copy / "cache").rglob("cache.json"))
    assert not list((dataset_copy / "cache").rglob("*.shard"))


def test_a_full_disk_while_blending(ichx: Program, trained_copy: Path) -> None:
    before = state(trained_copy)
    done = run_with_limit(2, "-m", "ichx", "ensemble", "--top", "3", "--out", "final.csv", cwd=trained_copy)
    assert done.code == 1
    assert "Traceback" not in done.err
    assert state(trained_copy) == before
    done = ichx("ensemble", "--top", 3, "--out", "text/final.csv", cwd=trained_copy)
    assert done.code == 0
    assert_told(ichx("ensemble", "--top", 3, "--out", "text", cwd=trained_copy), "cannot write")
