"""`ichx predict`, `ichx evaluate`, `ichx export`, `--save features`: data, errors and exit codes."""

import io
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from conftest import SHORT, Program
from dicom_files import write_ct

from ichx.labels import LABELS
from ichx.phantom.dicom_files import PhantomFiles, write_phantom

pytestmark = pytest.mark.slow

COLUMNS = [
    "slice_id",
    "patient",
    "study",
    "series",
    "order",
    "position",
    *LABELS,
    "flags",
    "defect",
    "detail",
    "file",
    "frame",
]


PAGE = (Path(__file__).parents[2] / "docs/inference.md").read_text(encoding="utf-8")


@pytest.fixture
def new_files(tmp_path: Path) -> Path:
    """Return a folder with two slices of a study, an empty one, and a text."""
    folder = tmp_path / "new"
    for name, height in (("a", 0), ("b", 5)):
        write_ct(folder / f"{name}.dcm", ImagePositionPatient=[-120, -120, height])
    write_ct(folder / "c.dcm", SOPInstanceUID=None)
    (folder / "notes.txt").write_text("two slices")
    return folder


def test_csv_on_standard_output_and_messages_on_standard_error(
    ichx: Program, trained_root: Path, new_files: Path
) -> None:
    done = ichx("predict", 2, new_files, "--tta", "hflip", cwd=trained_root)
    assert done.code == 0, done.err
    table = pd.read_csv(io.StringIO(done.out))
    assert list(table.columns) == COLUMNS
    assert table["file"].tolist() == ["a.dcm", "b.dcm", "c.dcm", "notes.txt"]
    assert table["order"].tolist()[:2] == [0, 1]
    assert table["position"].tolist()[:2] == [0, 5]
    assert table.loc[:1, list(LABELS)].ge(0).all(axis=None)
    assert table.loc[2:, [*LABELS, "order"]].isna().all(axis=None)
    assert table["study"].nunique() == 1
    assert table["study"].isna().tolist() == [False, False, False, True]
    assert table["defect"].tolist()[2:] == ["no_slice_id", "not_dicom"]
    assert "ID_study" not in done.out, "studies and series are keyed hashes"
    assert re.search("2 slices of 1 study .*experiment 2, 2 folds .*hflip", done.err)
    assert re.search("warning: .*no_slice_id 1, not_dicom 1", done.err)


def test_all_formats_have_the_same_values(ichx: Program, trained_root: Path, new_files: Path, tmp_path: Path) -> None:
    plain = pd.read_csv(io.StringIO(ichx("predict", 2, new_files, cwd=trained_root).out))
    printed = json.loads(ichx("predict", 2, new_files, "--json", cwd=trained_root).out)
    for name in ("out.csv", "out.parquet", "out.json"):
        done = ichx("predict", 2, new_files, "--out", tmp_path / "made" / name, cwd=trained_root)
        assert done.code == 0, done.err
        assert str(tmp_path / "made" / name) in done.out
    written = sorted(path.name for path in (tmp_path / "made").iterdir())
    assert written == [
        *("out.csv", "out.json", "out.parquet", "out.series.csv"),
        *("out.series.parquet", "out.studies.csv", "out.studies.parquet"),
    ]
    assert json.loads((tmp_path / "made/out.json").read_text()) == printed
    assert (printed["experiment"], printed["folds"], printed["defects"]) == (
        2,
        [0, 1],
        {"no_slice_id": 1, "not_dicom": 1},
    )
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "made/out.csv"), plain)
    parquet = pd.read_parquet(tmp_path / "made/out.parquet")
    studies = pd.read_csv(tmp_path / "made/out.studies.csv")
    assert studies.shape[0] == len(printed["studies"]) == 1
    for name in {*plain.columns, *studies.columns} - set(LABELS):
        assert f"`{name}`" in PAGE
    for label in LABELS:
        assert parquet[label].tolist()[:2] == plain[label].tolist()[:2]
        assert [row[label] for row in printed["slices"]][:2] == plain[label].tolist()[:2]
        assert printed["slices"][3][label] is None
        assert studies[label][0] == plain[label].max() == printed["studies"][0][label]


