"""Structured reports of predicted studies, read back with pydicom and highdicom."""

import importlib.util
import stat
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pydicom
import pytest
from conftest import Program
from dicom_files import write_ct

from ichx.labels import LABELS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("highdicom") is None, reason="needs highdicom"),
]


def write_patient(folder: Path, number: int, slices: int = 3, **elements: Any) -> list[str]:
    """Write a study with valid ids, and return the SOP instance UIDs."""
    root = f"1.2.826.0.1.{number}"
    for index in range(slices):
        ids = {
            "SOPInstanceUID": f"{root}.9.{index}",
            "StudyInstanceUID": f"{root}.7",
            "SeriesInstanceUID": f"{root}.8",
            "PatientID": f"MRN-{number}",
            "PatientName": f"Doe^Patient {number}",
            "StudyDate": "20240131",
            "ImagePositionPatient": [-120, -120, 5 * index],
        }
        write_ct(folder / f"{number}-{index}.dcm", **(ids | elements))
    return [f"{root}.9.{index}" for index in range(slices)]


def read(path: Path) -> Any:
    import highdicom

    return highdicom.sr.srread(path)


def test_a_report_has_the_probabilities_calls_and_evidence(ichx: Program, trained_copy: Path, tmp_path: Path) -> None:
    ids = {number: write_patient(tmp_path / "new", number) for number in (1, 2)}
    chosen = ichx("threshold", 2, "--label", "intraparenchymal", "--sensitivity", 0.5, cwd=trained_copy)
    assert chosen.code == 0, chosen.err
    assert ichx("threshold", 2, "--label", "subdural", "--per", "slice", "--cost", 5, cwd=trained_copy).code == 0
    done = ichx("predict", 2, tmp_path / "new", "--sr", tmp_path / "sr", "--out", tmp_path / "p.csv", cwd=trained_copy)
    assert done.code == 0, done.err
    studies = pd.read_csv(tmp_path / "p.studies.csv").set_index("study")
    slices = pd.read_csv(tmp_path / "p.csv")
    files = sorted((tmp_path / "sr").iterdir())
    assert [path.stem for path in files] == sorted(studies.index)
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        report, row, of_study = read(path), studies.loc[path.stem], slices[slices["study"] == path.stem]
        number = int(report.PatientID.removeprefix("MRN-"))
        assert (str(report.PatientName), report.StudyDate) == (f"Doe^Patient {number}", "20240131")
        assert report.StudyInstanceUID == f"1.2.826.0.1.{number}.7"
        assert "research, not for clinical use" in report.SeriesDescription
        assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
        (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
        (series,) = evidence.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == f"1.2.826.0.1.{number}.8"
        assert {item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence} == set(ids[number])
        groups = report.content.get_image_measurement_groups()
        assert [group.tracking_identifier for group in groups] == list(LABELS)
        for label, group in zip(LABELS, groups, strict=True):
            certainty = group.get_measurements()[0]
            assert certainty.name.meaning == "Certainty of Finding"
            assert certainty.value == pytest.approx(100 * row[label], abs=1e-4)
            (image,) = group.source_images
            assert image.referenced_sop_instance_uid == of_study["slice_id"][of_study[label].idxmax()]
        call = groups[LABELS.index("intraparenchymal")].get_qualitative_evaluations()[-1]
        assert call.value.meaning == ("Present" if row["called_intraparenchymal"] == 1 else "Absent")
        count = next(m for m in groups[LABELS.index("subdural")].get_measurements() if "Slices" in m.name.meaning)
        assert count.value == of_study["called_subdural"].sum()


def test_a_report_identifies_the_algorithm_and_is_marked_as_research(
    ichx: Program, trained_copy: Path, tmp_path: Path
) -> None:
    write_patient(tmp_path / "new", 1)
    done = ichx("predict", 2, tmp_path / "new", "--sr", tmp_path / "one.dcm", cwd=trained_copy)
    assert done.code == 0, done.err
    texts = [str(item.value) for item in pydicom.dcmread(tmp_path / "one.dcm").iterall() if item.keyword == "TextValue"]
    assert "research, not for clinical use" in texts
    name = next(text for text in texts if text.startswith("ichx experiment 2"))
    assert name.startswith("ichx experiment 2: ")
    digest = next(text for text in texts if text.startswith("weights SHA-256 ")).split()[-1]
    assert len(digest) == 64
    assert any(text.endswith(f"weights {digest[:16]}") for text in texts)
    other = ichx("predict", 1, tmp_path / "new", "--sr", tmp_path / "other.dcm", cwd=trained_copy)
    assert other.code == 0, other.err
    assert digest not in str(pydicom.dcmread(tmp_path / "other.dcm")), "other weights have another digest"


def test_files_that_no_report_can_refer_to_are_refused_before_prediction(
    ichx: Program, trained_root: Path, tmp_path: Path
) -> None:
    write_patient(tmp_path / "new", 1)
    write_patient(tmp_path / "new", 2, slices=2, PatientID="", StudyInstanceUID="ID_study")
    done = ichx("predict", 2, tmp_path / "new", "--sr", tmp_path / "sr", "--json", cwd=trained_root)
    done.check_error("invalid_input", "2 files", "StudyInstanceUID", "PatientID", "2-0.dcm")
    assert "Predicted" not in done.err
    assert not (tmp_path / "sr").exists()


def test_dates_that_are_none_are_empty(ichx: Program, trained_root: Path, tmp_path: Path) -> None:
    invalid = {"PatientBirthDate": "unknown", "StudyTime": "25:99", "StudyDate": "2024-99", "PatientSex": "unknown"}
    write_patient(tmp_path / "new", 1, PatientAge="999Y", **invalid)
    done = ichx("predict", 2, tmp_path / "new", "--sr", tmp_path / "one.dcm", cwd=trained_root)
    assert done.code == 0, done.err
    report = read(tmp_path / "one.dcm")
    assert (report.PatientBirthDate, report.StudyTime, report.StudyDate) == ("", "", "")
    assert (report.PatientID, report.PatientSex) == ("MRN-1", "")


def test_one_file_for_several_studies_is_refused(ichx: Program, trained_root: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        write_patient(tmp_path / "new", number)
    done = ichx("predict", 2, tmp_path / "new", "--sr", tmp_path / "one.dcm", "--json", cwd=trained_root)
    done.check_error("invalid_input", "2 studies")
    other = ichx("predict", 2, tmp_path / "new", "--sr", tmp_path / "one.json", "--json", cwd=trained_root)
    other.check_error("invalid_input", ".json")


def test_without_highdicom_the_extra_is_named(
    ichx: Program, trained_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "highdicom", None)
    write_patient(tmp_path / "new", 1)
    done = ichx("predict", 2, tmp_path / "new", "--sr", tmp_path / "sr", "--json", cwd=trained_root)
    done.check_error("missing_dependency", "highdicom")
    assert "ichx[sr]" in done.error["remedy"]
