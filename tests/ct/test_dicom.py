"""One file to HU, or to a named defect."""

import io
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
from dicom_files import SIDE, head, write_ct
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import config, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from ichx.ct.dicom import DEFECTS, DicomDefectError, read_headers, read_ids, read_slice
from ichx.phantom.encoded_files import damaged, encoders, enhanced, valid_files


def defect(source, read=read_slice) -> str:
    with pytest.raises(DicomDefectError) as caught:
        read(source)
    assert caught.value.reason in DEFECTS
    return caught.value.reason


def test_reads_the_values_of_the_header(tmp_path: Path) -> None:
    path = write_ct(
        tmp_path / "a.dcm",
        InstanceNumber=7,
        ImagePositionPatient=[-120.5, 3, 42.25],
        PixelSpacing=[0.4, 0.5],
        WindowCenter=["00036", "00600"],
        WindowWidth=["00080", "02800"],
    )
    [header] = read_headers(path)
    assert (header.slice_id, header.patient_id, header.study_id, header.series_id) == (
        "ID_a",
        "p0",
        "ID_study",
        "ID_series",
    )
    assert (header.instance_number, header.rows, header.columns) == (7, SIDE, SIDE)
    assert header.position == (-120.5, 3, 42.25)
    assert header.orientation == (1, 0, 0, 0, 1, 0)
    assert header.spacing == (0.4, 0.5)
    assert (header.window, header.window_missing) == ((36, 80), False)
    assert read_slice(path).header == header


def test_reads_a_stream_and_leaves_it_open(tmp_path: Path) -> None:
    stream = io.BytesIO(write_ct(tmp_path / "a.dcm").read_bytes())
    assert [header.slice_id for header in read_headers(stream)] == ["ID_a"]
    stream.seek(0)
    assert read_slice(stream).hu.shape == (SIDE, SIDE)
    assert not stream.closed


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_reads_the_ids_of_files_with_defects(tmp_path: Path, syntax: str) -> None:
    ids = ("ID_a", "p0", "ID_study", "ID_series")
    path = write_ct(tmp_path / "a.dcm", syntax=syntax)
    content = path.read_bytes()
    write_ct(path, syntax=syntax, PixelData=None, Modality="MR")
    assert read_ids(path) == ids
    inside_header = content.index(b"MONOCHROME2") + 4
    for end in (len(content) - 100, inside_header):
        path.write_bytes(content[:end])
        assert read_ids(path) == ids
    path.write_bytes(content[: content.index(b"ID_study") + 3])
    assert defect(path, read_ids) == "damaged_header"
    path.write_bytes(b"text" * 100)
    assert defect(path, read_ids) == "not_dicom"
    write_ct(path, syntax=syntax, SOPInstanceUID=None, SeriesInstanceUID=None)
    assert read_ids(path) == ("", "p0", "ID_study", "")


def test_never_reads_names_and_raises_no_warnings(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "a.dcm", PatientName="Somebody^Else", StudyDescription="free text" * 40)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        headers = read_headers(path)
        read_slice(path)
    assert "Somebody" not in repr(headers)


@pytest.mark.parametrize(
    ("elements", "window"),
    [
        ({"WindowCenter": None}, None),
        ({"WindowWidth": 0}, None),
        ({"WindowWidth": -80}, None),
        ({"WindowCenter": ""}, None),
        ({"WindowCenter": ["35", "700"], "WindowWidth": ["135", "3200"]}, (35, 135)),
    ],
)
def test_window_is_the_first_or_the_brains(tmp_path: Path, elements: dict, window: tuple | None) -> None:
    [header] = read_headers(write_ct(tmp_path / "a.dcm", **elements))
    assert header.window == (window or (40, 80))
    assert header.window_missing == (window is None)


def test_hu_is_rounded_and_clamped(tmp_path: Path) -> None:
    stored = np.full((SIDE, SIDE), 100, np.int16)
    stored[0, :6] = [-2000, -1, 0, 1, 3, 32767]
    hu = read_slice(write_ct(tmp_path / "a.dcm", stored, RescaleSlope=1.5, RescaleIntercept=-0.25)).hu
    assert hu.dtype == np.int16
    assert hu[0, :6].tolist() == [-1024, -2, 0, 1, 4, 32767]
    assert hu[1, 0] == 150


