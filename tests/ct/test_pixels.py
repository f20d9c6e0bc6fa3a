"""Stored bytes to values: each encoding gives the same, with the right signs where header and codestream disagree."""

import io
import struct
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from dicom_files import SIDE, head, write_ct
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless

from ichx.ct.dicom import DicomDefectError, read_headers, read_slice
from ichx.phantom.encoded_files import encoders, valid_files

HU = head().astype(np.int16) - np.int16(1024)
"""A slice with many negative values."""

UNREAD = ("1.2.840.10008.1.2.4.110", "1.2.840.10008.1.2.4.201")
"""Syntaxes that pydicom does not write by itself."""


def compressed(path: Path, codestream: bytes, syntax: str, **elements) -> Path:
    return write_ct(path, syntax=syntax, PixelData=encapsulate([codestream]), **elements)


def jpeg2k(stored: np.ndarray, **options) -> bytes:
    return imagecodecs.jpeg2k_encode(stored, codecformat="j2k", reversible=True, level=0, **options)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return valid_files(tmp_path_factory.mktemp("whole"))


def test_every_lossless_encoding_of_a_slice_gives_the_same_hu(files: dict[str, bytes]) -> None:
    expected = read_slice(io.BytesIO(files["phantom 1.2.840.10008.1.2.1"])).hu
    assert expected.min() == -1024
    lossy = [name for name in files if name.endswith(".91")]
    assert len(lossy) == 1
    for name in files.keys() - {"phantom 1.2.840.10008.1.2", *lossy}:
        first = read_headers(io.BytesIO(files[name]))[0]
        assert (read_slice(io.BytesIO(files[name]), first.frame).hu == expected).all(), name
    difference = read_slice(io.BytesIO(files[lossy[0]])).hu.astype(int) - expected
    assert 0 < np.abs(difference).mean() < 50


@pytest.mark.parametrize("syntax", [name for name in encoders() if name not in (JPEG2000, *UNREAD)])
@pytest.mark.parametrize("signed", [True, False])
def test_signed_and_unsigned_values_come_back(tmp_path: Path, syntax: str, signed: bool) -> None:
    stored = HU if signed else head()
    encoded = encoders()[syntax](stored)
    path = compressed(
        *(tmp_path / "a.dcm", encoded, syntax),
        PixelRepresentation=int(signed),
        RescaleIntercept=0 if signed else -1024,
    )
    assert (read_slice(path).hu == HU).all()


def test_header_is_signed_and_the_codestream_is_not(tmp_path: Path) -> None:
    elements = {"PixelRepresentation": 1, "RescaleIntercept": 0}
    of_16_bits = jpeg2k(HU.view(np.uint16))
    assert (read_slice(compressed(tmp_path / "a.dcm", of_16_bits, JPEG2000Lossless, **elements)).hu == HU).all()
    of_12_bits = HU.view(np.uint16) & 0x0FFF
    elements |= {"BitsStored": 12, "HighBit": 11}
    for syntax, codestream in (
        (JPEG2000Lossless, jpeg2k(of_12_bits, bitspersample=12)),
        (JPEG2000, jpeg2k(of_12_bits, bitspersample=12)),
        (JPEGLSLossless, imagecodecs.jpegls_encode(of_12_bits)),
        (JPEGLosslessSV1, imagecodecs.jpeg8_encode(of_12_bits, lossless=True, bitspersample=12)),
    ):
        assert (read_slice(compressed(tmp_path / "b.dcm", codestream, syntax, **elements)).hu == HU).all(), syntax


def test_codestream_is_signed_and_the_header_is_not(tmp_path: Path) -> None:
    path = compressed(tmp_path / "a.dcm", jpeg2k(HU), JPEG2000Lossless, RescaleIntercept=0)
    assert not read_headers(path)[0].signed
    assert (read_slice(path).hu == HU).all()
    padded = HU.copy()
    padded[0] = -2000
    path = compressed(
        tmp_path / "b.dcm", jpeg2k(padded), JPEG2000Lossless, RescaleIntercept=2000, PixelPaddingValue=63536
    )
    hu = read_slice(path).hu
    assert (hu[0] == -1024).all()  # as bits, 63536 is -2000
    assert (hu[1:] == HU[1:].astype(int) + 2000).all()
    positive = compressed(tmp_path / "c.dcm", jpeg2k(head().view(np.int16)), JPEG2000Lossless, BitsStored=12)
    assert (read_slice(positive).hu == HU).all()


def test_unused_bits_of_a_lossless_codestream_do_not_count(tmp_path: Path) -> None:
    overlaid = head() | np.uint16(0x8000)
    for syntax in (JPEG2000Lossless, JPEGLSLossless):
        path = compressed(tmp_path / "a.dcm", encoders()[syntax](overlaid), syntax, BitsStored=12, HighBit=11)
        assert (read_slice(path).hu == HU).all()


