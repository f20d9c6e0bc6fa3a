"""`ichx data folds` and `ichx exp new --folds`; the mark of leaky folds wherever a score is shown."""

import json
import re
from pathlib import Path

import pytest
from conftest import SHORT, Program

from ichx.datasets.dataset import load_dataset
from ichx.project import Project
from ichx.store import open_store
from ichx.workspace import open_workspace

pytestmark = pytest.mark.slow


def slices_of(root: Path) -> list[tuple[str, str]]:
    """Return slice id and patient of each slice of the dataset `ph`."""
    workspace = open_workspace(root)
    with open_store(workspace) as store:
        slices = load_dataset(Project(workspace, store), "ph").slices
    return list(zip(slices["slice_id"], slices["patient"], strict=True))


def write(path: Path, rows: list[tuple[str, int]], header: str = "image,fold") -> Path:
    path.write_text(header + "\n" + "".join(f"{name},{fold}\n" for name, fold in rows))
    return path


@pytest.fixture
def leaky(dataset_copy: Path) -> Path:
    """Return a CSV of two folds, numbered from 1, that split every patient of `ph`."""
    return write(dataset_copy / "kaggle.csv", [(i, n % 2 + 1) for n, (i, _) in enumerate(slices_of(dataset_copy))])


@pytest.fixture
def honest(dataset_copy: Path) -> Path:
    """Return a CSV of four folds that keep the patients of `ph` together."""
    patients = sorted({patient for _, patient in slices_of(dataset_copy)})
    return write(
        dataset_copy / "mine.csv", [(i, patients.index(patient) % 4) for i, patient in slices_of(dataset_copy)]
    )


def test_folds_of_a_dataset(ichx: Program, dataset_copy: Path) -> None:
    done = ichx("data", "folds", "ph", cwd=dataset_copy)
    assert (done.code, done.err) == (0, "")
    for expected in ("ph version 1", "folds default: 2 folds", "seed 0", "epidural", "fold 1"):
        assert expected in done.out
    found = json.loads(ichx("data", "folds", "ph", "--json", cwd=dataset_copy).out)
    (folds,) = found["fold_sets"]
    assert (folds["fold_set"]["name"], folds["default"], folds["leaks"]) == ("default", True, [])
    assert sum(fold["slices"] for fold in folds["folds"]) == found["version"]["slices"]


def test_imported_folds_are_selected_by_name(ichx: Program, dataset_copy: Path, honest: Path) -> None:
    done = ichx("data", "folds", "ph", "--import", honest, cwd=dataset_copy)
    assert done.code == 0
    assert "folds mine of ph version 2" in done.out
    assert re.search("'image'.*'fold'.*SOPInstanceUID", done.err)
    assert "warning" not in done.err
    again = json.loads(ichx("data", "folds", "ph", "--import", honest, "--json", cwd=dataset_copy).out)
    assert (again["created"], again["version"]["number"]) == (False, 2)
    shown = ichx("data", "folds", "ph", "--name", "mine", cwd=dataset_copy)
    assert "folds mine: 4 folds, imported from mine.csv" in shown.out
    assert "default" not in shown.out
    assert "other folds: mine" in ichx("data", "show", "ph", cwd=dataset_copy).out
    new = ("exp", "new", "--plugin", "tiny_resnet", "--size", 32, "--json")
    for arguments, folds in (((), ("default", 2)), (("--folds", "mine"), ("mine", 4))):
        (made,) = json.loads(ichx(*new, *arguments, cwd=dataset_copy).out)
        assert (made["fold_set"], made["folds"]) == folds
        assert (made["leaked"], made["dataset_version"]) == (False, 2)
    six = json.loads(ichx("exp", "new", "--reference", "--folds", "mine", "--json", cwd=dataset_copy).out)
    assert [e["fold_set"] for e in six] == ["mine"] * 6
    assert "0 of 4 done, mine" in ichx("exp", "show", 2, cwd=dataset_copy).out


def test_leaky_folds_are_refused(ichx: Program, dataset_copy: Path, leaky: Path) -> None:
    done = ichx("data", "folds", "ph", "--import", leaky, cwd=dataset_copy)
    assert done.code == 1
    patients = {patient for _, patient in slices_of(dataset_copy)}
    assert all(patient in done.out for patient in patients)
    done = ichx("data", "folds", "ph", "--import", leaky, "--json", cwd=dataset_copy)
    done.check_error("conflict", "8 of 8", "100.0%")
    assert "--allow-leaks" in done.error["remedy"]
    assert {leak["patient"] for leak in done.error["leaks"]} == patients
    assert json.loads(ichx("data", "folds", "ph", "--json", cwd=dataset_copy).out)["version"]["number"] == 1


