"""Invalid input: error codes and values, no traceback, and no partly written files."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Program
from dicom_files import write_ct, write_study
from full_disk import run_with_limit

from ichx.labels import LABELS
from ichx.phantom.dicom_files import PhantomFiles
from ichx.workspace import init_workspace


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a workspace with `files/` (4 patients) and `labels.csv`, and without a dataset."""
    root = init_workspace(tmp_path / "workspace").root
    ids = [i for p in range(4) for i in write_study(root / "files", str(p), 3)]
    write_labels(root / "labels.csv", ids)
    return root


def write_labels(path: Path, ids: list[str]) -> None:
    rows = [f"{i}_{label},{n % 2}" for n, i in enumerate(ids) for label in LABELS]
    path.write_text("ID,Label\n" + "\n".join(rows) + "\n")


def dicom_files(root: Path) -> list[Path]:
    return sorted(path for path in (root / "files").rglob("*") if path.is_file())


def file_sizes(root: Path) -> dict[str, int]:
    """Return all files of the workspace except those of the store, whose journal may grow."""
    files = [path for path in root.rglob("*") if path.is_file() and path.parent.name != "db"]
    return {str(path.relative_to(root)): path.stat().st_size for path in files}


def other_columns(root: Path) -> None:
    (root / "labels.csv").write_text("name,value\na,1\n")


def label_of_two(root: Path) -> None:
    path = root / "labels.csv"
    path.write_text(path.read_text().replace("_any,1", "_any,2", 1))


def label_of_perhaps(root: Path) -> None:
    path = root / "labels.csv"
    path.write_text(path.read_text().replace("_any,1", "_any,perhaps", 1))


def missing_labels(root: Path) -> None:
    (root / "labels.csv").unlink()


def empty_labels(root: Path) -> None:
    (root / "labels.csv").write_text("")


def unknown_labels(root: Path) -> None:
    write_labels(root / "labels.csv", ["ID_unknown_1", "ID_unknown_2"])


def empty_folder(root: Path) -> None:
    for path in dicom_files(root):
        path.unlink()


def text_files(root: Path) -> None:
    for path in dicom_files(root):
        path.write_text("not an image")


def truncated_files(root: Path) -> None:
    for path in dicom_files(root):
        path.write_bytes(path.read_bytes()[:700])


@pytest.mark.parametrize(
    ("damage", "code", "values"),
    [
        (empty_folder, "invalid_input", ["files"]),
        (text_files, "invalid_input", ["files"]),
        (truncated_files, "invalid_input", ["files"]),
        (missing_labels, "not_found", ["labels.csv"]),
        (empty_labels, "corrupt_file", ["labels.csv"]),
        (other_columns, "invalid_input", ["labels.csv", "name, value"]),
        (label_of_two, "invalid_input", ["labels.csv", "'2'"]),
        (label_of_perhaps, "invalid_input", ["labels.csv", "'perhaps'"]),
        (unknown_labels, "invalid_input", ["labels.csv", "ID_unknown_1"]),
    ],
)
def test_data_that_cannot_be_added(
    damage: Callable[[Path], None], code: str, values: list[str], ichx: Program, root: Path
) -> None:
    damage(root)
    before = file_sizes(root)
    done = ichx("data", "add", "ph", "files", "--labels", "labels.csv", "--folds", 2, "--json", cwd=root)
    done.check_error(code, *values)
    assert file_sizes(root) == before
    assert ichx("data", "list", "--json", cwd=root).out == "[]\n"


def test_an_unusable_path_of_a_dataset(ichx: Program, root: Path) -> None:
    add = ("data", "add", "ph")
    ichx(*add, "nowhere", "--labels", "labels.csv", "--json", cwd=root).check_error("not_found", "nowhere")
    ichx(*add, "labels.csv", "--labels", "labels.csv", "--json", cwd=root).check_error("invalid_input", "labels.csv")


def test_a_truncated_file_is_excluded_with_a_warning(ichx: Program, root: Path) -> None:
    victim = dicom_files(root)[0]
    victim.write_bytes(victim.read_bytes()[:700])
    done = ichx("data", "add", "ph", "files", "--labels", "labels.csv", "--folds", 2, cwd=root)
    assert done.code == 0
    assert [line for line in done.err.splitlines() if line.startswith("warning: ") and " 1 " in line]
    assert victim.name in ichx("data", "show", "ph", cwd=root).out


