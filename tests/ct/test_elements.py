"""Raw elements: those that pydicom reads, and no harm from files that lie."""

import io
import struct
from pathlib import Path

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import config
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from ichx.ct.defects import DicomDefectError
from ichx.ct.elements import WANTED, Elements, read_elements
from ichx.ct.syntaxes import DEFLATED
from ichx.phantom.encoded_files import deflated, element, preamble

MARK = bytes(128) + b"DICM"
SLICE_ID = 0x00080018
PIXELS = struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, 4) + b"\1\2\3\4"
OPEN_ITEM = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
CLOSED = b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"


def read(body: bytes, syntax: str = ExplicitVRLittleEndian) -> Elements:
    return read_elements(io.BytesIO(preamble(syntax) + body))


def defect(body: bytes, syntax: str = ExplicitVRLittleEndian) -> str:
    with pytest.raises(DicomDefectError) as caught:
        read(body, syntax)
    return caught.value.reason


def as_pydicom(content: bytes) -> dict[int, bytes]:
    dataset = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
    found = {tag: dataset.get_item(tag, keep_deferred=True) for tag in WANTED}
    return {tag: item.value or b"" for tag, item in found.items() if item is not None}


@pytest.mark.filterwarnings("ignore:Expected explicit VR")
def test_agrees_with_pydicom_on_its_own_test_files() -> None:
    compared = 0
    for path in sorted((Path(pydicom.__file__).parent / "data").rglob("*")):
        content = path.read_bytes() if path.is_file() else b""
        if content[128:132] != b"DICM" or "truncated" in path.name:
            continue
        assert read_elements(io.BytesIO(content)).values == as_pydicom(content), path.name
        compared += 1
    assert compared > 20


def test_agrees_with_pydicom_on_real_files(shared_data: Path) -> None:
    paths = [path for path in shared_data.rglob("*") if path.suffix == ".dcm" or "J2KR" in path.name]
    assert len(paths) > 60
    for path in paths:
        content = path.read_bytes()
        assert read_elements(io.BytesIO(content)).values == as_pydicom(content), path.name


texts = st.text(st.characters(codec="ascii", exclude_characters="\\\0"), max_size=20)
plain = st.fixed_dictionaries(
    {},
    optional={
        "SOPInstanceUID": st.from_regex(r"ID_[0-9a-f]{1,9}", fullmatch=True),
        "Modality": st.sampled_from(["CT", "MR", ""]),
        "PatientID": texts,
        "PatientName": texts,
        "ImageComments": texts,
        "Rows": st.integers(0, 65535),
        "PixelPaddingValue": st.integers(0, 32767),
        "WindowCenter": st.lists(st.integers(-1000, 1000), max_size=3),
        "RescaleSlope": st.sampled_from(["1", "0.5", ""]),
        "RedPaletteColorLookupTableData": st.binary(max_size=40).filter(lambda value: len(value) % 2 == 0),
    },
)
trees = st.recursive(plain, lambda inner: st.tuples(plain, st.lists(inner, max_size=3), st.booleans()), max_leaves=6)


def dataset_of(tree) -> Dataset:
    dataset = Dataset()
    elements, items, undefined = (tree, None, False) if isinstance(tree, dict) else tree
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    if items is not None:
        dataset.ReferencedImageSequence = Sequence([dataset_of(item) for item in items])
        dataset["ReferencedImageSequence"].is_undefined_length = undefined
        for item in dataset.ReferencedImageSequence:
            item.is_undefined_length_sequence_item = undefined
    return dataset


