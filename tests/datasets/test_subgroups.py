"""Subgroups by header fields: their names, what is unknown, and how catalogs get the fields."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Program
from dicom_files import write_ct, write_study

from ichx.datasets.catalog import build_catalog, catalog_digest, read_catalog, usable_slices
from ichx.datasets.ingest import ACQUISITION, scan_source
from ichx.datasets.subgroups import FIELDS, UNKNOWN, group_names, unusual_studies
from ichx.errors import InvalidInputError, NotReadyError

FULL = {
    "Manufacturer": "SIEMENS",
    "ManufacturerModelName": "Sensation 16",
    "ConvolutionKernel": "H31s",
    "KVP": "120",
    "SliceThickness": "4.8",
    "PatientSex": "M",
    "PatientAge": "063Y",
    "InstitutionName": "St. Elsewhere",
    "BodyPartExamined": "HEAD",
}


def slices_of(folder: Path, key: bytes | None = b"key") -> pd.DataFrame:
    return usable_slices(build_catalog(scan_source(folder), key)[0])


def test_groups_have_the_names_of_their_values(tmp_path: Path) -> None:
    write_study(tmp_path, "a", 2, **FULL)
    write_study(tmp_path, "b", 1, Manufacturer="GE", SliceThickness="0.625", ContrastBolusAgent="Iomeron")
    slices = slices_of(tmp_path)
    is_a = (slices["sex"] == "M").to_numpy()
    assert is_a.sum() == 2
    expected = {
        "scanner": ("SIEMENS Sensation 16", "GE"),
        "kernel": ("H31s", UNKNOWN),
        "kvp": ("120 kV", UNKNOWN),
        "thickness": ("3 to 5 mm", "<= 1.5 mm"),
        "age": ("60-69", UNKNOWN),
        "contrast": (UNKNOWN, "yes"),
        "spacing": ("0.45 to 0.5 mm", "0.45 to 0.5 mm"),
        "pixels": ("16-bit unsigned, intercept -1024, 32 x 32",) * 2,
    }
    for field, (of_a, of_b) in expected.items():
        found = group_names(slices, field)
        assert set(found[is_a]) == {of_a}, field
        assert set(found[~is_a]) == {of_b}, field


def test_every_field_groups_every_slice(tmp_path: Path) -> None:
    write_study(tmp_path, "a", 3, **FULL)
    slices = slices_of(tmp_path)
    for field, grouping in FIELDS.items():
        found = grouping(slices)
        assert len(found) == 3
        assert all(isinstance(name, str) and name for name in found), field
        assert len(grouping(slices.iloc[:0])) == 0, field


def test_institutions_are_hashes_also_if_ids_are_kept(tmp_path: Path) -> None:
    write_study(tmp_path, "a", 1, **FULL)
    scan = scan_source(tmp_path)
    hashed = build_catalog(scan, b"key")[0]["institution"][0]
    assert len(hashed) == 16
    assert "Elsewhere" not in hashed
    assert build_catalog(scan, b"key", keep_ids=True)[0]["institution"][0] == hashed
    assert build_catalog(scan, b"other")[0]["institution"][0] != hashed
    assert build_catalog(scan, None)[0]["institution"][0] == ""


def test_fields_do_not_change_the_digest_of_a_catalog(tmp_path: Path) -> None:
    write_study(tmp_path, "a", 2, **FULL)
    catalog = build_catalog(scan_source(tmp_path), b"key")[0]
    bare = catalog.assign(**{name: "" if dtype != "float32" else np.nan for name, dtype in ACQUISITION.items()})
    assert catalog_digest(catalog) == catalog_digest(bare)


def test_unknown_fields_and_fields_without_a_value_are_refused(tmp_path: Path) -> None:
    write_ct(tmp_path / "slice.dcm")
    slices = slices_of(tmp_path)
    with pytest.raises(InvalidInputError, match="'vendor'"):
        group_names(slices, "vendor")
    with pytest.raises(NotReadyError, match="'kernel'") as raised:
        group_names(slices, "kernel")
    assert "spacing" in raised.value.remedy
    assert "data add" in raised.value.remedy


def test_contrast_and_other_body_parts_are_unusual(tmp_path: Path) -> None:
    write_study(tmp_path, "a", 1, BodyPartExamined="HEADNECK")
    write_study(tmp_path, "b", 1, BodyPartExamined="CHEST", ContrastBolusAgent="Iomeron")
    found = {what: len(studies) for studies, what in unusual_studies(slices_of(tmp_path))}
    assert found == {"with a contrast agent": 1, "of another body part (CHEST)": 1}
    assert unusual_studies(slices_of(tmp_path).iloc[:0]) == []


def test_adding_the_same_files_again_completes_a_catalog_without_fields(ichx: Program, tmp_path: Path) -> None:
    source = tmp_path / "files"
    source.mkdir()
    write_study(source, "a", 2, **FULL | {"PatientAge": "999Y"})
    assert ichx("init", "workspace", cwd=tmp_path).code == 0
    root = tmp_path / "workspace"
    added = ichx("data", "add", "new", source, cwd=root)
    assert added.code == 0, added.err
    assert "2 slices with an implausible PatientAge" in " ".join((added.out + added.err).split())
    (file,) = root.glob("datasets/new/v1/catalog.parquet")
    complete = read_catalog(file)
    pd.read_parquet(file).drop(columns=list(ACQUISITION)).to_parquet(
        file, index=False
    )  # as an earlier version wrote it
    assert (read_catalog(file)["manufacturer"] == "").all()
    again = ichx("data", "add", "new", source, cwd=root)
    assert again.code == 0, again.err
    pd.testing.assert_frame_equal(read_catalog(file), complete)
    listed = json.loads(ichx("data", "list", "--json", cwd=root).out)
    assert len(listed) == 1
    shutil.rmtree(source)
