"""Adapters of public datasets, each on a replica of its layout, from the command line to a training."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Outcome, Program
from zip_files import zip_folder

from ichx.datasets.formats.contract import ReplicaOptions
from ichx.datasets.formats.replica import replica_studies, write_replica
from ichx.errors import InvalidInputError
from ichx.labels import LABELS, SUBTYPES
from ichx.phantom.study import PhantomStudy
from ichx.workspace import init_workspace

PATIENTS, SIZE, SEED = 5, 32, 3
OPTIONS = ReplicaOptions(PATIENTS, SEED, SIZE)
NIFTI = ("bhsd", "ct-ich", "instance22", "mbh-seg", "seg-cq500")


@pytest.fixture(scope="module")
def studies() -> list[PhantomStudy]:
    return list(replica_studies(OPTIONS, lambda done, total: None))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return init_workspace(tmp_path / "ws").root


def add(ichx: Program, root: Path, name: str, source: Path, *arguments: object) -> tuple[Outcome, pd.DataFrame]:
    done = ichx("data", "add", name, source, "--format", name, "--folds", 2, *arguments, cwd=root)
    assert done.code == 0, done.err
    catalog = pd.read_parquet(next((root / "datasets" / name).glob("v1*")) / "catalog.parquet")
    return done, catalog.set_index("slice_id").sort_index()


def write(name: str, folder: Path) -> Path:
    written = write_replica(folder / name, name, OPTIONS)
    assert written.slices > 20 * PATIENTS
    return written.folder


def from_masks(studies: list[PhantomStudy]) -> np.ndarray:
    """Return the labels (N, 6) that the masks of all studies show."""
    masks = np.concatenate([study.mask for study in studies])
    subtypes = np.array([[(mask == number).any() for number in range(1, 6)] for mask in masks])
    return np.concatenate([subtypes, subtypes.any(axis=1, keepdims=True)], axis=1).astype(float)


@pytest.mark.parametrize("name", NIFTI)
def test_replicas_are_added_from_folder_and_zip(name: str, tmp_path: Path, root: Path, ichx: Program) -> None:
    done = ichx("data", "phantom", tmp_path / name, "--layout", name, "--patients", 4, "--size", SIZE, cwd=root)
    assert done.code == 0, done.err
    _, found = add(ichx, root, name, tmp_path / name)
    assert found["defect"].isna().all()
    assert found["patient"].nunique() == 4
    checked = json.loads(ichx("data", "check", name, "--json", cwd=root).out)
    assert checked["new"] == []
    zip_folder(tmp_path / name, tmp_path / "all.zip")
    other = init_workspace(tmp_path / "other").root
    _, zipped = add(ichx, other, name, tmp_path / "all.zip")
    pd.testing.assert_frame_equal(zipped[list(LABELS)], found[list(LABELS)])
    again = ichx("data", "add", name, tmp_path / name, "--format", name, "--folds", 2, "--json", cwd=root)
    assert json.loads(again.out)["created"] is False


def test_ct_ich(studies: list[PhantomStudy], tmp_path: Path, root: Path, ichx: Program) -> None:
    _, found = add(ichx, root, "ct-ich", write("ct-ich", tmp_path))
    assert np.array_equal(found[list(LABELS)], np.concatenate([study.labels for study in studies]))
    assert found.index[0] == "049#001"
    assert set(found["sex"]) == {"F", "M"}
    assert set(found["age"]) == {"20-29", "30-39", "40-49"}


def test_ct_ich_with_broken_tables(tmp_path: Path, root: Path, ichx: Program) -> None:
    folder = write("ct-ich", tmp_path)
    path = folder / "hemorrhage_diagnosis_raw_ct.csv"
    text = path.read_text()
    cases = {
        "No_Hemorrhage": text.replace("No_Hemorrhage", "None"),
        "2 and": None,
        "SliceNumber": text.replace("\n49,3,", "\n49,three,"),
        "049#003": text.replace("\n49,4,", "\n49,3,"),
        "0 and 1": text.replace("\n49,1,0", "\n49,1,2"),
    }
    for value, changed in cases.items():
        if changed is None:
            continue
        assert changed != text
        path.write_text(changed)
        failed = ichx("data", "add", "x", folder, "--format", "ct-ich", "--json", cwd=root)
        failed.check_error("invalid_input", value, "ct-ich")
    assert json.loads(ichx("data", "list", "--json", cwd=root).out) == []


def test_bhsd(studies: list[PhantomStudy], tmp_path: Path, root: Path, ichx: Program) -> None:
    folder = write("bhsd", tmp_path)
    done, found = add(ichx, root, "bhsd", folder, "--keep-ids")
    assert "RSNA" in done.err
    assert found["patient"].str.fullmatch("ID_[0-9a-f]{8}").all()
    assert found["study"].str.fullmatch("ID_[0-9a-f]{10}").all()
    order = np.argsort([found.index.get_loc(f"{study}#001") for study in _names(found)])
    wanted = from_masks([sorted_studies(studies, found)[number] for number in order])
    assert np.array_equal(found[list(LABELS)].to_numpy(), wanted)


def _names(found: pd.DataFrame) -> list[str]:
    return sorted({slice_id.partition("#")[0] for slice_id in found.index})


def sorted_studies(studies: list[PhantomStudy], found: pd.DataFrame) -> list[PhantomStudy]:
    """Return the studies in the order of the names of their volumes."""
    from ichx.datasets.formats.rsna_volumes import rsna_name

    by_name = {rsna_name(SEED, number): study for number, study in enumerate(studies)}
    return [by_name[name] for name in _names(found)]


def test_bhsd_without_masks_is_unlabelled(tmp_path: Path, root: Path, ichx: Program) -> None:
    folder = write("bhsd", tmp_path) / "label_192" / "images"
    done, found = add(ichx, root, "bhsd", folder)
    assert "unlabelled" in done.err
    assert found[list(LABELS)].isna().all(axis=None)
    assert not json.loads(ichx("data", "list", "--json", cwd=root).out)[0]["dataset"]["trainable"]


@pytest.mark.parametrize("name", ["instance22", "seg-cq500"])
def test_binary_masks_label_any(
    name: str, studies: list[PhantomStudy], tmp_path: Path, root: Path, ichx: Program
) -> None:
    _, found = add(ichx, root, name, write(name, tmp_path))
    order = sorted(range(PATIENTS), key=lambda number: f"CQ500CT{7 * number}#") if name == "seg-cq500" else range(5)
    wanted = from_masks([studies[number] for number in order])
    positive = wanted[:, -1] == 1
    assert np.array_equal(found["any"], wanted[:, -1])
    subtypes = found[list(SUBTYPES)].to_numpy()
    assert np.isnan(subtypes[positive]).all()
    assert (subtypes[~positive] == 0).all()


def test_mbh_seg(studies: list[PhantomStudy], tmp_path: Path, root: Path, ichx: Program) -> None:
    folder = write("mbh-seg", tmp_path)
    done, found = add(ichx, root, "mbh-seg", folder)
    assert "several raters" in done.err
    from ichx.datasets.formats.rsna_volumes import rsna_name

    for number, study in enumerate(studies):
        rows = found[found.index.str.startswith(rsna_name(SEED, number))][list(LABELS)].to_numpy()
        if number % 2:  # masks
            assert np.array_equal(rows, from_masks([study]))
        else:
            negative = study.labels.max(axis=0) == 0
            assert (rows[:, negative] == 0).all()
            assert np.isnan(rows[:, ~negative]).all()
    table = folder / "case-wise_annotation.csv"
    table.write_text(table.read_text().replace(",1,", ",maybe,", 1))
    failed = ichx("data", "add", "x", folder, "--format", "mbh-seg", "--json", cwd=root)
    failed.check_error("invalid_input", "case-wise_annotation.csv")


def test_several_copies_of_the_volumes_are_an_error(tmp_path: Path) -> None:
    from ichx.datasets.formats.registry import read_format

    write_replica(tmp_path / "both" / "one", "instance22", ReplicaOptions(1, 0, SIZE))
    write_replica(tmp_path / "both" / "two", "instance22", ReplicaOptions(1, 0, SIZE))
    with pytest.raises(InvalidInputError) as raised:
        read_format("instance22", tmp_path / "both")
    assert "one/train_2/data" in raised.value.problem


@pytest.mark.parametrize("name", NIFTI)
def test_another_layout_is_a_clear_error(name: str, tmp_path: Path, root: Path, ichx: Program) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("nothing")
    failed = ichx("data", "add", "x", tmp_path / "data", "--format", name, "--json", cwd=root)
    failed.check_error("invalid_input", name)


def test_bhsd_trains(tmp_path: Path, root: Path, ichx: Program) -> None:
    add(ichx, root, "bhsd", write("bhsd", tmp_path))
    settings = [f"stage.{stage}.epochs=1" for stage in ("balanced", "rebalanced", "full")]
    options = [part for setting in settings for part in ("--set", setting)]
    made = ichx("exp", "new", "--plugin", "tiny_resnet", "--dataset", "bhsd", "--size", 32, *options, cwd=root)
    assert made.code == 0, made.err
    for command in (("run", 1), ("scores", 1), ("report", 1)):
        done = ichx(*command, cwd=root)
        assert done.code == 0, done.err
