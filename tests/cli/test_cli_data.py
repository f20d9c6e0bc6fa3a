"""`ichx data`: add, list, show, check, sheet, phantom, rm."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from conftest import Program
from dicom_files import write_ct, write_study
from typer.testing import CliRunner
from zip_files import zip_folder

from ichx.cli.data import app
from ichx.cli.output import console
from ichx.errors import IchxError
from ichx.labels import LABELS
from ichx.workspace import init_workspace

if TYPE_CHECKING:
    from ichx.phantom.dicom_files import PhantomFiles


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with `train`, `train.csv`, `test` and `sample.csv`; a workspace is the current one."""
    monkeypatch.setenv("ICHX_WORKSPACE", str(init_workspace(tmp_path / "workspace").root))
    monkeypatch.setattr(console, "_width", 200)  # the environment was asked when it was made
    ids = [i for p in range(4) for i in write_study(tmp_path / "train", str(p), 3)]
    rows = [f"{i}_{label},{int(n % 2)}" for n, i in enumerate(ids) for label in LABELS]
    (tmp_path / "train.csv").write_text("ID,Label\n" + "\n".join(rows) + "\n")
    (tmp_path / "train" / "notes.txt").write_text("hello")
    asked = [f"{i}_{label},0.5" for i in write_study(tmp_path / "test", "9", 2) for label in LABELS]
    (tmp_path / "sample.csv").write_text("ID,Label\n" + "\n".join(asked) + "\n")
    return tmp_path


