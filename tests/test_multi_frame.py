"""Files of several frames through the whole job: added from a zip, checked, cached, trained on, blended, submitted."""

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pydicom import config, dcmread
from pydicom.uid import ExplicitVRLittleEndian
from zip_files import zip_folder

from ichx.cache.decode_check import check_dataset
from ichx.ct.dicom import read_slice
from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import load_dataset
from ichx.datasets.sources import SourceFiles, read_source_slice
from ichx.evaluation.ensemble import EnsembleRequest, make_ensemble
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.phantom.encoded_files import enhanced
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import open_store
from ichx.workspace import init_workspace

if TYPE_CHECKING:
    from ichx.phantom.dicom_files import PhantomFiles


def join_series(source: Path, target: Path) -> dict[str, Path]:
    """Write each series in `source` as one file to `target`; return the file of one frame behind each slice id."""
    series = defaultdict(list)
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        dataset = dcmread(path)
        series[dataset.SeriesInstanceUID].append((float(dataset.ImagePositionPatient[2]), path, dataset))
    target.mkdir(parents=True)
    origin = {}
    for slices in series.values():
        slices.sort(key=lambda entry: entry[0])
        join_group = enhanced(slices[0][1], [dataset.pixel_array for _, _, dataset in slices])
        join_group.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        join_group.save_as(target / "many.dcm", implicit_vr=False, little_endian=True)
        (target / "many.dcm").rename(target / f"{join_group.SOPInstanceUID}.dcm")
        origin |= {f"{join_group.SOPInstanceUID}#{n}": path for n, (_, path, _) in enumerate(slices, 1)}
    return origin


def rename_ids(csv: Path, target: Path, origin: dict[str, Path]) -> list[str]:
    """Write the CSV of the single files again for the frames; return its ids."""
    with config.disable_value_validation():
        frame_of = {str(dcmread(path).SOPInstanceUID): frame for frame, path in origin.items()}
    table = pd.read_csv(csv)
    images, labels = (table["ID"].str.rpartition("_")[column] for column in (0, 2))
    table["ID"] = images.map(frame_of) + "_" + labels
    table.to_csv(target, index=False)
    return table["ID"].tolist()


def test_frames_go_the_whole_way(phantom: "PhantomFiles", tmp_path: Path) -> None:
    assert phantom.test is not None
    assert phantom.sample_submission is not None
    with config.disable_value_validation():
        origin = join_series(phantom.train, tmp_path / "files/train")
        test_origin = join_series(phantom.test, tmp_path / "files/test")
    rename_ids(phantom.train_labels, tmp_path / "labels.csv", origin)
    asked = rename_ids(phantom.sample_submission, tmp_path / "sample.csv", test_origin)
    archive = zip_folder(tmp_path / "files", tmp_path / "files.zip")
    workspace, registry = init_workspace(tmp_path / "workspace"), load_registry()
    with open_store(workspace) as store:
        added = add_dataset(
            Project(workspace, store), AddRequest("x", archive / "train", labels=tmp_path / "labels.csv", folds=2)
        )
        assert added.messages[0].startswith(f"8 files: {len(origin)} slices, 8 patients")
        add_dataset(
            Project(workspace, store),
            AddRequest("x-test", archive / "test", test_of="x", sample=tmp_path / "sample.csv"),
        )
        checked = check_dataset(Project(workspace, store), "x")
        assert (checked["files"], checked["slices"], checked["reasons"]) == (8, len(origin), [])
        data = load_dataset(Project(workspace, store), "x")
        files = SourceFiles(data.source, data.slices).select(range(len(data.slices)))
        for slice_id, file in list(zip(data.slices["slice_id"], files, strict=True))[::7]:
            assert (read_source_slice(file).hu == read_slice(origin[slice_id]).hu).all()
        number = new_experiment(
            store,
            registry,
            ExperimentRequest(
                plugin="tiny_fine",
                size=32,
                settings=[f"stage.{stage}.epochs=1" for stage in ("balanced", "rebalanced", "full")],
            ),
        ).number
        assert run_experiment(Project(workspace, store, registry), number).score is not None
        [submission] = make_ensemble(Project(workspace, store), EnsembleRequest(top=1)).submissions
    written = pd.read_csv(workspace.root / submission.path)
    assert written["ID"].tolist() == asked
    assert (submission.images, submission.filled) == (len(test_origin), 0)
    assert np.unique(written["Label"]).size > len(test_origin), "each frame has predictions of its own"
