"""Pages of a dataset where only studies are labelled: nothing unknown is shown as negative."""

from pathlib import Path

import numpy as np
from dicom_files import write_study
from test_data_page import rows_of, shown
from web_site import Serve

from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import load_version
from ichx.datasets.label_table import LabelTable
from ichx.labels import LABELS
from ichx.project import Project
from ichx.store import open_store
from ichx.workspace import init_workspace

NEGATIVE, POSITIVE, PARTIAL = [0.0] * 6, [0, 0, 0, 0, 1, 1], [np.nan] * 5 + [1]


def test_positive_studies_are_listed_and_their_slices_are_unknown(tmp_path: Path, serve: Serve) -> None:
    for patient in range(4):
        write_study(tmp_path / f"files/p{patient}/study", str(patient), 3)
    values = np.array([NEGATIVE, POSITIVE, PARTIAL, NEGATIVE], np.float32)
    ids = np.array([f"ID_study{patient}" for patient in range(4)], object)
    table = LabelTable(ids, values, "study", "StudyInstanceUID")
    workspace = init_workspace(tmp_path / "workspace")
    with open_store(workspace) as store:
        project = Project(workspace, store)
        add_dataset(project, AddRequest("reads", tmp_path / "files", label_tables=(table,), folds=2))
        slices = load_version(workspace, store.version("reads")).slices
    by_folder = {str(file).split("/")[0]: study for file, study in zip(slices["file"], slices["study"], strict=True)}
    with serve(workspace.root).client() as client:
        page = shown(client, "/data/reads@1")
        counts = {row[0]: row[1:6] for row in rows_of(page, "Positive slices by label")}
        assert counts["any"] == ["-", "-", "6", "2", "4"]  # known: 6 slices of negative studies, and 4 studies
        assert "--set &#39;stage.*.sampling=grouped&#39;" in page or "stage.*.sampling=grouped" in page
        listed = {row[0]: row[4:10] for row in rows_of(shown(client, "/studies?source=reads@1"), "Studies")}
        assert listed[by_folder["p1"]] == ["", "", "", "", "≥ 1", "≥ 1"]
        assert listed[by_folder["p2"]] == ["-", "-", "-", "-", "-", "≥ 1"]
        assert listed[by_folder["p0"]] == [""] * 6
        assert "2 of 4 studies" in shown(client, "/studies?source=reads@1&label=any")
        assert "1 of 4 studies" in shown(client, "/studies?source=reads@1&label=subdural")
        assert "2 of 4 studies" in shown(client, "/studies?source=reads@1&label=no%20any")
        study = client.get(f"/api/studies/reads@1/{by_folder['p1']}").json()
        assert study["positive"] == ["subdural", "any"]
        for one in study["series"][0]["slices"]:
            assert one["labels"] == {name: None if name in ("subdural", "any") else 0 for name in LABELS}
            assert set(one["unknown"]) == {"subdural", "any"}
            assert all("study or series" in reason for reason in one["unknown"].values())
        partial = client.get(f"/api/studies/reads@1/{by_folder['p2']}").json()["series"][0]["slices"][0]
        assert partial["labels"] is None
        assert "study or series" in partial["unknown"]["any"]
        assert "labels of the dataset" in partial["unknown"]["epidural"]
