"""Prediction, evaluation and the viewer accept NIfTI volumes."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from conftest import Program
from nifti_files import convert, write_raw

from ichx.cache.display import patient_sides, read_displayed
from ichx.datasets.dataset import load_dataset
from ichx.datasets.ingest import scan_source
from ichx.labels import LABELS
from ichx.project import Project
from ichx.store import open_store
from ichx.workspace import open_workspace

if TYPE_CHECKING:
    from ichx.phantom.dicom_files import PhantomFiles


@pytest.fixture
def volumes(phantom: "PhantomFiles", tmp_path: Path) -> Path:
    """Return a folder with the test patients of the phantom as volumes, one of them compressed."""
    assert phantom.test is not None
    scan = scan_source(phantom.test)
    for number, (_, rows) in enumerate(scan.groupby("patient_id")):
        image = convert([phantom.test / name for name in rows["file"]])
        write_raw(tmp_path / "volumes" / f"v{number}.nii{'.gz' if number else ''}", image)
    return tmp_path / "volumes"


def test_predict_a_volume_and_a_folder_of_volumes(trained_copy: Path, volumes: Path, ichx: Program) -> None:
    for source, patients in ((volumes / "v1.nii.gz", 1), (volumes, 2)):
        out = volumes.parent / f"out{patients}.csv"
        done = ichx("predict", 1, source, "--out", out, cwd=trained_copy)
        assert done.code == 0, done.err
        found = pd.read_csv(out)
        assert len(found) >= 20 * patients
        assert found["slice_id"].str.fullmatch(r"v[01]#\d{3}").all()
        assert found["any"].between(0, 1).all()


def test_a_truncated_volume_is_reported(trained_copy: Path, volumes: Path, ichx: Program) -> None:
    content = (volumes / "v1.nii.gz").read_bytes()
    (volumes / "v1.nii.gz").write_bytes(content[: len(content) // 2])
    failed = ichx("predict", 1, volumes / "v1.nii.gz", "--out", volumes.parent / "out.csv", "--json", cwd=trained_copy)
    failed.check_error("invalid_input", "truncated")


def test_evaluate_and_view_volumes(trained_copy: Path, volumes: Path, ichx: Program) -> None:
    scan = scan_source(volumes)
    random = np.random.default_rng(0)
    values = random.integers(0, 2, (len(scan), len(LABELS)))
    values[:, -1] = values[:, :-1].max(axis=1)
    labels = pd.DataFrame(values, columns=list(LABELS)).assign(image=scan["slice_id"])
    labels.to_csv(volumes.parent / "labels.csv", index=False)
    arguments = ("--labels", volumes.parent / "labels.csv", "--folds", 0)
    added = ichx("data", "add", "outside", volumes, *arguments, cwd=trained_copy)
    assert added.code == 0, added.err
    done = ichx("evaluate", 1, "--dataset", "outside", "--json", cwd=trained_copy)
    assert done.code == 0, done.err
    assert json.loads(done.out)
    workspace = open_workspace(trained_copy)
    with open_store(workspace) as store:
        data = load_dataset(Project(workspace, store), "outside")
    row = data.slices.iloc[3].to_dict() | {"row": 3}
    shown = read_displayed(None, data.source, row, 64)
    assert shown.hu.shape == (64, 64)
    assert patient_sides(data.source, row) == {"left": "R", "right": "L"}