@settings(max_examples=60, deadline=None)
@given(
    stored=st.lists(st.integers(-(2**15), 2**15 - 1), min_size=2, max_size=20, unique=True),
    slope=st.sampled_from(["1", "2", "0.5", "0.244", "1.0001", "-1"]),
    intercept=st.sampled_from(["0", "-1024", "-1000.4", "31.5"]),
)
def test_hu_follows_the_formula(tmp_path_factory: pytest.TempPathFactory, stored, slope, intercept) -> None:
    image = np.zeros((SIDE, SIDE), np.int16)
    image.flat[: len(stored)] = stored
    path = tmp_path_factory.mktemp("hu") / "a.dcm"
    expected = np.clip(np.rint(image.astype(float) * float(slope) + float(intercept)), -1024, 32767)
    write_ct(path, image, RescaleSlope=slope, RescaleIntercept=intercept)
    if expected.min() == expected.max():
        assert defect(path) == "constant_image"
    else:
        assert (read_slice(path).hu == expected).all()


def test_padding_is_air_even_where_it_is_bright(tmp_path: Path) -> None:
    stored = head()
    stored[:2] = 63536  # -2000 written by a scanner as unsigned
    assert read_slice(write_ct(tmp_path / "a.dcm", stored)).hu[0, 0] > 3000
    hu = read_slice(write_ct(tmp_path / "b.dcm", stored, PixelPaddingValue=63536)).hu
    assert (hu[:2] == -1024).all()
    assert (hu[2:] == stored[2:].astype(int) - 1024).all()


@pytest.mark.parametrize("huge", ["1e308", "-1e308", "1e39", "NaN", "inf"])
def test_implausible_numbers_count_as_missing(tmp_path: Path, huge: str) -> None:
    path = write_ct(
        tmp_path / "a.dcm",
        ImagePositionPatient=["-120", "-120", huge],
        ImageOrientationPatient=["1", "0", "0", "0", huge, "0"],
        PixelSpacing=["0.5", huge],
        WindowCenter=huge,
    )
    [header] = read_headers(path)
    assert (header.position, header.orientation, header.spacing) == (None, None, None)
    assert (header.window, header.window_missing) == ((40, 80), True)
    narrow = write_ct(tmp_path / "b.dcm", PixelSpacing=["0.5", "1e-300"], WindowWidth="1e-300")
    [header] = read_headers(narrow)
    assert (header.spacing, header.window) == (None, (40, 80))


@pytest.mark.parametrize(
    ("elements", "values"),
    [
        ({"WindowCenter": "[60, 60]", "WindowWidth": "[120, 120]"}, {"window": (40, 80)}),
        ({"WindowCenter": "40,0", "WindowWidth": "80,0"}, {"window": (40, 80)}),
        ({"WindowCenter": "20.0000415", "WindowWidth": "1906.5"}, {"window": (20.0000415, 1906.5)}),
        ({"WindowCenter": ["", "40"], "WindowWidth": ["", "80"]}, {"window": (40, 80)}),
        ({"ImagePositionPatient": ["-120,5", "-120", "0"]}, {"position": None}),
        ({"PixelSpacing": "0.48,0.48"}, {"spacing": None}),
        ({"RescaleSlope": "1E0", "RescaleIntercept": "-1.024E+03"}, {"slope": 1, "intercept": -1024}),
        ({"InstanceNumber": "7.0"}, {"instance_number": 7}),
        ({"NumberOfFrames": "0"}, {"frame": 0}),
    ],
)
def test_odd_numbers_are_read_or_missing(tmp_path: Path, elements: dict, values: dict) -> None:
    path = tmp_path / "a.dcm"
    dataset = dcmread(write_ct(path))
    for keyword, value in elements.items():
        raw = "\\".join(value) if isinstance(value, list) else value
        tag, encoded = Tag(keyword), raw.encode() + b" " * (len(raw) % 2)
        dataset._dict[tag] = RawDataElement(tag, "DS", len(encoded), encoded, 0, False, True)
    with config.disable_value_validation():
        dataset.save_as(path, enforce_file_format=True)
    [header] = read_headers(path)
    assert {name: getattr(header, name) for name in values} == values
    assert (read_slice(path).hu == head().astype(int) - 1024).all()