def test_leaky_folds_mark_every_score(ichx: Program, dataset_copy: Path, leaky: Path) -> None:
    """The import, the run, the list, the report and the blend show the mark."""

    def run(*arguments: object) -> tuple[str, str]:
        done = ichx(*arguments, cwd=dataset_copy)
        assert done.code == 0, done.err
        return done.out, done.err

    out, err = run("data", "folds", "ph", "--import", leaky, "--allow-leaks", "--name", "theirs")
    assert "folds theirs of ph version 2" in out
    assert "`leaky folds`" in err
    imported = json.loads(run("data", "folds", "ph", "--name", "theirs", "--json")[0])["fold_sets"][0]
    assert (imported["fold_set"]["leaking_patients"], len(imported["leaks"])) == (8, 8)
    out, err = run("data", "folds", "ph")
    assert "8 patients in more than one fold" in out
    assert "warning: " in err

    settings = [part for setting in SHORT for part in ("--set", setting)]
    _, err = run("exp", "new", "--plugin", "tiny_resnet", "--size", 32, "--folds", "theirs", *settings)
    assert re.search("warning: .*theirs.*`leaky folds`", err)
    out, err = run("run", 1)
    assert "[leaky folds]" in out
    assert re.search("theirs.* 8 of 8 ", err)
    assert "fold 1 done" in err
    assert err.count("[leaky folds]") == 2
    assert json.loads(run("run", 1, "--json")[0])["marks"] == ["leaky folds"]
    assert "[leaky folds]" in run("exp", "list")[0]
    assert json.loads(run("exp", "list", "--json")[0])[0]["leaked"] is True
    out = run("exp", "show", 1)[0]
    assert "[leaky folds]" in out
    assert "8 patients in more than one" in out
    assert json.loads(run("exp", "show", 1, "--json")[0])["experiment"]["leaked"] is True
    assert "[leaky folds]" in run("report", 1)[1]
    page = (dataset_copy / "experiments" / "1" / "report.html").read_text()
    assert "8 of 8 patients" in page
    assert "imported from kaggle.csv" in page

    refused = ichx("ensemble", "--top", 1, "--json", cwd=dataset_copy)
    refused.check_error("not_ready")
    assert "1 (tiny_resnet-32-linear)" in refused.error["problem"] + refused.error["remedy"]
    out, err = run("ensemble", "--members", 1)
    assert "ensemble 1 on ph, tta hflip [leaky folds]" in out
    assert "theirs" in err
    assert json.loads(run("ensemble", "--members", 1, "--json")[0])["ensemble"]["leaked"] is True

    run("exp", "new", "--plugin", "tiny_resnet", "--size", 32, "--name", "honest", *settings)
    run("run", 2)
    out, err = run("ensemble", "--top", 2)
    assert "honest" in out
    assert "leaky" not in out
    assert "1 (tiny_resnet-32-linear)" in err
    mixed = ichx("ensemble", "--members", "1,2", "--json", cwd=dataset_copy)
    mixed.check_error("conflict", "2", "1", "125", "default", "theirs")


def test_exported_folds_are_the_same_when_imported(ichx: Program, dataset_copy: Path) -> None:
    written = json.loads(ichx("data", "folds", "ph", "--export", "out.csv", "--json", cwd=dataset_copy).out)
    assert (written["file"], written["fold_set"]["name"]) == ("out.csv", "default")
    imported = json.loads(ichx("data", "folds", "ph", "--import", "out.csv", "--json", cwd=dataset_copy).out)
    assert imported["fold_set"]["digest"] == written["fold_set"]["digest"]
    assert imported["leaks"] == []


@pytest.mark.parametrize(
    ("content", "values"),
    [
        ("", []),
        ("image,fold\n", []),
        ("image,label\na,0\n", ["image, label"]),
        ("image,fold\na,0\nb,2\n", ["0, 2"]),
        ("image,fold\na,0\nb,1\na,1\n", ["a in 0, 1"]),
        ("image,fold\na,0\nb,1\n", ["ph"]),
        ("patient_id,fold\na,0\nb,1\n", ["ph", "patient"]),
    ],
)
def test_invalid_files(ichx: Program, dataset_copy: Path, content: str, values: list[str]) -> None:
    (dataset_copy / "bad.csv").write_text(content)
    done = ichx("data", "folds", "ph", "--import", "bad.csv", "--json", cwd=dataset_copy)
    done.check_error("invalid_input" if content else "corrupt_file", "bad.csv", *values)


def test_invalid_options(ichx: Program, dataset_copy: Path, honest: Path) -> None:
    for arguments, code, values in (
        (("--allow-leaks",), "usage", ["--allow-leaks", "--import"]),
        (("--import", honest, "--version", 1), "usage", ["--version"]),
        (("--import", "absent.csv"), "not_found", ["absent.csv"]),
        (("--import", honest, "--name", "default"), "conflict", ["default"]),
        (("--name", "mien"), "not_found", ["'mien'"]),
        (("--version", 9), "not_found", ["ph", "9"]),
        (("--export", "out.csv", "--import", honest), "usage", ["--export", "--import"]),
        (("--export", "absent/out.csv", "--name", "mien"), "not_found", ["'mien'"]),
    ):
        ichx("data", "folds", "ph", *arguments, "--json", cwd=dataset_copy).check_error(code, *values)
    ichx("data", "folds", "ph-test", "--json", cwd=dataset_copy).check_error("conflict", "ph-test")
    ichx("data", "folds", "ph", "--import", honest, cwd=dataset_copy)
    done = ichx("exp", "new", "--plugin", "tiny_resnet", "--folds", "mien", "--json", cwd=dataset_copy)
    done.check_error("not_found", "'mien'")
    assert "'mine'" in done.error["remedy"]
