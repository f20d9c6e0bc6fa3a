"""CT files in every encoding that can be written here, valid and damaged, for tests and benchmarks of readers.

All of it follows from seeds. Not for phantom studies as such (`ichx.phantom.dicom_files`).
"""

import io
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    RLELossless,
)

from ichx.ct.defects import MOST_FRAMES
from ichx.ct.syntaxes import DEFLATED, EXPLICIT_LITTLE
from ichx.phantom.dicom_files import write_phantom

Array = npt.NDArray[Any]

_JPEG: Final = "1.2.840.10008.1.2.4."


def _codecs() -> dict[str, Callable[[Array], bytes]]:
    """Return an encoder of (rows, columns) stored values for each transfer syntax that can be written."""
    import imagecodecs as codecs

    def lossless_jpeg(stored: Array) -> bytes:
        return bytes(codecs.jpeg8_encode(stored.view(np.uint16), lossless=True, bitspersample=16))

    def jpeg2k(stored: Array) -> bytes:
        return bytes(codecs.jpeg2k_encode(stored, codecformat="j2k", reversible=True, level=0))

    encoders: dict[str, Callable[[Array], bytes]] = {
        f"{_JPEG}57": lossless_jpeg,
        f"{_JPEG}70": lossless_jpeg,
        f"{_JPEG}80": lambda stored: bytes(codecs.jpegls_encode(stored.view(np.uint16))),
        f"{_JPEG}90": jpeg2k,
        f"{_JPEG}91": lambda stored: bytes(codecs.jpeg2k_encode(stored, codecformat="j2k", level=60)),
    }
    if getattr(codecs, "HTJ2K", None) is not None and codecs.HTJ2K.available:
        encoders[f"{_JPEG}201"] = lambda stored: bytes(codecs.htj2k_encode(stored, reversible=True))
    if codecs.JPEGXL.available:
        encoders[f"{_JPEG}110"] = lambda stored: bytes(codecs.jpegxl_encode(stored.view(np.uint16), lossless=True))
    return encoders


def encoders() -> dict[str, Callable[[Array], bytes]]:
    """Return encoders of 16-bit stored values (rows, columns) by transfer syntax."""
    from pydicom.pixels.encoders.base import get_encoder

    def rle(stored: Array) -> bytes:
        layout: dict[str, Any] = {
            "rows": stored.shape[0],
            "columns": stored.shape[1],
            "bits_allocated": 16,
            "bits_stored": 16,
            "samples_per_pixel": 1,
            "photometric_interpretation": "MONOCHROME2",
            "pixel_representation": int(stored.dtype.kind == "i"),
            "number_of_frames": 1,
        }
        return bytes(get_encoder(RLELossless).encode(stored.tobytes(), **layout))

    return {str(RLELossless): rle, **_codecs()}


def valid_files(folder: Path, *, size: int = 64) -> dict[str, bytes]:
    """Return phantom slices of `size` pixels as DICOM files by name: in each encoding, and with several frames.

    `folder` is for the phantom, which is written first.
    """
    written = write_phantom(folder / "phantom", patients=6, seed=11, size=size, processes=1)
    assert written.train is not None
    slices = sorted(written.train.iterdir())
    plain = {str(pydicom.dcmread(path).file_meta.TransferSyntaxUID): path for path in slices}
    files = {f"phantom {syntax}": path.read_bytes() for syntax, path in plain.items()}
    explicit = plain[str(ExplicitVRLittleEndian)]
    stored = pydicom.dcmread(explicit).pixel_array
    dataset: Dataset
    for syntax, encode in encoders().items():
        dataset = pydicom.dcmread(explicit)
        _compress(dataset, syntax, [encode(stored)])
        files[f"compressed {syntax}"] = _file(dataset)
    dataset = pydicom.dcmread(explicit)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    files["deflated"] = _file(dataset)
    frames = [stored, stored[::-1].copy(), stored[:, ::-1].copy()]
    files["enhanced"] = _file(enhanced(explicit, frames))
    dataset = enhanced(explicit, frames)
    _compress(dataset, str(RLELossless), [encoders()[str(RLELossless)](frame) for frame in frames])
    files["enhanced, compressed"] = _file(dataset)
    return files