def test_elements_inside_sequences_are_not_those_of_the_slice(tmp_path: Path) -> None:
    dataset = dcmread(write_ct(tmp_path / "a.dcm"))
    other = Dataset()
    other.StudyInstanceUID, other.PatientID, other.Modality = "9.9.9", "SOMEBODY", "MR"
    other.is_undefined_length_sequence_item = True
    dataset.StudiesContainingOtherReferencedInstancesSequence = Sequence([other])
    dataset["StudiesContainingOtherReferencedInstancesSequence"].is_undefined_length = True
    icon = Dataset()
    icon.Rows = icon.Columns = 16
    icon.BitsAllocated = icon.BitsStored = 8
    icon.PhotometricInterpretation = "MONOCHROME1"
    icon.PixelData = bytes(256)
    icon["PixelData"].VR = "OB"
    dataset.IconImageSequence = Sequence([icon])
    dataset.add_new(0x00091001, "UN", b"\xfe\xff\x00\xe0\x05\x00\x00\x00abcde")
    with config.disable_value_validation():
        dataset.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    decoded = read_slice(tmp_path / "b.dcm")
    assert (decoded.header.study_id, decoded.header.patient_id, decoded.header.rows) == ("ID_study", "p0", SIDE)
    assert (decoded.hu == head().astype(int) - 1024).all()


def test_unused_bits_do_not_count(tmp_path: Path) -> None:
    stored = head()
    elements = {"BitsStored": 12, "HighBit": 11}
    plain = read_slice(write_ct(tmp_path / "a.dcm", stored, **elements)).hu
    overlaid = read_slice(write_ct(tmp_path / "b.dcm", stored | 0x8000, **elements)).hu
    assert (plain == overlaid).all()
    negative = (stored.astype(np.int16) - 1024) & 0x0FFF  # 12-bit two's complement without its sign spread out
    hu = read_slice(write_ct(tmp_path / "c.dcm", negative, RescaleIntercept=0, **elements)).hu
    assert (hu == stored.astype(int) - 1024).all()


def test_byte_orders_agree(tmp_path: Path) -> None:
    little = read_slice(write_ct(tmp_path / "a.dcm")).hu
    implicit = read_slice(write_ct(tmp_path / "b.dcm", syntax=ImplicitVRLittleEndian)).hu
    big = read_slice(write_ct(tmp_path / "c.dcm", head().byteswap(), syntax=ExplicitVRBigEndian)).hu
    assert (little == implicit).all()
    assert (little == big).all()


def wrong_intercept(path: Path, shown: np.ndarray, intercept: float = 1.0) -> Path:
    """Write HU `shown` as the RSNA files with the wrong intercept have them: moved down by 1000, around 4096."""
    stored = np.where(shown < 0, shown + 4096, shown).astype(np.uint16)
    return write_ct(path, stored, BitsStored=12, HighBit=11, RescaleIntercept=intercept)


def test_wrong_intercept_is_repaired(tmp_path: Path) -> None:
    shown = head().astype(int) - 1000  # what the scanner measured: air at -980 and tissue at 60
    decoded = read_slice(wrong_intercept(tmp_path / "a.dcm", shown))
    assert decoded.repaired
    assert decoded.header.intercept == -1000
    assert (decoded.hu == shown).all()


def test_no_frame_of_several_is_of_the_family_with_wrong_intercepts(tmp_path: Path) -> None:
    path = wrong_intercept(tmp_path / "a.dcm", head().astype(int) - 1000)
    assert read_slice(path).repaired
    stored = dcmread(path).pixel_array
    enhanced(path, [stored, stored]).save_as(path)
    # Otherwise a catalog would decode each frame of such a file, of which there may be thousands.
    assert not any(header.intercept_suspect for header in read_headers(path))
    assert not read_slice(path, 2).repaired