def ichx_data(*arguments: object) -> tuple[str, str]:
    """Return standard output and standard error of a command that succeeds."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout, result.stderr


def add_both(files: Path) -> None:
    ichx_data("add", "train", files / "train", "--labels", files / "train.csv", "--folds", 2)
    ichx_data("add", "test", files / "test", "--test-of", "train", "--sample", files / "sample.csv")


def test_add_reports_what_it_found(files: Path) -> None:
    arguments = ("add", "train", files / "train", "--labels", files / "train.csv", "--folds", 2)
    out, err = ichx_data(*arguments)
    assert "train version 1: 12 slices" in out
    assert "13 files: 12 slices, 4 patients, 4 studies, 4 series" in err
    assert "not_dicom" in err
    assert not json.loads(ichx_data(*arguments, "--json")[0])["created"]


def test_standard_output_is_json(files: Path) -> None:
    out, _ = ichx_data("add", "train", files / "train", "--labels", files / "train.csv", "--folds", 2, "--json")
    added = json.loads(out)
    assert (added["created"], added["version"]["number"], added["version"]["folds"][0]["k"]) == (True, 1, 2)
    listed = json.loads(ichx_data("list", "--json")[0])
    assert [(entry["dataset"]["name"], entry["version"]["slices"]) for entry in listed] == [("train", 12)]
    shown = json.loads(ichx_data("show", "train", "--json")[0])
    assert shown["defects"][0]["examples"] == ["notes.txt"]
    assert shown["version"]["summary"]["prevalences"] == dict.fromkeys(LABELS, 0.5)
    assert [fold["slices"] for fold in shown["folds"]] == [6, 6]


def test_list_and_show(files: Path) -> None:
    add_both(files)
    out, _ = ichx_data("list")
    assert "test set of train" in out
    out, _ = ichx_data("show", "train")
    for expected in (
        "fold 1",
        "epidural",
        "not_dicom",
        "notes.txt",
        "16 bit unsigned",
        "-1024",
        "ichx data check train",
    ):
        assert expected in out
    out, _ = ichx_data("show", "test", "--version", 1)
    assert "sample: 12 ids of 2 images" in out


def test_show_fits_80_columns(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_study(
        files / "train", "7", 1, ImagePositionPatient=[0, 0, 200.0], PatientID="0", SeriesInstanceUID="ID_series0"
    )
    for number in range(20):
        write_ct(files / f"train/{number}.dcm", np.zeros((32, 32), np.uint16), RescaleIntercept=-number)
    ichx_data("add", "wide", files / "train")
    ichx_data("check", "wide")
    monkeypatch.setattr(console, "_width", 80)
    out, _ = ichx_data("show", "wide")
    assert max(map(len, out.splitlines()[1:])) <= 80, "the first line has the path of the source"
    assert "9 more rows" in out
    assert "constant_image" in out


def test_check_reports_defects_that_only_decoding_finds(files: Path) -> None:
    write_ct(files / "train" / "black.dcm", np.zeros((32, 32), np.uint16))
    ichx_data("add", "x", files / "train")
    out, err = ichx_data("check", "x")
    assert "14 found" in out
    assert "= 12 slices + 1 " in out
    assert "decoding: 13 of 13" in err
    checked = json.loads(ichx_data("check", "x", "--json")[0])
    assert {(r["reason"], r["seen_in"]) for r in checked["reasons"]} == {
        ("not_dicom", "headers"),
        ("constant_image", "decoding"),
    }
    (files / "train" / "more.dcm").write_bytes(b"new")
    assert [line for line in ichx_data("check", "x")[1].splitlines() if "1 new" in line and "more.dcm" in line]
    (files / "train" / "black.dcm").unlink()
    with pytest.raises(IchxError, match="black.dcm"):
        ichx_data("check", "x")


def test_sheet(files: Path) -> None:
    add_both(files)
    out = files / "sheet.png"
    message = ichx_data("sheet", "train", "--label", "subdural", "--count", 3, "--sigmoid", "--out", out)[1]
    assert "3 of 6 slices" in message
    assert out.read_bytes().startswith(b"\x89PNG")
    drawn = json.loads(ichx_data("sheet", "train", "--windows", "brain", "--out", out, "--json")[0])
    assert (drawn["sheet"]["candidates"], len(drawn["slices"])) == (12, 12)


def test_a_zip_with_its_labels_inside(files: Path) -> None:
    (files / "all").mkdir()
    for name in ("train", "test", "train.csv", "sample.csv"):
        (files / name).rename(files / "all" / name)
    archive = zip_folder(files / "all", files / "comp.zip", "comp/")
    inside = archive / "comp"
    _, err = ichx_data("add", "train", inside / "train", "--labels", inside / "train.csv", "--folds", 2)
    assert "13 files: 12 slices, 4 patients" in err
    ichx_data("add", "test", inside / "test", "--test-of", "train", "--sample", inside / "sample.csv")
    out, _ = ichx_data("add", "train", inside / "train", "--labels", inside / "train.csv", "--folds", 2, "--json")
    assert not json.loads(out)["created"]


def test_errors_are_left_to_the_program(files: Path) -> None:
    add_both(files)
    with pytest.raises(IchxError, match="'trian'") as caught:
        ichx_data("show", "trian")
    assert "'train'" in caught.value.remedy


def test_phantom_is_a_dataset(files: Path) -> None:
    folder = files / "a phantom"
    _, err = ichx_data("phantom", folder, "--patients", 2, "--seed", 3, "--size", 64, "--test-patients", 1)
    next_steps = [shlex.split(line.split("`")[1])[2:] for line in err.splitlines() if "`ichx data add" in line]
    assert len(next_steps) == 2
    ichx_data(*next_steps[0], "--folds", 2)
    ichx_data(*next_steps[1])
    versions = {e["dataset"]["name"]: e["version"] for e in json.loads(ichx_data("list", "--json")[0])}
    assert versions["phantom"]["patients"] == 2
    assert versions["phantom"]["defects"] == 0
    assert versions["phantom-test"]["summary"]["sample"]["absent"] == 0


def test_no_dataset_and_a_dataset_without_labels(files: Path) -> None:
    out, err = ichx_data("list")
    assert (out, "ichx data add" in err) == ("", True)
    assert ichx_data("list", "--json")[0] == "[]\n"
    _, err = ichx_data("add", "test", files / "test")
    assert "--labels" in err
    assert "unlabelled" in ichx_data("show", "test")[0]


def test_prevalences_of_a_phantom_are_validated(files: Path) -> None:
    options = [("--prevalence", text) for text in ("any", "subdural=0.1", "epidural=x")]
    result = CliRunner().invoke(app, ["phantom", str(files / "p"), *(word for option in options for word in option)])
    assert result.exit_code == 2
    assert "'any', 'epidural=x'" in result.stderr
    assert not (files / "p").exists()


def test_rm_deletes_a_dataset_with_its_caches_and_predictions(
    trained_copy: Path, phantom: "PhantomFiles", ichx: Program
) -> None:
    refused = ichx("data", "rm", "ph", "--json", cwd=trained_copy)
    refused.check_error("conflict", "ph", "1, 2, 3", "ph-test")
    for command in ("`ichx exp rm 1 2 3`", "`ichx gc`", "`ichx data rm ph-test`"):
        assert command in refused.error["remedy"]
    ichx("data", "rm", "hp", "--json", cwd=trained_copy).check_error("not_found", "'hp'")

    predicted = sorted((trained_copy / "experiments").glob("*/fold-*/test-ph-test-*.parquet"))
    caches = sorted((trained_copy / "cache").glob("ph-test-*"))
    asked = ichx("data", "rm", "ph-test", cwd=trained_copy)
    assert (asked.code, asked.out.count("4 predictions"), len(predicted)) == (0, 3, 12)
    assert "`ichx data rm ph-test --yes`" in asked.err
    named = json.loads(ichx("data", "rm", "ph-test", "--json", cwd=trained_copy).out)
    paths = {Path(path) for part in named for path in part["files"] or [part["path"]]}
    assert paths == {*predicted, *caches, trained_copy / "datasets" / "ph-test"}
    assert all(path.exists() for path in paths)

    done = ichx("data", "rm", "ph-test", "--yes", cwd=trained_copy)
    assert done.code == 0
    assert not any(path.exists() for path in paths)
    assert (trained_copy / "experiments" / "1" / "fold-0" / "oof-hflip.parquet").exists()
    assert [found["dataset"]["name"] for found in json.loads(ichx("data", "list", "--json", cwd=trained_copy).out)] == [
        "ph"
    ]
    assert ichx("store", "check", cwd=trained_copy).code == 0
    assert phantom.test is not None
    added = ichx("data", "add", "ph-test", phantom.test, "--test-of", "ph", cwd=trained_copy)
    assert (added.code, "added ph-test version 1" in added.out) == (0, True)

    assert ichx("exp", "rm", 1, 2, 3, cwd=trained_copy).code == 0
    assert ichx("gc", "--yes", cwd=trained_copy).code == 0
    for name in ("ph-test", "ph"):
        assert ichx("data", "rm", name, "--yes", cwd=trained_copy).code == 0
    assert json.loads(ichx("data", "list", "--json", cwd=trained_copy).out) == []
    assert phantom.train.is_dir()