def packbits_literal(raw: bytes) -> bytes:
    return b"".join(bytes([len(raw[at : at + 128]) - 1]) + raw[at : at + 128] for at in range(0, len(raw), 128))


def rle(stored: np.ndarray, ends: tuple[bytes, bytes]) -> bytes:
    """Return an RLE codestream of literal runs whose segments end in `ends`."""
    planes = [(stored >> 8).astype(np.uint8), (stored & 255).astype(np.uint8)]
    segments = [packbits_literal(plane.tobytes()) + end for plane, end in zip(planes, ends, strict=True)]
    return struct.pack("<16L", 2, 64, 64 + len(segments[0]), *[0] * 13) + b"".join(segments)


@pytest.mark.parametrize(
    "ends", [(b"", b""), (b"\0", b"\0"), (b"\0\0", b"\0\0"), (b"\0\0", b""), (b"", b"\0\0"), (b"\x1d" + bytes(30),) * 2]
)
def test_rle_segments_may_be_padded_by_less_than_a_row(tmp_path: Path, ends: tuple[bytes, bytes]) -> None:
    stored = head(side=31)
    stored[5, :4] |= 0xFE
    path = compressed(tmp_path / "a.dcm", rle(stored, ends), RLELossless, Rows=31, Columns=31)
    assert (read_slice(path).hu == stored.astype(int) - 1024).all()


def test_rle_segments_of_another_size_are_undecodable(tmp_path: Path) -> None:
    for name, rows, columns in (("a", 32, 31), ("b", 30, 31), ("c", 31, 30), ("d", 31, 32)):
        path = compressed(
            tmp_path / f"{name}.dcm", rle(head(side=31), (b"", b"")), RLELossless, Rows=rows, Columns=columns
        )
        with pytest.raises(DicomDefectError) as caught:
            read_slice(path)
        assert (caught.value.reason, "961 values" in caught.value.detail) == ("undecodable", True), name


def test_jpeg_2000_in_the_boxes_of_a_jp2_file_is_read(tmp_path: Path) -> None:
    for name, stored, options, elements in (
        ("a", HU, {}, {"PixelRepresentation": 1, "RescaleIntercept": 0}),
        ("b", head(), {"bitspersample": 12}, {"BitsStored": 12, "HighBit": 11}),
    ):
        codestream = imagecodecs.jpeg2k_encode(stored, codecformat="jp2", reversible=True, level=0, **options)
        assert codestream[4:8] == b"jP  "
        path = compressed(tmp_path / f"{name}.dcm", codestream, JPEG2000Lossless, **elements)
        assert (read_slice(path).hu == HU).all(), name


def test_a_large_slice_is_computed_in_blocks(tmp_path: Path) -> None:
    stored = np.random.default_rng(0).integers(0, 3000, (700, 600), np.uint16)
    path = write_ct(tmp_path / "a.dcm", stored, RescaleSlope=1.5)
    expected = np.clip(np.rint(stored * 1.5 - 1024), -1024, 32767)
    assert (read_slice(path).hu == expected).all()


def test_values_of_32_and_8_bits(tmp_path: Path) -> None:
    wide = head().astype(np.int32) * 1000 - 1_000_000
    elements = {"BitsAllocated": 32, "BitsStored": 32, "RescaleSlope": 0.001, "RescaleIntercept": 0}
    path = write_ct(tmp_path / "a.dcm", wide, **elements)
    assert (read_slice(path).hu == np.rint(wide * 0.001)).all()
    narrow = (head() // 8).astype(np.uint8)
    path = write_ct(tmp_path / "b.dcm", narrow, BitsAllocated=8, BitsStored=8, RescaleSlope=8)
    assert (read_slice(path).hu == np.maximum(narrow.astype(int) * 8 - 1024, -1024)).all()
    assert narrow.shape == (SIDE, SIDE)


def test_values_of_a_large_slope_are_clamped(tmp_path: Path) -> None:
    stored = head()
    stored[0] = 0
    hu = read_slice(write_ct(tmp_path / "a.dcm", stored, RescaleSlope="1e4", RescaleIntercept=0)).hu
    assert (hu[0] == 0).all()
    assert (hu[1:] == 32767).all()


def test_real_jpeg_2000_equals_another_decoder(shared_data: Path) -> None:
    pytest.importorskip("gdcm")
    import pydicom

    for name in ("CT1_J2KR", "CT2_J2KR"):
        path = shared_data / "transfer_syntaxes" / name
        dataset = pydicom.dcmread(path)
        hu = np.clip(dataset.pixel_array * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept), -1024, None)
        decoded = read_slice(path)
        inside = dataset.pixel_array != (decoded.header.padding if decoded.header.padding is not None else -9999)
        assert (decoded.hu == hu)[inside].all()