def test_wrong_intercept_is_repaired_only_where_the_plain_reading_is_implausible(tmp_path: Path) -> None:
    shown = head().astype(int) - 1000
    plausible = write_ct(tmp_path / "a.dcm", head(), BitsStored=12, HighBit=11, RescaleIntercept=-1024)
    assert not read_slice(plausible).repaired
    borderline = read_slice(wrong_intercept(tmp_path / "b.dcm", shown, intercept=-100))
    assert not borderline.repaired  # only intercepts above -100 are of the family
    no_air = write_ct(tmp_path / "c.dcm", head() + np.uint16(100), BitsStored=12, HighBit=11, RescaleIntercept=0)
    decoded = read_slice(no_air)  # neither reading has air where 1000 more goes around
    assert not decoded.repaired
    assert decoded.header.intercept == 0
    assert (decoded.hu == head() + 100).all()
    sixteen = write_ct(
        tmp_path / "d.dcm", np.where(shown < 0, shown + 4096, shown).astype(np.uint16), RescaleIntercept=1
    )
    assert not read_slice(sixteen).repaired


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"Modality": "MR"}, "not_ct"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "not_ct"),
        ({"SOPInstanceUID": None}, "no_slice_id"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"NumberOfFrames": 1_000_000}, "absurd_size"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "monochrome1"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "unsupported_pixels"),
        ({"BitsAllocated": 12}, "unsupported_pixels"),
        ({"BitsStored": 17}, "unsupported_pixels"),
        ({"Rows": 65535, "Columns": 65535}, "absurd_size"),
        ({"Rows": 0}, "absurd_size"),
        ({"Columns": None}, "absurd_size"),
        ({"RescaleSlope": 0}, "bad_rescale"),
        ({"RescaleSlope": "1e308"}, "bad_rescale"),
        ({"RescaleSlope": "-1e308"}, "bad_rescale"),
        ({"RescaleSlope": "1e-300"}, "bad_rescale"),
        ({"RescaleIntercept": "1e308"}, "bad_rescale"),
        ({"PixelData": None}, "no_pixels"),
        ({"PixelData": b""}, "no_pixels"),
        ({"PixelData": b"\0" * 100}, "truncated"),
        ({"Rows": SIDE + 1}, "truncated"),
    ],
)
def test_header_defects_are_named_by_both_readers(tmp_path: Path, elements: dict, reason: str) -> None:
    path = write_ct(tmp_path / "a.dcm", **elements)
    assert defect(path, read_headers) == reason
    assert defect(path, read_slice) == reason


@pytest.mark.parametrize("modality", ["CT", "ct", "Computed tomography (CT)", "COMPUTED TOMOGRAPHY", "CT/SR", "", None])
def test_a_ct_image_may_spell_out_its_modality(tmp_path: Path, modality: str | None) -> None:
    path = write_ct(tmp_path / "a.dcm", Modality=modality)
    assert read_headers(path)[0].slice_id == "ID_a"
    unknown = write_ct(tmp_path / "b.dcm", Modality=modality, SOPClassUID=None)
    if modality in ("CT", "ct"):
        assert read_headers(unknown)[0].slice_id == "ID_b"
    else:
        assert defect(unknown, read_headers) == "not_ct"


@pytest.mark.parametrize("modality", ["MR", "PT", "SCT", "OCT", "DOC"])
def test_another_modality_is_named_even_in_a_ct_image(tmp_path: Path, modality: str) -> None:
    with pytest.raises(DicomDefectError) as caught:
        read_headers(write_ct(tmp_path / "a.dcm", Modality=modality))
    assert (caught.value.reason, caught.value.detail) == ("not_ct", f"modality {modality}")


def test_control_characters_of_a_file_are_escaped(tmp_path: Path) -> None:
    with pytest.raises(DicomDefectError) as caught:
        read_headers(write_ct(tmp_path / "a.dcm", Modality="MR\x1b]0;X\x07"))
    assert caught.value.detail == r"modality MR\x1b]0;X\x07"
    assert pickle.loads(pickle.dumps(caught.value)).detail == caught.value.detail


def without_meta(path: Path) -> bytes:
    """Return the bytes of a file from the first element of the dataset."""
    content = path.read_bytes()
    return content[144 + int.from_bytes(content[140:144], "little") :]


