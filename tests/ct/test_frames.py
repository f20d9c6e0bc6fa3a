"""Files with several frames: a slice each, read alone, with the geometry, window and rescale of its own."""

import io
from pathlib import Path

import pytest
from dicom_files import head, write_ct
from pydicom import config
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, encapsulate_extended
from pydicom.sequence import Sequence
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from ichx.ct.dicom import DicomDefectError, read_headers, read_slice
from ichx.phantom.encoded_files import encoders, enhanced

ENCAPSULATED = "1.2.840.10008.1.2.1.98"

IMAGES = [head(seed) for seed in range(3)]


def saved(dataset: Dataset) -> io.BytesIO:
    stream = io.BytesIO()
    with config.disable_value_validation():
        dataset.save_as(stream, enforce_file_format=False)
    stream.seek(0)
    return stream


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Return an Enhanced CT of `IMAGES`."""
    return enhanced(write_ct(tmp_path / "a.dcm"), IMAGES)


def reason(source, frame: int) -> str:
    source.seek(0)
    with pytest.raises(DicomDefectError) as caught:
        read_slice(source, frame)
    return caught.value.reason


def assert_frames(source, images=IMAGES) -> None:
    """Assert that the slices of `source` are `images`, whichever is read first."""
    for frame in (len(images), *range(1, len(images))):
        source.seek(0)
        assert (read_slice(source, frame).hu == images[frame - 1].astype(int) - 1024).all()


def test_each_frame_is_a_slice_with_the_values_of_its_groups(dataset: Dataset) -> None:
    middle = dataset.PerFrameFunctionalGroupsSequence[1]
    window, rescale = Dataset(), Dataset()
    window.WindowCenter, window.WindowWidth = [600, 40], [2800, 80]
    rescale.RescaleIntercept, rescale.RescaleSlope = -1000, 2
    middle.FrameVOILUTSequence = Sequence([window])
    middle.PixelValueTransformationSequence = Sequence([rescale])
    source = saved(dataset)
    headers = read_headers(source)
    assert [header.slice_id for header in headers] == ["ID_a#1", "ID_a#2", "ID_a#3"]
    assert [(header.frame, header.instance_number, header.defect) for header in headers] == [
        (1, 1, ""),
        (2, 2, ""),
        (3, 3, ""),
    ]
    assert [header.position for header in headers] == [(-120, -120, 0), (-120, -120, 5), (-120, -120, 10)]
    assert {header.spacing for header in headers} == {(0.5, 0.5)}
    assert {header.orientation for header in headers} == {(1, 0, 0, 0, 1, 0)}
    assert [header.window for header in headers] == [(40, 80), (600, 2800), (40, 80)]
    assert [(header.intercept, header.slope) for header in headers] == [(-1024, 1), (-1000, 2), (-1024, 1)]
    source.seek(0)
    second = read_slice(source, 2)
    assert second.header == headers[1]
    assert (second.hu == 2 * IMAGES[1].astype(int) - 1000).all()


@pytest.mark.parametrize("undefined", [False, True])
def test_groups_are_read_whether_or_not_their_lengths_are_defined(dataset: Dataset, undefined: bool) -> None:
    sequence = dataset["PerFrameFunctionalGroupsSequence"]
    sequence.is_undefined_length = undefined
    for item in sequence.value:
        item.is_undefined_length_sequence_item = undefined
    source = saved(dataset)
    assert [header.position for header in read_headers(source)] == [(-120, -120, 5 * index) for index in range(3)]
    source.seek(0)
    assert read_slice(source, 3).header.position == (-120, -120, 10)


def test_a_frame_has_to_be_one_that_the_file_has(dataset: Dataset, tmp_path: Path) -> None:
    assert [reason(saved(dataset), frame) for frame in (0, 4, -1)] == ["multi_frame"] * 3
    single = io.BytesIO(write_ct(tmp_path / "b.dcm").read_bytes())
    assert reason(single, 1) == "multi_frame"


def test_an_enhanced_file_with_one_frame_is_one_slice(tmp_path: Path) -> None:
    source = saved(enhanced(write_ct(tmp_path / "a.dcm"), IMAGES[:1]))
    [header] = read_headers(source)
    assert (header.slice_id, header.frame, header.instance_number) == ("ID_a", 0, 1)
    assert (header.position, header.spacing, header.intercept) == ((-120, -120, 0), (0.5, 0.5), -1024)
    source.seek(0)
    assert (read_slice(source).hu == IMAGES[0].astype(int) - 1024).all()


def test_frames_that_are_not_slices_have_a_defect(dataset: Dataset) -> None:
    for index, kind in enumerate(("LOCALIZER", "AXIAL", "AXIAL")):
        kinds = Dataset()
        kinds.FrameType = ["ORIGINAL", "PRIMARY", kind, "NONE"]
        dataset.PerFrameFunctionalGroupsSequence[index].CTImageFrameTypeSequence = Sequence([kinds])
    flat = Dataset()
    flat.RescaleIntercept, flat.RescaleSlope = 0, 0
    dataset.PerFrameFunctionalGroupsSequence[2].PixelValueTransformationSequence = Sequence([flat])
    source = saved(dataset)
    assert [header.defect for header in read_headers(source)] == ["localizer", "", "bad_rescale"]
    assert [reason(source, 1), reason(source, 3)] == ["localizer", "bad_rescale"]
    dataset.PerFrameFunctionalGroupsSequence[1].CTImageFrameTypeSequence[0].FrameType[2] = "LOCALIZER"
    with pytest.raises(DicomDefectError, match="localizer"):
        read_headers(saved(dataset))  # no slice is left


def test_frames_that_were_cut_off_are_truncated(dataset: Dataset) -> None:
    content = saved(dataset).getvalue()[:-100]
    assert [header.defect for header in read_headers(io.BytesIO(content))] == ["", "", "truncated"]
    assert reason(io.BytesIO(content), 3) == "truncated"
    assert (read_slice(io.BytesIO(content), 2).hu == IMAGES[1].astype(int) - 1024).all()


@pytest.mark.parametrize("claimed", [4, 5, 65_536])
@pytest.mark.parametrize("syntax", ["native", "deflated", RLELossless, JPEGLSLossless, ENCAPSULATED])
@pytest.mark.parametrize("table", [True, False])
def test_frames_beyond_what_the_file_holds_are_one_defect(
    dataset: Dataset, claimed: int, syntax: str, table: bool
) -> None:
    if syntax == "deflated":
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    elif syntax == ENCAPSULATED:
        compress(dataset, syntax, [image.tobytes() for image in IMAGES], has_bot=table)
    elif syntax != "native":
        compress(dataset, syntax, [encoders()[syntax](image) for image in IMAGES], has_bot=table)
    dataset.NumberOfFrames = claimed
    source = saved(dataset)
    headers = read_headers(source)
    assert [header.defect for header in headers] == ["", "", "", "truncated"]
    assert (headers[3].frame, headers[3].detail) == (4, f"3 of {claimed:,} frames")
    if not table or syntax in ("native", "deflated"):
        assert reason(source, 4) == "truncated"
    source.seek(0)
    assert (read_slice(source, 2).hu == IMAGES[1].astype(int) - 1024).all()


def test_a_file_that_holds_no_frame_is_one_defect(dataset: Dataset) -> None:
    dataset.NumberOfFrames = 65_536
    dataset.PixelData = b"\0" * 64
    short = saved(dataset)
    compress(dataset, RLELossless, [b"\0" * 8], has_bot=False)
    assert [header.defect for header in read_headers(saved(dataset))] == ["", "truncated"]
    dataset.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0" * 70_000
    for source in (short, saved(dataset)):
        with pytest.raises(DicomDefectError) as caught:
            read_headers(source)
        assert (caught.value.reason, caught.value.detail) == ("truncated", "0 of 65,536 frames")


def test_more_pixels_than_any_scanner_writes_are_absurd(dataset: Dataset) -> None:
    compress(dataset, JPEGLSLossless, [encoders()[JPEGLSLossless](IMAGES[0])] * 3)
    dataset.Rows = dataset.Columns = 8192
    dataset.NumberOfFrames = 1024
    with pytest.raises(DicomDefectError) as caught:
        read_headers(saved(dataset))
    assert (caught.value.reason, caught.value.detail) == ("absurd_size", "1,024 frames of 8192 rows x 8192 columns")


def test_damage_between_fragments_leaves_the_frames_of_a_table(dataset: Dataset) -> None:
    codestreams = [encoders()[JPEGLSLossless](image) for image in IMAGES]
    for table, expected in ((True, ["", "", ""]), (False, None)):
        compress(dataset, JPEGLSLossless, codestreams, has_bot=table)
        content = saved(dataset).getvalue()
        place = content.index(codestreams[1]) - 8
        damaged = io.BytesIO(content[:place] + b"\xfe\xff\x00\xe1" + content[place + 4 :])
        if expected is None:
            with pytest.raises(DicomDefectError, match="undecodable"):
                read_headers(damaged)
            continue
        assert [header.defect for header in read_headers(damaged)] == expected
        damaged.seek(0)
        assert (read_slice(damaged, 3).hu == IMAGES[2].astype(int) - 1024).all()
        assert reason(damaged, 2) == "undecodable"


def test_plain_frames_without_groups_have_what_geometry_there_is(tmp_path: Path) -> None:
    pixels = b"".join(image.tobytes() for image in IMAGES)
    path = write_ct(tmp_path / "a.dcm", NumberOfFrames=3, PixelData=pixels)
    headers = read_headers(path)
    assert [header.frame for header in headers] == [1, 2, 3]
    assert {(header.position, header.spacing, header.orientation) for header in headers} == {
        (None, (0.5, 0.5), (1, 0, 0, 0, 1, 0))
    }
    assert_frames(io.BytesIO(path.read_bytes()))


class Counting(io.BytesIO):
    """Counts the bytes that are read."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(size)
        self.count += len(content)
        return content


