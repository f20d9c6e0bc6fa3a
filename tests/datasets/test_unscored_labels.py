"""Labels that are known for a selection of slices by their own value are left out of scores."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dicom_files import write_ct

from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import load_version
from ichx.datasets.label_sheet import SheetColumns
from ichx.datasets.mix import mix_datasets
from ichx.datasets.mix_request import joint_request
from ichx.datasets.study_labels import slice_truth
from ichx.datasets.unscored_labels import unscored_labels
from ichx.evaluation.metric import score
from ichx.labels import ANY, LABELS, SUBTYPES
from ichx.project import Project
from ichx.store import open_store
from ichx.workspace import init_workspace

NAN = float("nan")


def slices_with(**columns: list[float]) -> pd.DataFrame:
    rows = len(next(iter(columns.values())))
    return pd.DataFrame({name: columns.get(name, [NAN] * rows) for name in LABELS})


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({ANY: [0, 1, 0]} | {key: [0, NAN, 0] for key in SUBTYPES}, list(SUBTYPES)),
        ({ANY: [0, 1, 0], "subdural": [0, 0, NAN]}, []),  # known where `any` is 1
        ({ANY: [0, 1, 1], "subdural": [0, 1, NAN]}, []),
        ({ANY: [NAN, 1, 1], "subdural": [0, 1, NAN]}, [ANY]),
        ({ANY: [1, 1, 1], "subdural": [NAN, 1, NAN]}, ["subdural"]),  # `any` is known for all
        ({name: [0, 0, 0] for name in LABELS}, []),
    ],
)
def test_selected_labels_are_found(columns: dict[str, list[float]], expected: list[str]) -> None:
    assert unscored_labels(slices_with(**columns)) == expected


def test_scores_leave_them_out_in_each_part_of_a_mixture(tmp_path: Path) -> None:
    """`few` has labels of `any` alone, `all` has all of them."""
    names = [f"ID_{name}{number}" for name in ("few", "all") for number in range(4)]
    for name in names:
        ids = {"PatientID": name, "StudyInstanceUID": f"{name}s", "SeriesInstanceUID": f"{name}r"}
        write_ct(tmp_path / name[3:6] / f"{name}.dcm", SOPInstanceUID=name, **ids)
    few, every = (pd.DataFrame({"SOPInstanceUID": names[at : at + 4], ANY: [0, 1, 0, 1]}) for at in (0, 4))
    few.to_csv(tmp_path / "few.csv", index=False)
    every.assign(**dict.fromkeys(SUBTYPES, every[ANY])).to_csv(tmp_path / "all.csv", index=False)
    workspace = init_workspace(tmp_path / "workspace")
    with open_store(workspace) as store:
        project = Project(workspace, store)
        for name in ("few", "all"):
            request = AddRequest(
                name, tmp_path / name, tmp_path / f"{name}.csv", SheetColumns("SOPInstanceUID"), folds=2
            )
            report = add_dataset(project, request)
            assert any("left out of scores" in line for line in report.warnings) is (name == "few")
        mix_datasets(project, joint_request("all+few"))
        for name, rows in (("few", 0), ("all", 4), ("all+few", 4)):
            slices = load_version(workspace, store.version(name)).slices
            truth = slice_truth(slices)
            assert (~np.isnan(truth[:, :-1])).sum(axis=0).tolist() == [rows] * 5
            assert not np.isnan(truth[:, -1]).any()
            stored = slices[list(LABELS)].to_numpy(float)  # trainings read these
            assert (~np.isnan(stored[:, :-1])).sum() == 5 * (rows + 2 * ("few" in name))
        p = np.full(truth.shape, 0.3)
        few_rows = load_version(workspace, store.version("few")).slices
        known = slice_truth(few_rows)
        assert score(known, p[: len(known)]) == pytest.approx(-(np.log(0.3) + np.log(0.7)) / 2)  # of `any` alone
