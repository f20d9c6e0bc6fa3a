import csv
import hashlib
import os
import subprocess
import sys
import warnings
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest

from ichx.errors import ConflictError, IchxError, ResourceError, StorageError
from ichx.labels import LABELS
from ichx.phantom.dicom_files import write_phantom
from ichx.phantom.study import make_study

SIZE = 48

# The challenge's SOPInstanceUIDs are no valid UIDs, and so pydicom says each time one is read.
pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR UI")


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def read_labels(path: Path) -> dict[str, str]:
    with path.open(newline="") as handle:
        rows = list(csv.reader(handle))
    assert rows[0] == ["ID", "Label"]
    return dict(rows[1:])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "data"
    write_phantom(folder, patients=5, test_patients=1, seed=11, size=SIZE, prevalence={"any": 0.4}, processes=1)
    return folder


def by_patient(folder: Path) -> dict[str, list[pydicom.Dataset]]:
    studies: dict[str, list[pydicom.Dataset]] = {}
    for path in folder.glob("*.dcm"):
        dataset = pydicom.dcmread(path)
        assert dataset.SOPInstanceUID == path.stem
        studies.setdefault(str(dataset.PatientID), []).append(dataset)
    return {name: sorted(files, key=lambda d: float(d.ImagePositionPatient[2])) for name, files in studies.items()}


