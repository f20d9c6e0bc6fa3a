"""CQ500 and BHX on replicas, from the command line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Outcome, Program
from zip_files import zip_folder

from ichx.datasets.formats.contract import ReplicaOptions
from ichx.datasets.formats.replica import replica_studies, write_replica
from ichx.labels import LABELS
from ichx.workspace import init_workspace

OPTIONS = ReplicaOptions(6, 3, 32)
CODES = dict(zip(LABELS, ("EDH", "IPH", "IVH", "SAH", "SDH", "ICH"), strict=True))


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("replicas")
    return {name: write_replica(root / name, name, OPTIONS).folder for name in ("cq500", "bhx")}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return init_workspace(tmp_path / "ws").root


def add(ichx: Program, root: Path, name: str, source: Path, *arguments: object) -> Outcome:
    return ichx("data", "add", name, source, "--format", name, "--folds", 2, *arguments, cwd=root)


def version(root: Path, name: str, number: int = 1) -> Path:
    return next((root / "datasets" / name).glob(f"v{number}*"))


def reads_of(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "reads.csv").set_index("name")


def test_cq500(ichx: Program, root: Path, replicas: dict[str, Path]) -> None:
    source = replicas["cq500"]
    assert (source / "CQ500CT3 CQ500CT3" / "Unknown Study" / "CT Plain 3mm" / "CT000000.dcm").exists()
    done = add(ichx, root, "cq500", source, "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert any("Selected 6 of 30 series in 6 studies" in text for text in report["messages"])
    catalog = pd.read_parquet(version(root, "cq500") / "catalog.parquet")
    used = catalog[catalog["defect"].isna()]
    assert set(used["file"].str.split("/").str[2]) == {"CT Plain 3mm"}
    assert set(catalog["defect"].dropna()) == {"series_left_out"}
    reads, labels = reads_of(source), pd.read_parquet(version(root, "cq500") / "study-labels.parquet")
    study_of = (
        used.assign(name="CQ500-CT-" + used["file"].str.extract(r"^CQ500CT(\d+) ")[0]).groupby("name")["study"].first()
    )
    found = labels.set_index("study").loc[study_of[reads.index]]
    for label, code in CODES.items():
        votes = reads[[f"R{i}:{code}" for i in (1, 2, 3)]].sum(axis=1).to_numpy() >= 2
        if label != "any":
            assert (found[label].to_numpy() == votes).all(), label
    subtypes = found[list(LABELS[:-1])].max(axis=1).to_numpy()
    ich = reads[["R1:ICH", "R2:ICH", "R3:ICH"]].sum(axis=1).to_numpy() >= 2
    assert (found["any"].to_numpy() == np.maximum(ich, subtypes)).all()


def test_labels_of_readers_and_flags_are_stored(ichx: Program, root: Path, replicas: dict[str, Path]) -> None:
    assert add(ichx, root, "cq500", replicas["cq500"]).code == 0
    folder, reads = version(root, "cq500"), reads_of(replicas["cq500"])
    readers = pd.read_parquet(folder / "readers.parquet")
    assert list(readers.columns) == ["study", "reader", "label", "value"]
    assert set(readers["reader"]) == {"R1", "R2", "R3"}
    assert len(readers) == 6 * 3 * len(LABELS)
    for reader, of in readers.groupby("reader"):
        for label, values in of.groupby("label")["value"]:
            column = reads[f"{reader}:{CODES[label]}"]
            if label == "any":
                column = np.maximum(column, reads[[f"{reader}:{CODES[name]}" for name in LABELS[:-1]]].max(axis=1))
            assert values.sum() == column.sum()
    flags = pd.read_parquet(folder / "study-flags.parquet")
    chronic = flags[flags["flag"] == "chronic_bleed"]
    assert len(chronic) == 6
    votes = reads[[f"R{i}:ChronicBleed" for i in (1, 2, 3)]].sum(axis=1) >= 2
    assert chronic["value"].sum() == votes.sum()
    assert set(readers["study"]) == set(chronic["study"])
    unchanged = add(ichx, root, "cq500", replicas["cq500"])
    assert "unchanged" in unchanged.out
    again = add(ichx, root, "cq500", replicas["cq500"], "--series", "all")
    assert again.code == 0, again.err
    assert pd.read_parquet(version(root, "cq500", 2) / "catalog.parquet")["defect"].isna().all()


def test_a_study_where_ich_is_0_and_a_subtype_1(ichx: Program, root: Path, tmp_path: Path) -> None:
    folder = write_replica(tmp_path / "c", "cq500", ReplicaOptions(2, 1, 32)).folder
    table = pd.read_csv(folder / "reads.csv")
    table.loc[:, [c for c in table.columns if ":" in c]] = 0
    table.loc[0, ["R1:IPH", "R2:IPH"]] = 1
    table.to_csv(folder / "reads.csv", index=False)
    done = add(ichx, root, "cq500", folder)
    assert "differs from ICH in 1 study: CQ500-CT-0" in done.out + done.err
    labels = pd.read_parquet(version(root, "cq500") / "study-labels.parquet")
    assert sorted(labels["any"]) == [0, 1]
    assert sorted(labels["intraparenchymal"]) == [0, 1]


def test_a_bleed_without_a_majority_for_a_subtype(ichx: Program, root: Path, tmp_path: Path) -> None:
    folder = write_replica(tmp_path / "c", "cq500", ReplicaOptions(3, 1, 32)).folder
    table = pd.read_csv(folder / "reads.csv")
    table.loc[:, [c for c in table.columns if ":" in c]] = 0
    table.loc[0, ["R1:ICH", "R2:ICH", "R1:IPH", "R2:SAH"]] = 1
    table.loc[1, ["R1:ICH", "R3:ICH"]] = 1
    table.to_csv(folder / "reads.csv", index=False)
    done = add(ichx, root, "cq500", folder)
    assert done.code == 0, done.err
    assert "2 studies with a bleed, but no majority for a subtype" in done.out + done.err
    labels = pd.read_parquet(version(root, "cq500") / "study-labels.parquet")[list(LABELS)]
    unknown = {tuple(labels.columns[row.isna()]) for _, row in labels.iterrows()}
    assert unknown == {(), ("intraparenchymal", "subarachnoid"), LABELS[:-1]}
    assert sorted(labels["any"]) == [0, 1, 1]


def test_a_zip_of_the_folders(ichx: Program, root: Path, replicas: dict[str, Path], tmp_path: Path) -> None:
    done = add(ichx, root, "cq500", zip_folder(replicas["cq500"], tmp_path / "cq500.zip"))
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("change", "value"),
    [
        (lambda folder: (folder / "reads.csv").unlink(), "reads.csv"),
        (lambda folder: edit(folder, "R2:SDH", "2"), "CQ500-CT-0: '2'"),
        (lambda folder: edit(folder, "name", "CQ500-CT-1"), "twice"),
        (lambda folder: edit(folder, "name", "patient"), "'patient'"),
        (lambda folder: drop(folder, "R3:EDH"), "R3:EDH"),
    ],
)
def test_other_tables_are_refused(
    ichx: Program, root: Path, replicas: dict[str, Path], tmp_path: Path, change, value: str
) -> None:

    folder = tmp_path / "c"
    shutil.copytree(replicas["cq500"], folder)
    change(folder)
    add(ichx, root, "cq500", folder, "--json").check_error("invalid_input", value)
    assert not (root / "datasets" / "cq500").exists()


def edit(folder: Path, column: str, value: str) -> None:
    table = pd.read_csv(folder / "reads.csv", dtype=str)
    table.loc[0, column] = value
    table.to_csv(folder / "reads.csv", index=False)


def drop(folder: Path, column: str) -> None:
    pd.read_csv(folder / "reads.csv", dtype=str).drop(columns=column).to_csv(folder / "reads.csv", index=False)


def test_packed_studies_are_named(ichx: Program, root: Path, tmp_path: Path) -> None:
    (tmp_path / "CQ500-CT-0.zip").write_bytes(b"zip")
    add(ichx, root, "cq500", tmp_path, "--json").check_error("invalid_input", "CQ500-CT-0.zip", "unpacked")


def expected_boxes() -> pd.DataFrame:
    """Return which slices of a series of the replica have a subtype in their mask, by number of the study."""
    rows = []
    for number, study in enumerate(replica_studies(OPTIONS, lambda done, total: None)):
        for index, mask in enumerate(study.mask):
            rows.append([number, index, *[bool((mask == value).any()) for value in range(1, 6)]])
    return pd.DataFrame(rows, columns=["number", "index", *LABELS[:-1]])


def positives(root: Path, number: int = 1) -> pd.DataFrame:
    catalog = pd.read_parquet(version(root, "bhx", number) / "catalog.parquet")
    catalog["number"] = catalog["file"].str.extract(r"^CQ500CT(\d+) ")[0].astype(int)
    catalog["index"] = catalog["instance_number"] - 1
    return catalog[catalog["file"].str.contains("CT Plain 3mm")].sort_values(["number", "index"], ignore_index=True)


def test_bhx(ichx: Program, root: Path, replicas: dict[str, Path]) -> None:
    done = add(ichx, root, "bhx", replicas["bhx"])
    assert done.code == 0, done.err
    assert "of chronic bleeds are ignored" in done.out + done.err
    found, expected = positives(root), expected_boxes()
    for name in LABELS[:-1]:
        wanted = expected[name] & ~((name == "subdural") & (expected["number"] == 0))
        assert ((found[name] == 1) == wanted).all(), name
    boxed = found[list(LABELS[:-1])].eq(1).any(axis=1)
    assert (found["any"][boxed] == 1).all()
    reads = reads_of(replicas["bhx"])
    negative = {
        n for n in range(6) if (reads.loc[f"CQ500-CT-{n}"].filter(regex=":(ICH|IPH|IVH|SDH|EDH|SAH)$") == 0).all()
    }
    assert (found["any"][found["number"].isin(negative)] == 0).all()
    positive = ~boxed & found["number"].isin(set(found["number"][boxed]))
    assert found.loc[positive, "any"].isna().all(), "a slice without a box is unknown"


def test_options_of_bhx(ichx: Program, root: Path, replicas: dict[str, Path]) -> None:
    options = ("--format-option", "chronic=subdural", "--format-option", "negatives=none")
    assert add(ichx, root, "bhx", replicas["bhx"], *options).code == 0
    found, expected = positives(root), expected_boxes()
    assert ((found["subdural"] == 1) == expected["subdural"]).all()
    assert not (found[list(LABELS)] == 0).any(axis=None)
    wrong = ("--format-option", "chronic=maybe", "--format-option", "box=1", "--json")
    add(ichx, root, "bhx", replicas["bhx"], *wrong).check_error("invalid_input", "'maybe'", "'box'")
    assert ichx("data", "add", "x", replicas["bhx"], "--format-option", "a=b", cwd=root).code == 1
    assert ichx("data", "add", "x", replicas["bhx"], "--format", "bhx", "--format-option", "a", cwd=root).code == 2


def test_an_unknown_label_of_a_box_is_refused(
    ichx: Program, root: Path, replicas: dict[str, Path], tmp_path: Path
) -> None:

    shutil.copytree(replicas["bhx"], tmp_path / "b")
    path = tmp_path / "b" / "3_Extrapolation_to_Selected_Series.csv"
    path.write_text(path.read_text().replace("Intraparenchymal", "Intracerebral"))
    add(ichx, root, "bhx", tmp_path / "b", "--json").check_error("invalid_input", "Intracerebral")


def test_overlap_with_cq500_and_seg_cq500(ichx: Program, root: Path, replicas: dict[str, Path], tmp_path: Path) -> None:
    assert add(ichx, root, "cq500", replicas["cq500"]).code == 0
    done = add(ichx, root, "bhx", replicas["bhx"])
    assert "6 of 6 patients are also in cq500" in done.out + done.err
    write_replica(tmp_path / "seg", "seg-cq500", ReplicaOptions(2, 5, 32))
    done = add(ichx, root, "seg-cq500", tmp_path / "seg")
    assert "1 of 2 patients is also in cq500 (by CQ500 number)" in done.out + done.err


@pytest.mark.parametrize("name", ["cq500", "bhx"])
def test_replicas_from_the_command_line(ichx: Program, root: Path, tmp_path: Path, name: str) -> None:
    done = ichx("data", "phantom", tmp_path / name, "--layout", name, "--patients", 4, "--size", 32, cwd=root)
    assert done.code == 0, done.err
    assert f"--format {name}" in done.out + done.err
    assert add(ichx, root, name, tmp_path / name).code == 0