def test_reading_a_frame_reads_no_other(tmp_path: Path) -> None:
    images = [head(seed, side=128) for seed in range(8)]
    for syntax in (None, RLELossless, JPEGLSLossless):
        dataset = enhanced(write_ct(tmp_path / "a.dcm", images[0]), images)
        if syntax:
            compress(dataset, syntax, [encoders()[syntax](image) for image in images])
        source = Counting(saved(dataset).getvalue())
        assert (read_slice(source, 5).hu == images[4].astype(int) - 1024).all()
        assert source.count < len(source.getvalue()) / 8 + 2 * 8192
        assert_frames(source, images)


def compress(dataset: Dataset, syntax: str, codestreams: list[bytes], **layout) -> None:
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate(codestreams, **layout)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True


@pytest.mark.parametrize("layout", [{"has_bot": True}, {"has_bot": False}, {"fragments_per_frame": 3}])
def test_compressed_frames_are_found_by_table_or_by_counting(dataset: Dataset, layout: dict) -> None:
    compress(dataset, JPEG2000Lossless, [encoders()[JPEG2000Lossless](image) for image in IMAGES], **layout)
    assert_frames(saved(dataset))


def test_compressed_frames_of_many_fragments_without_a_table_end_with_their_images(dataset: Dataset) -> None:
    codestreams = [encoders()[JPEG2000Lossless](image) for image in IMAGES]
    compress(dataset, JPEG2000Lossless, codestreams, fragments_per_frame=3, has_bot=False)
    assert_frames(saved(dataset))