@settings(max_examples=150, deadline=None)
@given(
    tree=trees,
    syntax=st.sampled_from(
        [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
    ),
    pixels=st.booleans(),
)
def test_agrees_with_pydicom_on_any_dataset(tree, syntax: str, pixels: bool) -> None:
    with config.disable_value_validation():
        dataset = dataset_of(tree)
        dataset.BitsAllocated, dataset.PixelRepresentation = 16, 0
        if pixels:
            dataset.PixelData = b"\1\2\3\4"
            dataset["PixelData"].VR = "OW"
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.file_meta.MediaStorageSOPClassUID = CTImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        stream = io.BytesIO()
        dataset.save_as(stream, enforce_file_format=True)
        found = read_elements(io.BytesIO(stream.getvalue()))
        assert found.values == as_pydicom(stream.getvalue())
    assert found.syntax == syntax
    assert (found.pixels is not None) == pixels
    if found.pixels is not None:
        assert found.pixels.length == 4
        assert found.window.cut(found.pixels.offset, 99) == b"\1\2\3\4"


def test_reads_common_violations_of_the_standard() -> None:
    slice_id = element(SLICE_ID, "UI", b"ID_a")
    unknown_kind = element(0x00081030, "ZZ", b"text")
    without_kind = struct.pack("<HHL", 0x0008, 0x1030, 4) + b"\1\2\3\4"
    of_unknown = element(0x00091010, "UN", OPEN_ITEM + struct.pack("<HHL", 8, 0x1030, 2) + b"xx" + CLOSED, 2**32 - 1)
    for odd in (unknown_kind, without_kind, of_unknown):
        found = read(slice_id + odd + element(0x00100020, "LO", b"p0") + PIXELS)
        assert found.values == {SLICE_ID: b"ID_a", 0x00100020: b"p0"}
        assert found.pixels is not None
    implicit = struct.pack("<HHL", 0x0008, 0x0018, 4) + b"ID_b"
    assert read(implicit).values == {SLICE_ID: b"ID_b"}  # although the file says explicit
    unnamed = read_elements(io.BytesIO(MARK + implicit))
    assert (unnamed.values, unnamed.syntax) == ({SLICE_ID: b"ID_b"}, ImplicitVRLittleEndian)
    big = struct.pack(">HH2sH", 0x0008, 0x0018, b"UI", 4) + b"ID_c"
    unnamed = read_elements(io.BytesIO(MARK + big))
    assert (unnamed.values, unnamed.syntax) == ({SLICE_ID: b"ID_c"}, ExplicitVRBigEndian)


def test_sequences_nested_a_hundred_thousand_deep_are_skipped() -> None:
    deep = element(0x00081140, "SQ", OPEN_ITEM, 2**32 - 1) * 100_000
    after = element(0x00100020, "LO", b"p0") + PIXELS
    assert read(deep + CLOSED * 100_000 + after).values == {0x00100020: b"p0"}
    assert defect(deep + after) == "damaged_header"


def test_contradictory_headers_are_defects() -> None:
    beyond = element(0x00081030, "UT", b"", 2**31)
    assert defect(beyond) == "damaged_header"
    assert defect(element(SLICE_ID, "UI", b"ID", 60000)) == "damaged_header"
    assert defect(element(SLICE_ID, "UT", bytes(2**20 + 2))) == "damaged_header"
    assert defect(element(0x00210001, "LO", b"") * (2**20 + 1)) == "damaged_header"
    groups = element(0x52009230, "SQ", b"\xfe\xff\x00\xe0\0\0\0\0" * 70_000, 2**32 - 1)
    assert defect(groups) == "absurd_size"
    assert defect(element(0x52009230, "SQ", b"no items")) == "damaged_header"


def test_deflated_files_are_inflated_no_further_than_needed() -> None:
    million = bytes(2**20)
    slice_id = element(SLICE_ID, "UI", b"ID_a")
    bomb = element(0x00091010, "OW", b"", 3 * 2**30)
    assert defect(deflated([slice_id, bomb, *[million] * 70]), DEFLATED) == "damaged_header"
    assert defect(deflated([million] * 70), DEFLATED) == "damaged_header"
    assert defect(b"\xff" * 100, DEFLATED) == "damaged_header"
    pixels = struct.pack("<HH2sHL", 0x7FE0, 0x10, b"OW", 0, 100 * 2**20)
    found = read(deflated([slice_id, pixels, *[million] * 100]), DEFLATED)
    assert found.values == {SLICE_ID: b"ID_a"}
    assert found.pixels is not None
    assert found.pixels.length == 100 * 2**20
    assert len(found.window.data) == 8192
    with pytest.raises(DicomDefectError, match="1024 MiB"):
        found.window.cut(2**30, 10)