def test_files_without_preamble_are_read(tmp_path: Path) -> None:
    hu = read_slice(write_ct(tmp_path / "a.dcm")).hu
    whole = (tmp_path / "a.dcm").read_bytes()
    for content in (whole[132:], whole[128:]):
        assert read_headers(io.BytesIO(content))[0].assumptions == ()
        assert (read_slice(io.BytesIO(content)).hu == hu).all()
    jpeg = write_ct(
        tmp_path / "j.dcm", syntax=JPEG2000Lossless, PixelData=encapsulate([encoders()[JPEG2000Lossless](head())])
    )
    assert (read_slice(io.BytesIO(jpeg.read_bytes()[132:])).hu == hu).all()
    explicit = without_meta(tmp_path / "a.dcm")
    implicit = without_meta(write_ct(tmp_path / "b.dcm", syntax=ImplicitVRLittleEndian))
    big = without_meta(write_ct(tmp_path / "c.dcm", head().byteswap(), syntax=ExplicitVRBigEndian))
    for content in (explicit, implicit, big):
        assert read_headers(io.BytesIO(content))[0].assumptions == ("encoding",)
        assert (read_slice(io.BytesIO(content)).hu == hu).all()
        assert defect(io.BytesIO(content[:-1])) == "truncated"
    assert defect(io.BytesIO(without_meta(jpeg))) in ("undecodable", "truncated")  # nothing names the codec


def test_a_contradicted_transfer_syntax_is_an_assumption(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "a.dcm")
    content = path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2\0\0\0")
    assert read_headers(io.BytesIO(content))[0].assumptions == ("encoding",)
    assert (read_slice(io.BytesIO(content)).hu == read_slice(path).hu).all()


@pytest.mark.parametrize(
    "content",
    [
        b"\x08\0",
        b"\x08\0\x16\0UI",
        b"\x08\0\x16\0UI\xff\xff" + bytes(200),
        b"\x08\0\x16\0\x04\0\0\0" + bytes(200),
        b"\x08\0\x16\0UI\x04\0" + bytes(4) + b"\x08\0\x05\0CS\x04\0" + bytes(200),
        b"\x02\0\0\0" + bytes(200),
        b"\x08" * 300,
        b"II*\0\x08\0\0\0" + bytes(200),
    ],
)
def test_other_files_that_begin_like_dicom_are_not_dicom(content: bytes) -> None:
    assert defect(io.BytesIO(content), read_headers) == "not_dicom"


def test_file_defects_are_named(tmp_path: Path) -> None:
    whole = write_ct(tmp_path / "whole.dcm").read_bytes()
    cut = tmp_path / "cut.dcm"
    cut.write_bytes(whole[:-1])
    assert defect(cut, read_headers) == defect(cut) == "truncated"
    cut.write_bytes(whole[:200])
    assert defect(cut) in DEFECTS
    text = tmp_path / "notes.txt"
    text.write_text("not an image\n" * 30)
    assert defect(text, read_headers) == defect(text) == "not_dicom"
    text.write_bytes(b"")
    assert defect(text, read_headers) == "not_dicom"
    assert defect(tmp_path / "absent.dcm", read_headers) == "unreadable"
    assert defect(tmp_path, read_headers) == "unreadable"


def test_constant_image_is_a_defect_of_decoding(tmp_path: Path) -> None:
    path = write_ct(tmp_path / "a.dcm", np.full((SIDE, SIDE), 1024, np.uint16))
    assert [header.slice_id for header in read_headers(path)] == ["ID_a"]
    assert defect(path) == "constant_image"