def enhanced(path: Path, frames: list[Array]) -> Dataset:
    """Return an Enhanced CT dataset of `frames` with functional groups, the header of `path`, and slices 5 mm apart."""
    dataset = pydicom.dcmread(path)
    dataset.SOPClassUID = EnhancedCTImageStorage
    dataset.NumberOfFrames = len(frames)
    dataset.PixelData = b"".join(frame.tobytes() for frame in frames)
    shared, groups = Dataset(), []
    for macro, names in (
        ("PixelMeasuresSequence", ("PixelSpacing",)),
        ("PlaneOrientationSequence", ("ImageOrientationPatient",)),
        ("PixelValueTransformationSequence", ("RescaleIntercept", "RescaleSlope")),
    ):
        setattr(shared, macro, Sequence([_moved(dataset, names)]))
    windows = _moved(dataset, ("WindowCenter", "WindowWidth"))
    place = _moved(dataset, ("ImagePositionPatient",))
    for index in range(len(frames)):
        position, group = Dataset(), Dataset()
        x, y, z = place.ImagePositionPatient
        position.ImagePositionPatient = [x, y, float(z) + 5 * index]
        group.PlanePositionSequence = Sequence([position])
        group.FrameVOILUTSequence = Sequence([windows])
        groups.append(group)
    dataset.SharedFunctionalGroupsSequence = Sequence([shared])
    dataset.PerFrameFunctionalGroupsSequence = Sequence(groups)
    return dataset


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Return `content` with one to four damages of the kinds that disks, networks and writers cause."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 5))):
        damage = _DAMAGES[int(rng.integers(len(_DAMAGES)))]
        damage(changed, rng)
    return bytes(changed)


def element(tag: int, kind: str, value: bytes, length: int | None = None) -> bytes:
    """Return an explicit little endian element; `length` is written instead of the value's length if it is not None."""
    length = len(value) if length is None else length
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, kind.encode())
    if kind in ("SQ", "UN", "OB", "OW", "UT"):
        return head + struct.pack("<HL", 0, length) + value
    return head + struct.pack("<H", length) + value


def preamble(syntax: str) -> bytes:
    """Return the preamble and meta group of a file with the transfer syntax."""
    body = element(0x00020010, "UI", syntax.encode() + b"\0" * (len(syntax) % 2))
    return bytes(128) + b"DICM" + element(0x00020000, "UL", struct.pack("<L", len(body))) + body


def deflated(parts: Iterable[bytes]) -> bytes:
    """Return the joined `parts`, deflated as a file's dataset is."""
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS)
    return b"".join(packer.compress(part) for part in parts) + packer.flush()


def lying_files() -> Iterator[tuple[str, bytes]]:
    """Yield files by name that request more memory and time than a slice may use."""
    import imagecodecs

    plain, deflating = preamble(EXPLICIT_LITTLE), preamble(DEFLATED)
    zeros = [bytes(2**20)]
    undefined = 2**32 - 1
    item = b"\xfe\xff\x00\xe0"
    small, large = _header(32, 32, 16), _header(8192, 8192, 32)
    pixels = element(0x7FE00010, "OW", bytes(range(256)) * 8)
    nested = element(0x00081140, "SQ", item + b"\xff" * 4, undefined) * 100_000
    yield "65535 x 65535 pixels", plain + _header(65535, 65535, 16) + pixels
    yield "a million frames", plain + _header(32, 32, 16, frames=1_000_000) + pixels
    yield "as many frames as may be", plain + _header(32, 32, 16, frames=MOST_FRAMES) + pixels
    yield "an element beyond the file", plain + element(0x00080008, "UT", b"", 2**32 - 2) + small + pixels
    yield "a value of 2 GiB", plain + element(0x00080018, "UT", b"ID", 2**31) + small + pixels
    yield "sequences without an end", plain + nested + small + pixels
    yield (
        "sequences 100,000 deep",
        plain + nested + b"\xfe\xff\x0d\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0" * 100_000 + small,
    )
    yield "millions of elements", plain + element(0x00080001, "LO", b"") * 6_000_000
    for name, tag in (("millions of items", 0x00081140), ("millions of frame groups", 0x52009230)):
        yield name, plain + small + element(tag, "SQ", (item + bytes(4)) * 6_000_000, undefined)
    yield "inflates to 2 GiB of elements", deflating + deflated(zeros * 2048)
    yield "inflates to one long element", deflating + deflated([element(0x00091010, "OW", b"", 2**31), *zeros * 2048])
    huge = element(0x7FE00010, "OW", b"", 2**28)
    yield "inflates to 256 MiB of pixels", deflating + deflated([large, huge, bytes(range(256)), *zeros * 256])
    fragments = element(0x7FE00010, "OB", (item + bytes(4)) * 6_000_000, undefined)
    yield "millions of fragments", preamble(str(RLELossless)) + small + fragments
    codestream = bytearray(imagecodecs.jpeg2k_encode(np.eye(32, dtype=np.uint16), codecformat="j2k"))
    size = codestream.find(b"\xff\x51") + 6
    for place in (size, size + 16):
        codestream[place : place + 8] = struct.pack(">LL", 8192, 8192)
    stripes = np.zeros((8192, 8192), np.uint16)
    stripes[::64] = 1000
    runs = (b"\x81\0" * 64) * 2**13
    segments = struct.pack("<16L", 4, *(64 + place * len(runs) for place in range(4)), *(0,) * 11) + runs * 4
    for name, syntax, bits, content in (
        ("JPEG 2000 that claims 8192 x 8192 pixels", f"{_JPEG}90", 16, bytes(codestream)),
        ("JPEG-LS of 8192 x 8192 pixels", f"{_JPEG}80", 16, bytes(imagecodecs.jpegls_encode(stripes))),
        ("RLE of 8192 x 8192 pixels", str(RLELossless), 32, segments),
    ):
        fragment = element(0x7FE00010, "OB", encapsulate([content + b"\0" * (len(content) % 2)]), undefined)
        yield name, preamble(syntax) + _header(8192, 8192, bits) + fragment