def test_bytes_follow_from_the_seed_whatever_the_number_of_processes(written: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    files = write_phantom(
        tmp_path / "again",
        patients=5,
        test_patients=1,
        seed=11,
        size=SIZE,
        prevalence={"any": 0.4},
        processes=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert digests(written) == digests(tmp_path / "again")
    assert seen == [(done, 6) for done in range(1, 7)]
    assert files.train_slices == len(list(files.train.glob("*.dcm")))
    assert files.test is not None
    assert files.test_slices == len(list(files.test.glob("*.dcm")))
    write_phantom(tmp_path / "other", patients=5, test_patients=1, seed=12, size=SIZE, processes=1)
    assert not set(digests(written).values()) & set(digests(tmp_path / "other").values())


def test_files_hold_the_studies_that_make_study_makes(written: Path) -> None:
    truth = read_labels(written / "stage_2_train.csv")
    wanted = [make_study(11, patient, size=SIZE, prevalence={"any": 0.4}) for patient in range(5)]
    found = list(by_patient(written / "stage_2_train").values())
    assert len(found) == 5
    for study in wanted:
        matches = [files for files in found if len(files) == len(study.hu) and _hu(files[0]).shape == study.hu[0].shape]
        same = [f for f in matches if all(np.array_equal(_hu(d), hu) for d, hu in zip(f, study.hu, strict=True))]
        assert len(same) == 1
        for dataset, labels in zip(same[0], study.labels, strict=True):
            assert [truth[f"{dataset.SOPInstanceUID}_{name}"] for name in LABELS] == [str(v) for v in labels]
            assert [float(v) for v in dataset.PixelSpacing] == pytest.approx([study.spacing] * 2, abs=1e-6)
        along = [float(v) for v in same[0][0].ImageOrientationPatient]
        normal = np.cross(along[:3], along[3:])
        heights = [float(np.dot(normal, [float(v) for v in d.ImagePositionPatient])) for d in same[0]]
        assert np.diff(heights) == pytest.approx(study.thickness, abs=0.01)


def _hu(dataset: pydicom.Dataset) -> np.ndarray:
    return np.maximum(dataset.pixel_array.astype(np.int32) + int(float(dataset.RescaleIntercept)), -1024)


def test_headers_have_the_habits_of_several_scanners(tmp_path: Path) -> None:
    files = write_phantom(tmp_path / "many", patients=24, seed=3, size=32, processes=1)
    first = [studies[0] for studies in by_patient(files.train).values()]
    assert {(d.PixelRepresentation, d.BitsStored) for d in first} == {(1, 16), (0, 12)}
    assert any(d.file_meta.TransferSyntaxUID.is_implicit_VR for d in first)
    assert any(not d.file_meta.TransferSyntaxUID.is_implicit_VR for d in first)
    assert any(isinstance(d.WindowCenter, pydicom.multival.MultiValue) for d in first)
    assert any(d.pixel_array.min() == -2000 for d in first)
    assert any(abs(float(d.ImageOrientationPatient[5])) > 0.1 for d in first)
    assert any(float(d.ImageOrientationPatient[5]) == 0 for d in first)


def test_label_files_agree_with_the_images(written: Path) -> None:
    for images, table in (("stage_2_train", "stage_2_train.csv"), ("stage_2_test", "stage_2_test_labels.csv")):
        rows = read_labels(written / table)
        names = {path.stem for path in (written / images).glob("*.dcm")}
        assert set(rows) == {f"{name}_{label}" for name in names for label in LABELS}
        for name in names:
            values = [int(rows[f"{name}_{label}"]) for label in LABELS]
            assert values[-1] == max(values[:-1])
    sample = read_labels(written / "stage_2_sample_submission.csv")
    assert list(sample) == list(read_labels(written / "stage_2_test_labels.csv"))
    assert set(sample.values()) == {"0.5"}


def test_masks_are_those_of_the_study_and_only_of_positive_training_slices(tmp_path: Path) -> None:
    files = write_phantom(tmp_path / "masks", patients=2, test_patients=1, seed=4, size=64, prevalence={"any": 0.6})
    rows = read_labels(files.train_labels)
    positive = {name for path in files.train.glob("*.dcm") for name in [path.stem] if rows[f"{name}_any"] == "1"}
    assert {path.stem for path in files.train_masks.iterdir()} == positive
    studies = [make_study(4, patient, size=64, prevalence={"any": 0.6}) for patient in range(2)]
    drawn = [mask.tobytes() for study in studies for mask in study.mask if mask.any()]
    assert sorted(drawn) == sorted(
        imagecodecs.png_decode(path.read_bytes()).tobytes() for path in files.train_masks.iterdir()
    )
    for study in studies:
        marked = np.array([[(mask == 1 + k).any() for k in range(5)] for mask in study.mask])
        assert np.array_equal(marked, study.labels[:, :5] == 1)


def test_file_order_does_not_follow_the_head(written: Path) -> None:
    for files in by_patient(written / "stage_2_train").values():
        names = [str(d.SOPInstanceUID) for d in files]
        assert names != sorted(names)
        assert names != sorted(names, reverse=True)


def test_a_folder_in_use_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine")
    with pytest.raises(ConflictError):
        write_phantom(tmp_path / "used", patients=1, seed=0, size=32, processes=1)
    assert [p.name for p in tmp_path.rglob("*")] == ["used", "mine.txt"]


def test_writing_warns_of_nothing(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_phantom(tmp_path / "x", patients=1, seed=0, size=32, processes=1)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    files = write_phantom(tmp_path, patients=1, seed=0, size=32, processes=1)
    assert files.test is None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["stage_2_train", "stage_2_train.csv"]
    assert files.train_masks is None  # its one patient does not bleed


def test_all_invalid_arguments_are_reported_together(tmp_path: Path) -> None:
    with pytest.raises(IchxError) as caught:
        write_phantom(tmp_path / "x", patients=0, test_patients=-1, seed=-1, size=31, processes=0)
    assert len(caught.value.problem.splitlines()) == 4
    with pytest.raises(IchxError, match="size 1025"):
        write_phantom(tmp_path / "x", patients=1, seed=0, size=1025)
    with pytest.raises(IchxError, match="'subdurall'"):
        write_phantom(tmp_path / "x", patients=1, seed=0, size=64, prevalence={"subdurall": 0.1})
    assert list(tmp_path.iterdir()) == []


def test_more_studies_than_the_disk_holds_are_refused_with_the_cost(tmp_path: Path) -> None:
    for patients, test_patients in ((10**12, 0), (1, 10**12), (10**24, 0)):
        with pytest.raises(ResourceError, match=r"take about [\d,]+ TB; [\d,.]+ [kMGT]?B are free") as caught:
            write_phantom(tmp_path / "x/y", patients=patients, test_patients=test_patients, seed=0, size=512)
        assert str(tmp_path) in caught.value.problem
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantom(tmp_path / "x", patients=2, seed=0, size=32, processes=1, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file" / "x", tmp_path / ("a" * 300)):
        with pytest.raises(StorageError, match=folder.name):
            write_phantom(folder, patients=1, seed=0, size=32, processes=1)


def test_files_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, alive = tmp_path / f".ph.{ended.pid}-0a0a0a0a", tmp_path / f".ph.{os.getpid()}-0b0b0b0b"
    for folder in (left, alive):
        folder.mkdir()
    write_phantom(tmp_path / "ph", patients=1, seed=0, size=32, processes=1)
    assert not left.exists()
    assert alive.exists()


def test_a_test_set_without_training_patients(tmp_path: Path) -> None:
    files = write_phantom(tmp_path / "ph", patients=0, test_patients=2, seed=0, size=32, processes=1)
    assert (files.train, files.train_labels, files.train_masks, files.train_slices) == (None, None, None, 0)
    assert files.test is not None
    assert files.test_slices == len(list(files.test.iterdir())) > 0
    assert sorted(path.name for path in files.folder.iterdir()) == [
        "stage_2_sample_submission.csv",
        "stage_2_test",
        "stage_2_test_labels.csv",
    ]
    with pytest.raises(IchxError, match="0 patients and 0 test patients"):
        write_phantom(tmp_path / "none", patients=0, seed=0, size=32)