def test_without_a_workspace(ichx: Program, tmp_path: Path) -> None:
    ichx("exp", "list", "--json", cwd=tmp_path).check_error("not_found", str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "code", "values"),
    [
        (("exp", "new", "--plugin", "tiny_resnet"), "not_ready", []),
        (("exp", "new", "--reference"), "not_ready", []),
        (("run", "1"), "not_found", ["1"]),
        (("run", "last"), "not_ready", []),
        (("ensemble",), "not_ready", []),
        (("data", "show", "ph"), "not_found", ["'ph'"]),
        (("data", "add", "t", "files", "--test-of", "ph"), "not_found", ["'ph'"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_an_empty_workspace(
    arguments: tuple[str, ...], code: str, values: list[str], ichx: Program, root: Path
) -> None:
    ichx(*arguments, "--json", cwd=root).check_error(code, *values)


@pytest.mark.parametrize(
    ("options", "code", "values"),
    [
        (("--plugin", "nobodys"), "not_found", ["'nobodys'"]),
        ((), "invalid_input", []),
        (("--from", "none.toml"), "not_found", ["none.toml"]),
        (("--from", "broken.toml"), "invalid_input", ["broken.toml"]),
        (("--from", "."), "storage", ["."]),
        (("--from", "pipe.toml"), "storage", ["pipe.toml"]),
        (("--from", "foreign.toml"), "invalid_input", ["foreign.toml", "batch"]),
        (("--from", "resnext.toml", "--plugin", "tiny_resnet"), "conflict", ["resnext.toml", "resnext50"]),
        (("--plugin", "resnext50", "--crop", "999"), "invalid_input", ["999", "378"]),
        (("--plugin", "resnext50", "--set", "batch=0"), "invalid_input", ["batch", "0", "65536"]),
        (("--plugin", "resnext50", "--set", "batch"), "invalid_input", ["'batch'", "NAME=VALUE"]),
        (("--plugin", "resnext50", "--dataset", "ph-test"), "invalid_input", ["ph-test"]),
        (("--plugin", "resnext50", "--size", "8"), "invalid_input", ["input.size", "8"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_experiments_that_cannot_be_registered(
    options: tuple[str, ...], code: str, values: list[str], ichx: Program, dataset_copy: Path
) -> None:
    (dataset_copy / "broken.toml").write_text("batch = [")
    (dataset_copy / "foreign.toml").write_text('plugin = "nobody"\n')
    os.mkfifo(dataset_copy / "pipe.toml")
    recipe = ichx("plugin", "show", "resnext50", "--toml", cwd=dataset_copy).out
    (dataset_copy / "resnext.toml").write_text(recipe, encoding="utf-8-sig", newline="\r\n")  # as Windows writes it
    ichx("exp", "new", *options, "--json", cwd=dataset_copy).check_error(code, *values)
    assert ichx("exp", "list", "--json", cwd=dataset_copy).out == "[]\n"


def test_runs_that_cannot_start(ichx: Program, dataset_copy: Path) -> None:
    ichx("exp", "new", "--plugin", "tiny_resnet", "--size", 32, cwd=dataset_copy)
    (dataset_copy / "text.pth").write_text("hello")
    os.mkfifo(dataset_copy / "pipe.pth")
    for options, code, values in (
        (("--fold", 5), "not_found", ["1", "5"]),
        (("--weights", "none.pth"), "not_found", ["none.pth"]),
        (("--weights", "text.pth"), "corrupt_file", ["text.pth"]),
        (("--weights", "pipe.pth"), "storage", ["pipe.pth"]),
        (("--weights", "text.pth", "--pretrained"), "invalid_input", []),
    ):
        ichx("run", 1, *options, "--json", cwd=dataset_copy).check_error(code, *values)
    assert {path.name for path in (dataset_copy / "experiments").rglob("fold-*/*")} <= {"run.log", "code.diff"}


def test_files_that_changed_since_they_were_added(ichx: Program, root: Path) -> None:
    ichx("data", "add", "ph", "files", "--labels", "labels.csv", "--folds", 2, cwd=root)
    ichx("exp", "new", "--plugin", "tiny_resnet", "--size", 32, cwd=root)
    victim = dicom_files(root)[5]
    victim.write_bytes(victim.read_bytes()[:-10])
    ichx("run", 1, "--json", cwd=root).check_error("changed_data", victim.name)
    victim.unlink()
    ichx("run", 1, "--json", cwd=root).check_error("changed_data", victim.name)
    (root / "datasets" / "ph" / "v1" / "catalog.parquet").unlink()
    ichx("run", 1, "--json", cwd=root).check_error("changed_data", "catalog.parquet")


def test_a_test_set_that_does_not_fit(ichx: Program, root: Path) -> None:
    ichx("data", "add", "ph", "files", "--labels", "labels.csv", "--folds", 2, cwd=root)
    write_ct(root / "test" / "a.dcm")
    (root / "sample.csv").write_text("ID,Label\nID_other_any,0.5\n")
    before = file_sizes(root)
    for options, code, values in (
        (("--sample", "sample.csv", "--test-of", "ph"), "invalid_input", ["sample.csv"]),
        (("--sample", "none.csv", "--test-of", "ph"), "not_found", ["none.csv"]),
        (("--sample", "sample.csv"), "invalid_input", ["--sample"]),
        (("--test-of", "hp"), "not_found", ["'hp'"]),
        (("--test-of", "ph", "--labels", "labels.csv"), "invalid_input", ["--labels", "--test-of"]),
    ):
        ichx("data", "add", "pht", "test", *options, "--json", cwd=root).check_error(code, *values)
    assert file_sizes(root) == before


def test_unusable_output_folders(ichx: Program, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = ichx("init", "file/inner", cwd=tmp_path)
    assert (done.code, done.out, "file/inner" in done.err) == (1, "", True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    done = ichx("data", "phantom", "full", "--patients", 1, "--size", 32, cwd=tmp_path)
    assert (done.code, done.out, "full" in done.err) == (1, "", True)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["mine"]


def test_full_disk_while_writing_a_phantom(tmp_path: Path) -> None:
    options = ("--patients", 1, "--size", 64, "--prevalence", "any=0.4")
    done = run_with_limit(4, "-m", "ichx", "data", "phantom", "ph", *options, cwd=tmp_path)
    assert (done.code, done.out, list(tmp_path.iterdir())) == (1, "", [])
    problem, remedy = done.err.strip().splitlines()
    assert str(tmp_path / "ph") in problem
    assert "File too large" in problem
    assert remedy.startswith("      ")


@pytest.mark.parametrize(
    "arguments",
    [
        ("data", "add", "more", "files", "--labels", "labels.csv", "--fold-seed", -1),
        ("data", "add", "more", "files", "--labels", "labels.csv", "--fold-seed", 2**64),
        ("data", "add", "more", "files", "--labels", "labels.csv", "--folds", 10**30),
        ("data", "show", "ph", "--version", 10**30),
        ("data", "sheet", "ph", "--out", "s.png", "--windows", ",".join(["brain"] * 3000)),
        ("data", "sheet", "ph", "--out", "s.png", "--count", 10**30),
        ("data", "sheet", "ph", "--out", "s.png", "--windows", "40:1e-300"),
        ("data", "cache", "ph", "--for", 10**30),
        ("exp", "show", 10**30),
    ],
    ids=lambda value: f"{value[1]} {value[-2]} {value[-1]}"[:40],
)
def test_absurd_numbers(arguments: tuple[object, ...], ichx: Program, root: Path) -> None:
    assert ichx("data", "add", "ph", "files", "--labels", "labels.csv", "--folds", 2, cwd=root).code == 0
    before = file_sizes(root)
    ichx(*arguments, "--json", cwd=root).check_error("invalid_input")
    assert file_sizes(root) == before


def test_full_disk_while_adding(ichx: Program, root: Path, phantom: PhantomFiles) -> None:
    ichx("data", "list", cwd=root)  # create the store before the disk is full
    before = file_sizes(root)
    add = ("data", "add", "ph", phantom.train, "--labels", phantom.train_labels, "--folds", "2")
    done = run_with_limit(1, "-m", "ichx", *add, "--json", cwd=root)
    done.check_error("store")
    assert file_sizes(root) == before
    assert ichx("data", "list", "--json", cwd=root).out == "[]\n"
    assert ichx(*add, cwd=root).code == 0


def test_full_disk_while_caching(ichx: Program, dataset_copy: Path) -> None:
    ichx("exp", "new", "--plugin", "tiny_resnet", "--size", 64, cwd=dataset_copy)
    done = run_with_limit(600, "-m", "ichx", "run", "1", "--json", cwd=dataset_copy)
    done.check_error("storage", str(dataset_copy / "cache"))
    assert not list((dataset_copy / "cache").rglob("cache.json"))
    assert not list((dataset_copy / "cache").rglob("*.shard"))


def test_full_disk_while_blending(ichx: Program, trained_copy: Path) -> None:
    before = file_sizes(trained_copy)
    done = run_with_limit(2, "-m", "ichx", "ensemble", "--top", "3", "--out", "final.csv", "--json", cwd=trained_copy)
    done.check_error("store")
    assert file_sizes(trained_copy) == before
    assert ichx("ensemble", "--top", 3, "--out", "text/final.csv", cwd=trained_copy).code == 0
    ichx("ensemble", "--top", 3, "--out", "text", "--json", cwd=trained_copy).check_error("invalid_input", "text")
