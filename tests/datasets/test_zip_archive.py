"""Zip files: the index, and streams over members."""

import io
import struct
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from zip_files import change_entry, write_zip64

from ichx.ct.dicom import DicomDefectError
from ichx.datasets.zip_archive import (
    END,
    END64,
    ENTRY,
    LOCAL,
    MEMBER_DEFECTS,
    MEMBER_LIMIT,
    open_member,
    read_zip_index,
)
from ichx.errors import CorruptFileError, IchxError, InvalidInputError, UnsupportedError

TEXT = b"".join(b"line %d\n" % number for number in range(20_000))


def pack(path: Path, method: int = zipfile.ZIP_DEFLATED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def read(path: Path, name: str) -> bytes:
    index = read_zip_index(path)
    with open_member(path, index.member(index.names.index(name))) as stream:
        return stream.read()


def defect(path: Path, name: str) -> str:
    with pytest.raises(DicomDefectError) as caught:
        read(path, name)
    assert caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_equal_the_packed_content(tmp_path: Path, method: int) -> None:
    path = pack(tmp_path / "a.zip", method, text=TEXT, empty=b"", one=b"1")
    with zipfile.ZipFile(path, "a") as archive:
        archive.mkdir("folder")
        archive.writestr("folder/ünï.dcm", b"name in UTF-8")
    index = read_zip_index(path)
    assert index.names == ["text", "empty", "one", "folder/ünï.dcm"]
    assert [read(path, name) for name in index.names] == [TEXT, b"", b"1", b"name in UTF-8"]
    assert (index.member(0).bytes, index.member(0).crc) == (len(TEXT), zlib.crc32(TEXT))


def test_index_equals_that_of_the_standard_library(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", **{f"d/{n}": TEXT[:n] for n in range(50)})
    index = read_zip_index(path)
    with zipfile.ZipFile(path) as archive:
        for number, info in enumerate(archive.infolist()):
            member = index.member(number)
            assert (member.name, member.offset, member.packed) == (
                info.filename,
                info.header_offset,
                info.compress_size,
            )
            assert (member.bytes, member.crc) == (info.file_size, info.CRC)


def test_zip64(tmp_path: Path) -> None:
    members = {f"{n}.dcm": (content, zlib.crc32(content)) for n, content in enumerate((b"first", b"", TEXT))}
    path = write_zip64(tmp_path / "a.zip", members)
    with zipfile.ZipFile(path) as archive:
        assert archive.read("2.dcm") == TEXT, "the zip of this test is invalid"
    assert [read(path, name) for name in members] == [content for content, _ in members.values()]
    path.write_bytes(b"#!/bin/sh\n" * 7 + path.read_bytes())
    assert read(path, "2.dcm") == TEXT


def test_more_than_65535_members(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(66_000):
            archive.writestr(zipfile.ZipInfo(f"{number}"), b"")
    assert len(read_zip_index(tmp_path / "a.zip").names) == 66_000


def test_prefix_and_comment(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", text=TEXT)
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"PK a comment"
    path.write_bytes(b"MZ program that unpacks itself" + path.read_bytes())
    assert read(path, "text") == TEXT


def test_unsafe_and_unsupported_members_have_defects(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("../up", "a/../../up", "/root", "C:/windows", "good..name", "secret", "packed", "large"):
            archive.writestr(name, TEXT)
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("secret", b"again")
    change_entry(path, "secret", flags=1)
    change_entry(path, "packed", method=12)
    change_entry(path, "large", bytes=MEMBER_LIMIT + 1)
    index = read_zip_index(path)
    assert [index.member(number).defect for number in range(9)] == [
        *(["unsafe_name"] * 4),
        *("", "encrypted", "unsupported_packing", "oversized_member", "duplicate_member"),
    ]
    for number in (0, 5, 6, 7, 8):
        with pytest.raises(DicomDefectError) as caught:
            open_member(path, index.member(number))
        assert caught.value.reason == index.member(number).defect
        assert caught.value.reason in MEMBER_DEFECTS
    assert read(path, "good..name") == TEXT


def test_inflation_stops_at_the_declared_size(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", bomb=bytes(100_000_000))
    change_entry(path, "bomb", bytes=1000)
    index = read_zip_index(path)
    with open_member(path, index.member(0)) as stream:
        with pytest.raises(DicomDefectError) as caught:
            stream.read()
        assert caught.value.reason == "oversized_member"
        assert stream.fault is caught.value
        assert len(stream._content) <= 1001


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_complete_read_detects_damage(tmp_path: Path, method: int) -> None:
    path = pack(tmp_path / "a.zip", method, one=TEXT, two=TEXT, three=TEXT)
    change_entry(path, "one", crc=1)
    change_entry(path, "two", offset=5)
    content = bytearray(path.read_bytes())
    at = content.rfind(b"three", 0, content.find(b"PK\1\2")) + 300
    content[at : at + 50] = bytes(50)
    path.write_bytes(content)
    assert [defect(path, name) for name in ("one", "two", "three")] == ["damaged_member"] * 3
    longer = pack(tmp_path / "b.zip", method, one=b"1")
    change_entry(longer, "one", bytes=5, packed=5 if method == zipfile.ZIP_STORED else 3)
    assert defect(longer, "one") == "damaged_member"


def test_invalid_zips(tmp_path: Path) -> None:
    complete = pack(tmp_path / "a.zip", text=TEXT).read_bytes()
    cases = {
        "text": (b"hello", InvalidInputError),
        "empty": (b"", InvalidInputError),
        "truncated": (complete[:-30], CorruptFileError),
        "first half": (complete[: len(complete) // 2], CorruptFileError),
        "second half": (complete[len(complete) // 2 :], CorruptFileError),
        "index": (complete.replace(b"PK\1\2", b"PK\1\3"), CorruptFileError),
        "part": (complete[:-18] + b"\1" + complete[-17:], UnsupportedError),
    }
    for name, (content, error) in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(error, match=name) as caught:
            read_zip_index(path)
        assert type(caught.value) is error
        assert "\n" not in caught.value.problem


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_seek_and_read_in_any_order(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    method = data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    path = pack(tmp_path_factory.mktemp("zip") / "a.zip", method, text=TEXT)
    expected = io.BytesIO(TEXT)
    with open_member(path, read_zip_index(path).member(0)) as stream:
        for _ in range(data.draw(st.integers(1, 8))):
            whence = data.draw(st.sampled_from([0, 1, 2]))
            offset = data.draw(st.integers(0 if whence == 0 else -len(TEXT) // 2, len(TEXT)))
            base = (0, expected.tell(), len(TEXT))[whence]
            assert stream.seek(offset, whence) == expected.seek(max(0, base + offset))
            count = data.draw(st.integers(-1, len(TEXT)))
            assert stream.read(count) == expected.read(count)
            assert stream.tell() == expected.tell()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_random_damage_gives_a_defect_or_the_content(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = pack(tmp_path_factory.mktemp("zip") / "a.zip", one=TEXT[:2000], two=b"2" * 50, three=b"")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    try:
        index = read_zip_index(path)
    except IchxError:
        return
    for number in range(len(index.names)):
        reason = ""
        try:
            with open_member(path, index.member(number)) as stream:
                read = stream.read()
        except DicomDefectError as defect_error:
            reason = defect_error.reason
        assert reason in MEMBER_DEFECTS or zlib.crc32(read) == index.member(number).crc


def test_number_of_members_modulo_65536(tmp_path: Path) -> None:
    """As macOS writes it."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(65_540):
            archive.writestr(zipfile.ZipInfo(f"{number}"), b"")
    content = path.read_bytes()
    at = content.rfind(b"PK\6\6")
    *_, size, offset = END64.unpack_from(content, at)
    path.write_bytes(content[:at] + END.pack(b"PK\5\6", 0, 0, 4, 4, size, offset, 0))
    assert read_zip_index(path).names == [f"{number}" for number in range(65_540)]
    path.write_bytes(content[:at] + END.pack(b"PK\5\6", 0, 0, 3, 3, size, offset, 0))
    with pytest.raises(CorruptFileError):
        read_zip_index(path)


def test_offsets_modulo_4_gigabytes(tmp_path: Path) -> None:
    """As macOS writes them: the last two members start beyond 4 and 8 GiB."""
    path, index = tmp_path / "a.zip", b""
    places = (0, 3 << 30, 6 << 30, (8 << 30) + 99)
    with path.open("wb") as handle:
        for number, place in enumerate(places):
            name, content = f"{number}".encode(), b"content %d" % number
            crc, size = zlib.crc32(content), len(content)
            handle.seek(place)  # a sparse file
            handle.write(LOCAL.pack(b"PK\3\4", 20, 0, 0, 0, 0, crc, size, size, len(name), 0) + name + content)
            fields = (20, 20, 0, 0, 0, 0, crc, size, size, len(name), 0, 0, 0, 0, 0, place % (1 << 32))
            index += ENTRY.pack(b"PK\1\2", *fields) + name
        start = handle.tell()
        handle.write(index + END.pack(b"PK\5\6", 0, 0, 4, 4, len(index), start % (1 << 32), 0))
    assert [read(path, f"{number}") for number in range(4)] == [b"content %d" % number for number in range(4)]


@pytest.mark.parametrize(
    ("raw", "flags", "extra", "name"),
    [
        ("Schädel".encode(), 0x800, b"", "Schädel"),
        ("Schädel".encode(), 0, b"", "Schädel"),  # macOS and old Java
        ("Schädel".encode("cp437"), 0, b"", "Schädel"),
        (b"Sch\xe4del", 0x800, b"", r"Sch\xe4del"),
        (b"Sch?del", 0, b"Sch\xc3\xa4del", "Sch?del"),  # ASCII needs no second name
        (b"Sch\x8edel", 0, b"Sch\xc3\xa4del", "Schädel"),
    ],
)
def test_encodings_of_names(tmp_path: Path, raw: bytes, flags: int, extra: bytes, name: str) -> None:
    if extra:
        field = struct.pack("<BL", 1, zlib.crc32(raw)) + extra
        extra = struct.pack("<HH", 0x7075, len(field)) + field
    local = LOCAL.pack(b"PK\3\4", 20, flags, 0, 0, 0, zlib.crc32(b"x"), 1, 1, len(raw), 0) + raw + b"x"
    fields = (20, 20, flags, 0, 0, 0, zlib.crc32(b"x"), 1, 1, len(raw), len(extra), 0, 0, 0, 0, 0)
    index = ENTRY.pack(b"PK\1\2", *fields) + raw + extra
    path = tmp_path / "a.zip"
    path.write_bytes(local + index + END.pack(b"PK\5\6", 0, 0, 1, 1, len(index), len(local), 0))
    assert read_zip_index(path).names == [name]
    assert read(path, name) == b"x"