def test_compressed_streams(tmp_path: Path) -> None:
    for syntax in (JPEG2000Lossless, RLELossless):
        path = write_ct(tmp_path / "a.dcm", syntax=syntax, PixelData=encapsulate([b"\xff\x4f\xff\x51" + b"\0" * 60]))
        assert read_headers(path)[0].transfer_syntax == syntax
        assert defect(path) == "undecodable"


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("99", ("unknown or private", "no Python package")),
        ("58", ("JPEG Lossless, Non-Hierarchical (Process 15)", "pylibjpeg-libjpeg")),
        ("102.1", ("Fragmentable MPEG-4 AVC/H.264", "PyAV")),
        ("94", ("JPIP Referenced", "on a server")),
    ],
)
def test_unsupported_syntaxes_name_themselves_and_what_decodes_them(tmp_path: Path, end: str, words: tuple) -> None:
    known = write_ct(tmp_path / "a.dcm", syntax=JPEG2000Lossless, PixelData=encapsulate([b"\0" * 64])).read_bytes()
    old, new = (f"1.2.840.10008.1.2.4.{name}".encode() for name in ("90", end))
    place, length = known.index(old), 2 * ((len(new) + 1) // 2)
    changed = known[: place - 2] + length.to_bytes(2, "little") + new.ljust(length, b"\0") + known[place + len(old) :]
    for read in (read_headers, read_slice):
        with pytest.raises(DicomDefectError) as caught:
            read(io.BytesIO(changed))
        assert caught.value.reason == "unsupported_syntax"
        assert new.decode() in caught.value.detail
        assert all(word in caught.value.detail for word in words)


def test_every_defect_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(DicomDefectError("truncated", "3 of 4 bytes")))
    assert (error.reason, error.detail) == ("truncated", "3 of 4 bytes")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_file_is_a_slice_or_a_named_defect(tmp_path_factory: pytest.TempPathFactory, data) -> None:
    whole = bytearray(write_ct(tmp_path_factory.mktemp("fuzz") / "a.dcm").read_bytes())
    for place in data.draw(st.lists(st.integers(128, 900), max_size=6)):
        whole[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.one_of(st.just(len(whole)), st.integers(0, len(whole))))
    for read in (read_headers, read_slice):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert outcome(read, bytes(whole[:end])) in {"slice", *DEFECTS}


def test_500_damaged_files_give_slices_or_named_defects(tmp_path: Path) -> None:
    whole = list(valid_files(tmp_path).values())
    seen: dict[str, int] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for index in range(500):
            content = damaged(whole[index % len(whole)], np.random.default_rng([3, index]))
            outcome(read_headers, content)
            found = outcome(read_slice, content)
            seen[found] = seen.get(found, 0) + 1
    assert set(seen) <= {"slice", *DEFECTS}
    assert min(seen["slice"], seen["undecodable"], seen["truncated"], seen["damaged_header"]) > 20


def outcome(read, content: bytes) -> str:
    try:
        read(io.BytesIO(content))
    except DicomDefectError as error:
        return error.reason
    return "slice"


def test_real_slices(shared_data: Path) -> None:
    signed = read_slice(shared_data / "rsna_mini/stage_2_train/ID_0000950d7.dcm")
    assert (signed.header.bits_stored, signed.header.signed, signed.header.intercept) == (16, True, -1024)
    assert signed.hu.min() == -1024  # its padding of -2000 would be -3024
    unsigned = read_slice(shared_data / "rsna_mini/stage_2_test/ID_000000e27.dcm")
    assert unsigned.header.window == (40, 80)  # written 00040\00040
    assert 20 < np.median(unsigned.hu[(unsigned.hu > 0) & (unsigned.hu < 100)]) < 50  # brain


def test_real_lossless_variants_are_equal(shared_data: Path) -> None:
    folder = shared_data / "transfer_syntaxes"
    expected = read_slice(folder / "CTImage.dcm").hu
    ends = ("1.2", "1.2.1", "1.2.2", "1.2.1.99", "1.2.5", "1.2.4.57", "1.2.4.70", "1.2.4.80", "1.2.4.90")
    lossless = [next(folder.glob(f"*_1.2.840.10008.{end}.dcm")) for end in ends]
    for path in lossless:
        assert (read_slice(path).hu == expected).all(), path.name
    lossy = set(folder.glob("CTImage.dcm_*")) - set(lossless)
    assert len(lossy) == 6
    for path in lossy:
        difference = read_slice(path).hu.astype(int) - expected
        assert 0 < np.abs(difference).mean() < 20, path.name


def test_real_defects(shared_data: Path) -> None:
    for read in (read_headers, read_slice):
        assert defect(shared_data / "defects/GH1376.dcm", read) == "truncated"
        assert defect(shared_data / "defects/GH178.dcm", read) == "no_pixels"