def test_compressed_frames_are_found_by_an_extended_table(dataset: Dataset) -> None:
    codestreams = [encoders()[JPEGLSLossless](image) for image in IMAGES]
    compress(dataset, JPEGLSLossless, codestreams)
    pixels, offsets, lengths = encapsulate_extended(codestreams)
    dataset.PixelData = pixels
    dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths = offsets, lengths
    assert_frames(saved(dataset))


def test_missing_fragments_are_truncated_and_lies_are_undecodable(dataset: Dataset) -> None:
    compress(dataset, RLELossless, [encoders()[RLELossless](image) for image in IMAGES], has_bot=False)
    whole = saved(dataset).getvalue()
    start = whole.index(b"\xe0\x7f\x10\x00OB") + 12
    assert reason(io.BytesIO(whole[:-200]), 3) == "truncated"
    no_item = whole[:start] + b"\xfe\xff\x00\xe1" + whole[start + 4 :]
    assert reason(io.BytesIO(no_item), 1) == "undecodable"
    endless = whole[:start] + b"\xfe\xff\x00\xe0\0\0\0\0" * (2**18 + 10)
    assert reason(io.BytesIO(endless), 1) == "undecodable"


def test_frames_of_a_deflated_file(dataset: Dataset) -> None:
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    source = saved(dataset)
    assert len(read_headers(source)) == 3
    assert_frames(source)
    content = source.getvalue()
    assert reason(io.BytesIO(content[: -len(content) // 3]), 3) == "truncated"


def test_encapsulated_uncompressed_frames(dataset: Dataset) -> None:
    compress(dataset, ENCAPSULATED, [image.tobytes() for image in IMAGES])
    assert_frames(saved(dataset))