def _header(rows: int, columns: int, bits: int, *, frames: int = 1) -> bytes:
    """Return the elements of a CT slice up to its pixels."""
    shorts = ((0x00280010, rows), (0x00280011, columns), (0x00280100, bits), (0x00280101, bits))
    return (
        element(0x00080018, "UI", b"ID_lying")
        + element(0x00080060, "CS", b"CT")
        + element(0x00280004, "CS", b"MONOCHROME2 ")
        + element(0x00280008, "IS", f"{frames:08}".encode())
        + b"".join(element(tag, "US", struct.pack("<H", value)) for tag, value in shorts)
    )


def _flip(content: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(0, max(1, len(content)), int(rng.integers(1, 40))):
        if place < len(content):
            content[place] ^= 1 << int(rng.integers(8))


def _flip_header(content: bytearray, rng: np.random.Generator) -> None:
    for place in rng.integers(128, 2048, int(rng.integers(1, 12))):
        if place < len(content):
            content[place] = int(rng.integers(256))


def _cut(content: bytearray, rng: np.random.Generator) -> None:
    del content[int(rng.integers(0, len(content) + 1)) :]


def _drop(content: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(0, len(content) + 1))
    del content[start : start + int(rng.integers(1, 600))]


def _extend(content: bytearray, rng: np.random.Generator) -> None:
    content += rng.bytes(int(rng.integers(1, 5000)))


def _zero(content: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(0, len(content) + 1))
    stop = min(len(content), start + int(rng.integers(1, 4096)))
    content[start:stop] = bytes(stop - start)


def _repeat(content: bytearray, rng: np.random.Generator) -> None:
    start = int(rng.integers(0, len(content) + 1))
    content[start:start] = content[start : start + int(rng.integers(1, 600))]


def _change_length(content: bytearray, rng: np.random.Generator) -> None:
    """Write another number in two or four bytes of the header, e.g. of a length or a size."""
    place = int(rng.integers(132, max(133, min(len(content), 2500))))
    if rng.random() < 0.5:
        content[place : place + 2] = struct.pack("<H", int(rng.choice([0, 1, 7, 0x7FFF, 0x8000, 0xFFFF])))
    else:
        content[place : place + 4] = struct.pack("<L", int(rng.choice([0, 9, 2**16, 2**31, 2**32 - 2, 2**32 - 1])))


def _change_element(content: bytearray, rng: np.random.Generator) -> None:
    """Write another value into rows, columns, bits or frames, at one of their positions in the header."""
    tag = (b"\x28\0\x10\0", b"\x28\0\x11\0", b"\x28\0\0\x01", b"\x28\0\x01\x01", b"\x28\0\x03\x01", b"\x28\0\x08\0")
    place = content.find(tag[int(rng.integers(len(tag)))])
    if place > 0:
        value = struct.pack("<H", int(rng.choice([0, 1, 8, 12, 32, 65535, 8192, 4096])))
        content[place + 8 : place + 10] = value


_DAMAGES: Final = (*(_flip, _flip_header, _cut, _drop, _extend, _zero, _repeat, _change_length, _change_element),)


def _moved(dataset: Dataset, names: tuple[str, ...]) -> Dataset:
    """Move the elements `names` from `dataset` to a new dataset and return that."""
    macro = Dataset()
    for name in names:
        setattr(macro, name, dataset[name].value)
        delattr(dataset, name)
    return macro


def _compress(dataset: Dataset, syntax: str, codestreams: list[bytes]) -> None:
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.PixelData = encapsulate(codestreams, has_bot=len(codestreams) > 1)
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True


def _file(dataset: Dataset) -> bytes:
    stream = io.BytesIO()
    with pydicom.config.disable_value_validation():  # and pydicom need not know the syntax
        pydicom.dcmwrite(
            *(stream, dataset),
            implicit_vr=False,
            little_endian=True,
            force_encoding=True,
            enforce_file_format=False,
        )
    return stream.getvalue()
