"""Reading assumptions: named where a header leaves a value open, and refused where the values contradict them."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_files import head, write_ct
from pydicom import config, dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from ichx.ct.assumptions import ASSUMPTIONS
from ichx.ct.dicom import DicomDefectError, read_headers, read_slice
from ichx.phantom.encoded_files import encoders, enhanced

HU = head().astype(np.int16) - np.int16(1024)
NO_RESCALE = {"RescaleSlope": None, "RescaleIntercept": None}


def defect(source: Path | io.BytesIO, read: Callable = read_slice, frame: int = 0) -> str:
    with pytest.raises(DicomDefectError) as caught:
        read(source, frame) if frame else read(source)
    return caught.value.reason


def assumed(path: Path) -> tuple[str, ...]:
    """Return the assumptions of a slice, which are the same in its header and after decoding."""
    [header] = read_headers(path)
    assert header.assumptions == read_slice(path).header.assumptions
    assert set(header.assumptions) <= ASSUMPTIONS.keys()
    return header.assumptions


@pytest.mark.parametrize("missing", [NO_RESCALE, {"RescaleSlope": None, "RescaleIntercept": 0}, {"RescaleSlope": ""}])
def test_values_that_are_plainly_hu_need_no_rescale(tmp_path: Path, missing: dict) -> None:
    elements = {"RescaleIntercept": 0} | missing
    path = write_ct(tmp_path / "a.dcm", HU, **elements)
    assert assumed(path) == ("rescale_missing",)
    assert (read_slice(path).hu == HU).all()


def test_a_slope_alone_may_be_missing_from_unsigned_values(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "a.dcm", RescaleSlope=None)
    assert assumed(path) == ("rescale_missing",)
    assert (read_slice(path).hu == HU).all()
    doubled = write_ct(tmp_path / "b.dcm", head() // 2, RescaleSlope=None)
    assert defect(doubled) == "bad_rescale"


@pytest.mark.parametrize("bits", [{}, {"BitsStored": 12, "HighBit": 11}])
def test_unsigned_values_without_an_intercept_are_refused_by_their_header(tmp_path: Path, bits: dict) -> None:
    path = write_ct(tmp_path / "a.dcm", RescaleIntercept=None, **bits)
    assert defect(path, read_headers) == defect(path) == "bad_rescale"


@pytest.mark.parametrize("syntax", [None, JPEG2000Lossless])
@pytest.mark.parametrize("padding", [{}, {"PixelPaddingValue": -2000}])
def test_signed_values_without_rescale_that_are_not_hu_are_refused(tmp_path: Path, syntax, padding: dict) -> None:
    stored = head().astype(np.int16)  # stripped of their intercept of -1024
    stored[:6] = -2000  # padding is no air, declared or not
    elements = NO_RESCALE | padding
    if syntax:
        elements |= {"PixelData": encapsulate([encoders()[syntax](stored)])}
        path = write_ct(tmp_path / "a.dcm", stored, syntax=syntax, **elements)
    else:
        path = write_ct(tmp_path / "a.dcm", stored, **elements)
    assert defect(path) == "bad_rescale"


def saved(dataset: Dataset) -> io.BytesIO:
    stream = io.BytesIO()
    with config.disable_value_validation():
        dataset.save_as(stream, enforce_file_format=False)
    stream.seek(0)
    return stream


@pytest.mark.parametrize("signed", [True, False])
def test_frames_without_rescale_follow_the_same_rules(tmp_path: Path, signed: bool) -> None:
    images = [HU, HU[::-1].copy()] if signed else [head(), head()[::-1].copy()]
    dataset = enhanced(write_ct(tmp_path / "a.dcm", images[0]), images)
    del dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
    source = saved(dataset)
    if not signed:
        assert defect(source, read_headers) == "bad_rescale"
        return
    assert [header.assumptions for header in read_headers(source)] == [("rescale_missing",)] * 2
    source.seek(0)
    assert (read_slice(source, 2).hu == images[1]).all()


def test_frames_have_their_own_rescale_types(tmp_path: Path) -> None:
    dataset = enhanced(write_ct(tmp_path / "a.dcm"), [head()] * 3)
    for group, unit in zip(dataset.PerFrameFunctionalGroupsSequence, ("HU", "US", "Z_EFF"), strict=True):
        item = Dataset()
        item.RescaleIntercept, item.RescaleSlope, item.RescaleType = -1024, 1, unit
        group.PixelValueTransformationSequence = Sequence([item])
    headers = read_headers(saved(dataset))
    assert [header.assumptions for header in headers] == [(), ("rescale_type",), ()]
    assert [(header.defect, header.detail) for header in headers] == [
        ("", ""),
        ("", ""),
        ("not_hu", "Rescale Type Z_EFF"),
    ]


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("HU", ()),
        ("hu ", ()),
        ("", ()),
        ("Hounsfield Units", ()),
        ("Houndsfield Unit", ()),
        ("US", ("rescale_type",)),
        ("HU_MOD", ("rescale_type",)),
        ("normalized", ("rescale_type_unknown",)),
    ],
)
def test_rescale_types_that_may_be_hu(tmp_path: Path, unit: str, expected: tuple) -> None:
    path = write_ct(tmp_path / "a.dcm", RescaleType=unit)
    assert assumed(path) == expected
    assert (read_slice(path).hu == HU).all()


@pytest.mark.parametrize("unit", ["Z_EFF", "MGML", "EDW", "ED", "OD", "PCT"])
def test_rescale_types_that_are_not_hu_are_refused(tmp_path: Path, unit: str) -> None:
    path = write_ct(tmp_path / "a.dcm", RescaleType=unit)  # although these values would be plausible
    assert defect(path, read_headers) == defect(path) == "not_hu"


def test_an_unknown_rescale_type_of_values_that_are_not_hu_is_refused(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "a.dcm", RescaleType="keV", RescaleSlope=0.01, RescaleIntercept=0)
    assert defect(path) == "not_hu"


@pytest.mark.parametrize("rescale", [{}, NO_RESCALE])
@pytest.mark.parametrize("undefined", [True, False])
def test_a_modality_lut_is_refused(tmp_path: Path, rescale: dict, undefined: bool) -> None:
    path = write_ct(tmp_path / "a.dcm", **rescale)
    dataset = dcmread(path)
    item = Dataset()
    item.add_new(0x00283002, "US", [4096, 0, 16])
    item.add_new(0x00283006, "OW", np.arange(4096, dtype="<u2").tobytes())
    dataset.ModalityLUTSequence = Sequence([item])
    dataset["ModalityLUTSequence"].is_undefined_length = undefined
    assert defect(saved(dataset), read_headers) == defect(saved(dataset)) == "modality_lut"


def test_an_empty_modality_lut_sequence_is_none(tmp_path: Path) -> None:
    dataset = dcmread(write_ct(tmp_path / "a.dcm"))
    dataset.ModalityLUTSequence = Sequence([])
    assert (read_slice(saved(dataset)).hu == HU).all()


TWELVE = {"BitsStored": 12, "HighBit": 11}


def test_padding_beyond_the_stored_bits_is_air(tmp_path: Path) -> None:
    stored = head()
    stored[:2] = 63536  # -2000 as 16 bits; its low 12 bits are 2096, 1072 HU
    path = write_ct(tmp_path / "a.dcm", stored, PixelPaddingValue=63536, **TWELVE)
    assert assumed(path) == ("padding_bits",)
    hu = read_slice(path).hu
    assert (hu[:2] == -1024).all()
    assert (hu[2:] == HU[2:]).all()
    undeclared = write_ct(tmp_path / "b.dcm", stored, **TWELVE)
    assert assumed(undeclared) == ()
    assert (read_slice(undeclared).hu[:2] == 1072).all()


def test_only_complete_words_are_padding_beyond_the_stored_bits(tmp_path: Path) -> None:
    stored = head()
    stored[:2] = 2096  # bone, of which the padding has the low bits
    hu = read_slice(write_ct(tmp_path / "a.dcm", stored, PixelPaddingValue=63536, **TWELVE)).hu
    assert (hu[:2] == 1072).all()


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
def test_padding_beyond_the_stored_bits_of_a_codestream_is_air(tmp_path: Path, syntax: str) -> None:
    stored = head()
    stored[:2] = 63536
    data = encapsulate([encoders()[syntax](stored)])
    path = write_ct(tmp_path / "a.dcm", syntax=syntax, PixelData=data, PixelPaddingValue=63536, **TWELVE)
    hu = read_slice(path).hu
    assert (hu[:2] == -1024).all()
    assert (hu[2:] == HU[2:]).all()


@pytest.mark.parametrize("limit", [("unsigned", 4000, 4094), ("unsigned", 4094, 4000), ("signed", -1500, -1200)])
def test_a_range_of_padding_is_air(tmp_path: Path, limit: tuple) -> None:
    kind, first, last = limit
    low, high = min(first, last), max(first, last)
    stored = head() if kind == "unsigned" else HU.copy()
    stored[0, :4] = [low - 1, low, high, high + 1]
    elements = {"RescaleIntercept": -1024 if kind == "unsigned" else 2000}
    path = write_ct(tmp_path / "a.dcm", stored, PixelPaddingValue=first, PixelPaddingRangeLimit=last, **elements)
    assert assumed(path) == ("padding_range",)
    expected = stored.astype(int) + elements["RescaleIntercept"]
    expected[0, 1:3] = -1024
    assert (read_slice(path).hu == expected).all()


def test_a_range_limit_without_a_padding_value_or_equal_to_it_is_none(tmp_path: Path) -> None:
    alone = write_ct(tmp_path / "a.dcm", PixelPaddingRangeLimit=2000)
    equal = write_ct(tmp_path / "b.dcm", PixelPaddingValue=0, PixelPaddingRangeLimit=0)
    for path in (alone, equal):
        assert assumed(path) == ()
        assert (read_slice(path).hu == HU).all()


RUBBISH = np.random.default_rng(0).integers(0, 16, HU.shape)


def test_values_in_the_upper_bits_are_shifted(tmp_path: Path) -> None:
    upper = {"BitsStored": 12, "HighBit": 15}
    unsigned = (head().astype(int) << 4 | RUBBISH).astype(np.uint16)
    signed = (HU.astype(int) << 4 | RUBBISH).astype(np.int16)
    middle = (head().astype(int) << 2 | RUBBISH >> 2 | 0x4000).astype(np.uint16)
    for name, stored, elements in (
        ("a", unsigned, upper),
        ("b", signed, upper | {"RescaleIntercept": 0}),
        ("c", middle, {"BitsStored": 12, "HighBit": 13}),
    ):
        path = write_ct(tmp_path / f"{name}.dcm", stored, **elements)
        assert assumed(path) == ("bit_layout",), name
        assert (read_slice(path).hu == HU).all(), name
    path = write_ct(
        tmp_path / "d.dcm", syntax=RLELossless, PixelData=encapsulate([encoders()[RLELossless](unsigned)]), **upper
    )
    assert (read_slice(path).hu == HU).all()


@pytest.mark.parametrize("high_bit", [15, 0, 255, 10])
def test_values_that_fit_the_lower_bits_are_not_shifted(tmp_path: Path, high_bit: int) -> None:
    padded = HU.copy()
    padded[0] = -2000
    for name, stored, elements in (
        ("a", head(), {}),
        ("b", HU, {"RescaleIntercept": 0}),
        ("c", HU & 0x0FFF, {"RescaleIntercept": 0, "PixelRepresentation": 1}),
        ("d", padded, {"RescaleIntercept": 0, "PixelPaddingValue": -2000}),
    ):
        path = write_ct(tmp_path / f"{name}.dcm", stored, **elements, BitsStored=12, HighBit=high_bit)
        assert assumed(path) == ("bit_layout",), name
        assert (read_slice(path).hu[1:] == HU[1:]).all(), name
