"""Acquisition fields of headers: what is read, what counts as missing, and that ages are bands."""

from pathlib import Path

import pytest
from dicom_files import write_ct

from ichx.ct.acquisition import IMPLAUSIBLE, UNKNOWN, age_band, read_acquisition
from ichx.ct.dicom import read_headers
from ichx.ct.elements import KVP


def fields_of(folder: Path, **elements: object) -> object:
    with write_ct(folder / "slice.dcm", **elements).open("rb") as handle:
        (header,) = read_headers(handle)
    return header.acquisition


def test_all_fields_are_read_and_cleaned(tmp_path: Path) -> None:
    found = fields_of(
        tmp_path,
        Manufacturer="GE  MEDICAL\tSYSTEMS ",
        ManufacturerModelName="LightSpeed VCT\x1b[31m",
        ConvolutionKernel=["Hr40f", "3"],
        KVP="120",
        SliceThickness="5.0",
        ContrastBolusAgent="OMNIPAQUE",
        BodyPartExamined="Head",
        PatientSex="f",
        PatientAge="047Y",
        InstitutionName="General",
    )
    assert vars(found) == {
        "manufacturer": "GE MEDICAL SYSTEMS",
        "model": "LightSpeed VCT [31m",
        "kernel": "Hr40f/3",
        "kvp": 120.0,
        "thickness": 5.0,
        "contrast": "yes",
        "body_part": "HEAD",
        "sex": "F",
        "age": "40-49",
        "institution": "General",
    }


def test_a_bare_header_has_no_fields(tmp_path: Path) -> None:
    assert repr(fields_of(tmp_path)) == repr(UNKNOWN)  # NaN does not equal itself


@pytest.mark.parametrize(
    ("element", "value", "field"),
    [
        ("KVP", "0", "kvp"),
        ("KVP", "1e9", "kvp"),
        ("KVP", b"120,0 ", "kvp"),
        ("SliceThickness", "-5", "thickness"),
        ("SliceThickness", "nan", "thickness"),
        ("PatientSex", "female", "sex"),
        ("PatientAge", "47", "age"),
    ],
)
def test_implausible_values_count_as_missing(tmp_path: Path, element: str, value: object, field: str) -> None:
    # pydicom does not write a decimal comma
    found = read_acquisition({KVP: value}) if isinstance(value, bytes) else fields_of(tmp_path, **{element: value})
    assert repr(getattr(found, field)) == repr(getattr(UNKNOWN, field))


@pytest.mark.parametrize("agent", ["NONE", "no", "W/O", "without contrast", "Unenhanced", "non-contrast"])
def test_an_agent_that_denies_contrast_is_none(tmp_path: Path, agent: str) -> None:
    assert fields_of(tmp_path, ContrastBolusAgent=agent).contrast == "no"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("age", "band"),
    [
        ("000Y", "0-9"),
        ("009Y", "0-9"),
        ("010Y", "10-19"),
        ("089Y", "80-89"),
        ("090Y", "90+"),
        ("104Y", "90+"),
        ("018M", "0-9"),
        ("240M", "20-29"),
        ("003W", "0-9"),
        ("012D", "0-9"),
        ("999Y", IMPLAUSIBLE),
        ("131Y", IMPLAUSIBLE),
        ("", ""),
        ("Y", ""),
        ("forty", ""),
    ],
)
def test_ages_are_bands_of_ten_years(age: str, band: str) -> None:
    assert age_band(age) == band