def test_file_names_are_no_formulas_in_csv(ichx: Program, trained_root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    write_ct(folder / "=cmd.dcm")
    (folder / "@\x1b[2J").write_text("text")
    done = ichx("predict", 2, folder, "--fold", 0, "--out", tmp_path / "x.csv", "--csv", cwd=trained_root)
    assert done.code == 0, done.err
    assert done.out == (tmp_path / "x.csv").read_text(encoding="utf-8")
    assert pd.read_csv(io.StringIO(done.out))["file"].tolist() == ["'=cmd.dcm", "'@\\x1b[2J"]


def test_one_fold_or_all(ichx: Program, trained_root: Path, new_files: Path) -> None:
    def folds(*options: object) -> list[int]:
        found = json.loads(ichx("predict", 2, new_files, "--json", *options, cwd=trained_root).out)["folds"]
        assert isinstance(found, list)
        return found

    assert folds("--fold", 1) == [1]
    assert folds("--fold", 1, "--fold", 0) == folds("--fold", "all") == [0, 1]


@pytest.mark.parametrize(
    ("options", "code", "values"),
    [
        (("--fold", "one"), "usage", ["one"]),
        (("--save", "logits"), "usage", ["--save", "logits"]),
        (("--save", "features"), "usage", ["--out"]),
        (("--out", "x.txt"), "invalid_input", ["x.txt"]),
        (("--fold", "7"), "not_found", ["2", "7"]),
        (("--tta", "vflip"), "usage", ["--tta", "vflip"]),
        (("--device", "tpu"), "usage", ["'tpu'"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_invalid_options(
    ichx: Program, trained_root: Path, new_files: Path, options: tuple[str, ...], code: str, values: list[str]
) -> None:
    ichx("predict", 2, new_files, *options, "--json", cwd=trained_root).check_error(code, *values)


def test_files_without_a_usable_slice(ichx: Program, trained_root: Path, tmp_path: Path) -> None:
    write_ct(tmp_path / "mr/a.dcm", Modality="MR")
    done = ichx("predict", 2, tmp_path / "mr", "--out", tmp_path / "out/x.csv", "--json", cwd=trained_root)
    done.check_error("invalid_input", "not_ct", "1")
    assert not list(tmp_path.glob("out/*"))
    absent = tmp_path / "absent"
    ichx("predict", 2, absent, "--json", cwd=trained_root).check_error("not_found", str(absent))


def test_real_slices_and_real_defects(ichx: Program, trained_root: Path, shared_data: Path, tmp_path: Path) -> None:
    study = ichx("predict", 2, shared_data / "rsna_mini/stage_2_test", "--json", cwd=trained_root)
    found = json.loads(study.out)
    assert [s["slices"] for s in found["studies"]] == [32]
    assert [s["order"] for s in found["slices"]] == list(range(32))
    assert found["defects"] == {}
    syntaxes = json.loads(ichx("predict", 2, shared_data / "transfer_syntaxes", "--json", cwd=trained_root).out)
    assert len(syntaxes["slices"]) == 18
    assert set(syntaxes["defects"]) == {"duplicate_instance"}
    alone = ichx("predict", 2, shared_data / "defects/GH178.dcm", "--json", cwd=trained_root)
    alone.check_error("invalid_input", "no_pixels")


def test_features_are_saved_next_to_the_output(
    ichx: Program, trained_root: Path, new_files: Path, tmp_path: Path
) -> None:
    done = ichx("predict", 2, new_files, "--save", "features", "--out", tmp_path / "out/x.csv", cwd=trained_root)
    assert done.code == 0, done.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "x-fold-0-identity-features.parquet",
        "x-fold-1-identity-features.parquet",
        "x.csv",
        "x.series.csv",
        "x.studies.csv",
    ]


def test_a_run_saves_features(ichx: Program, dataset_copy: Path) -> None:
    settings = [f"--set={setting}" for setting in SHORT]
    assert ichx("exp", "new", "--plugin", "tiny_fine", "--size", 32, *settings, cwd=dataset_copy).code == 0
    done = ichx("run", 1, "--fold", 0, "--save", "features", cwd=dataset_copy)
    assert done.code == 0, done.err
    assert (dataset_copy / "experiments/1/fold-0/oof-identity-features.parquet").is_file()


def test_evaluate_prints_and_saves(ichx: Program, trained_copy: Path, tmp_path: Path, phantom: PhantomFiles) -> None:
    other = write_phantom(tmp_path / "other", patients=6, seed=2, size=64, prevalence={"any": 0.5})
    for name, files in (("other", other), ("again", phantom)):
        added = ichx("data", "add", name, files.train, "--labels", files.train_labels, cwd=trained_copy)
        assert added.code == 0, added.err
    first = ichx("evaluate", 2, "--dataset", "other", "--tta", "hflip", "--json", cwd=trained_copy)
    assert first.code == 0, first.err
    found = json.loads(first.out)
    assert (found["experiment"], found["dataset"], found["tta"], found["left_out"]) == (2, "other", "hflip", 0)
    assert found["slices"]["patients"] == 6
    assert set(found["folds"]) == {"0", "1"}
    shown = ichx("evaluate", 2, "--dataset", "other", "--tta", "hflip", cwd=trained_copy)
    loss = found["slices"]["scores"]["log_loss"]
    assert re.search(f"other version 1, tta hflip, per slice: .* {loss:.5f}", shown.out)
    assert "device" not in shown.err, "saved predictions are reused"
    ichx("evaluate", 2, "--dataset", "again", "--json", cwd=trained_copy).check_error("conflict", "8", "again")
    unknown = ichx("evaluate", 2, "--dataset", "othr", "--json", cwd=trained_copy)
    unknown.check_error("not_found", "'othr'")
    assert "'other'" in unknown.error["remedy"]


def test_predictions_by_label_with_ids_and_a_page(
    ichx: Program, trained_root: Path, new_files: Path, tmp_path: Path
) -> None:
    options = ("--fold", 0, "--label", "subdural", "--label", "any", "--report", tmp_path / "new.html")
    done = ichx("predict", 2, new_files, *options, "--id-map", tmp_path / "ids.csv", cwd=trained_root)
    assert done.code == 0, done.err
    hashed = pd.read_csv(io.StringIO(done.out))
    assert [name for name in hashed if name in LABELS] == ["subdural", "any"]
    assert str(tmp_path / "new.html") in done.err
    page = (tmp_path / "new.html").read_text(encoding="utf-8")
    assert hashed["series"][0] in page
    ids = pd.read_csv(tmp_path / "ids.csv").set_index("hash")["id"]
    assert (tmp_path / "ids.csv").stat().st_mode & 0o077 == 0
    kept = pd.read_csv(io.StringIO(ichx("predict", 2, new_files, "--fold", 0, "--keep-ids", cwd=trained_root).out))
    for name in ("patient", "study", "series"):
        assert hashed[name].map(ids).dropna().tolist() == kept[name].dropna().tolist()
    assert set(kept["study"].dropna()) == {"ID_study"}
    out = ichx(
        "predict", 2, new_files, "--fold", 0, "--label", "subdural", "--out", tmp_path / "x.csv", cwd=trained_root
    )
    assert "subdural" in out.out
    assert "any" not in out.out
    printed = ichx("predict", 2, new_files, "--fold", 0, "--csv", "--out", tmp_path / "x.csv", cwd=trained_root)
    assert printed.out == (tmp_path / "x.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "code", "value"),
    [
        ("--label fracture", "usage", "fracture"),
        ("--report page.pdf", "invalid_input", "page.pdf"),
        ("--id-map ids.txt", "invalid_input", "ids.txt"),
        ("--id-map ids.csv --keep-ids", "usage", "--id-map"),
    ],
)
def test_invalid_outputs(
    ichx: Program, trained_root: Path, new_files: Path, options: str, code: str, value: str
) -> None:
    ichx("predict", 2, new_files, *options.split(), "--json", cwd=trained_root).check_error(code, value)


@pytest.mark.usefixtures("intervals_of_few")
def test_evaluations_by_label_with_ids_and_a_page(ichx: Program, trained_copy: Path, tmp_path: Path) -> None:
    other = write_phantom(tmp_path / "other", patients=6, seed=2, size=64, prevalence={"any": 0.5})
    added = ichx("data", "add", "other", other.train, "--labels", other.train_labels, cwd=trained_copy)
    assert added.code == 0, added.err
    command = ("evaluate", 2, "--dataset", "other", "--fold", 0)
    found = json.loads(ichx(*command, "--json", cwd=trained_copy).out)
    assert found["thresholds"]["slice"]["any"][0]["rule"] == "specificity >= 0.80"
    scores = pd.read_csv(io.StringIO(ichx(*command, "--csv", cwd=trained_copy).out)).set_index(["unit", "label"])
    assert scores.loc[("slice", "weighted"), "log_loss"] == found["slices"]["scores"]["log_loss"]
    assert list(scores.loc["study"].index) == ["weighted", *LABELS]
    interval = found["slices"]["labels"]["any"]["auc"]
    row = scores.loc[("slice", "any")]
    assert (row["auc"], row["auc_low"], row["auc_high"]) == (interval["value"], interval["low"], interval["high"])
    short = ichx(*command, "--label", "any", cwd=trained_copy)
    assert "subdural" not in short.out
    assert len(short.out.splitlines()) < 50 < len(ichx(*command, cwd=trained_copy).out.splitlines())
    assert f"{row['auc']:.5f}" in short.out
    options = ("--out", tmp_path / "cases.csv", "--keep-ids", "--report", tmp_path / "page.html")
    done = ichx(*command, *options, cwd=trained_copy)
    assert done.code == 0, done.err
    assert str(tmp_path / "page.html") in done.out
    assert "Operating thresholds" in (tmp_path / "page.html").read_text(encoding="utf-8")
    cases = pd.read_csv(tmp_path / "cases.studies.csv")
    assert len(cases) == 6
    assert cases["study"].str.match("ID_").all()
    ichx(*command, "--keep-ids", "--json", cwd=trained_copy).check_error("usage", "--out")


def test_export_reports_the_difference(ichx: Program, trained_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "net.safetensors"
    done = ichx("export", 2, "--format", "safetensors", "--fold", 0, "--out", out, "--json", cwd=trained_root)
    assert done.code == 0, done.err
    (made,) = json.loads(done.out)
    assert (made["fold"], made["path"], made["bytes"]) == (0, str(out), out.stat().st_size)
    assert f"{made['difference']:.1e}" in done.err
    plain = ichx("export", 2, "--format", "safetensors", "--fold", 1, "--out", out, cwd=trained_root)
    assert plain.out == f"{out}\n"
