"""Zip files read in place: the index of a zip and streams over its members. Sources of files are in `sources`.

A challenge's zip has 900,000 members and 180 GB. The index is therefore stored as plain columns, and a `ZipMember`
alone suffices to open it, so that workers do not read the index. Nothing is unpacked to disk.
"""

import io
import os
import struct
import zlib
from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, Final

from ichx.ct.dicom import DicomDefectError
from ichx.errors import CorruptFileError, InvalidInputError, StorageError, UnsupportedError

MEMBER_DEFECTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "unsafe_name": "in a zip: an absolute path, or a path that leads out of the zip",
        "duplicate_member": "in a zip: an earlier member has the same name",
        "encrypted": "in a zip: encrypted",
        "unsupported_packing": "in a zip: neither stored nor deflated",
        "oversized_member": "in a zip: over 1 GiB, or larger than the zip declares",
        "damaged_member": "in a zip: incomplete, or different from its checksum",
    }
)
"""Defects of zip members, which are found before their content is parsed, and their meanings."""

MEMBER_LIMIT: Final = 1 << 30
"""Largest size in bytes of an inflated member."""

READ_SIZE: Final = 1 << 14
"""Packed bytes that are read at least: most headers fit."""

END: Final = struct.Struct("<4s4H2LH")
END64: Final = struct.Struct("<4sQ2H2L4Q")
LOCATOR64: Final = struct.Struct("<4sLQL")
ENTRY: Final = struct.Struct("<4s6H3L5H2L")
LOCAL: Final = struct.Struct("<4s5H3L2H")
STORED, DEFLATED = 0, 8
WIDE: Final = 0xFFFFFFFF
"""A 32-bit field with this value refers to the zip64 field."""
ZIP64, UNICODE_PATH = 1, 0x7075
"""Kinds of extra fields: 64-bit numbers, and the name in UTF-8 next to one in another encoding."""
MEMBER_BYTES, MEMBER_CRC = 2, 3
"""Columns of `ZipIndex.numbers`."""


@dataclass(frozen=True, slots=True)
class ZipMember:
    """A member of a zip. Its `packed` bytes follow the local header at `offset`; `bytes` and `crc` are those inflated.

    `defect` is a key of `MEMBER_DEFECTS`, or empty.
    """

    name: str
    offset: int
    packed: int
    bytes: int
    crc: int
    deflated: bool
    defect: str = ""


@dataclass(frozen=True)
class ZipIndex:
    """The files of a zip, without its folders."""

    names: list[str]
    numbers: "array[int]"
    """int64, five per file: offset, packed bytes, inflated bytes, CRC-32, method."""
    defects: dict[int, str]
    """Defect by position in `names`."""

    def member(self, number: int) -> ZipMember:
        """Return the member at position `number`."""
        offset, packed, size, crc, method = self.numbers[5 * number : 5 * number + 5]
        defect = self.defects.get(number, "")
        return ZipMember(self.names[number], offset, packed, size, crc, method == DEFLATED, defect)


def read_zip_index(path: Path) -> ZipIndex:
    """Return the files of the zip at `path` in the order of its central directory.

    Raises `InvalidInputError` for another kind of file, `CorruptFileError` for a truncated or damaged zip,
    `UnsupportedError` for a part of a split one, and `StorageError` if the file cannot be read.
    """
    try:
        with path.open("rb") as handle:
            directory, count, shift, wraps = _read_directory(path, handle)
    except OSError as error:
        raise StorageError(f"Cannot read {path}: {error.strerror}.", "Check its permissions.") from error
    try:
        return _parse_directory(directory, count, shift, wraps)
    except (struct.error, ValueError, OverflowError) as error:
        raise _damaged(path, "its index is damaged") from error


def open_member(path: Path, member: ZipMember) -> "MemberStream":
    """Return the content of `member` of the zip at `path` as a seekable stream.

    Raises `DicomDefectError` for a member with a defect or at another offset, `OSError` if the zip cannot be read.
    """
    if member.defect:
        raise DicomDefectError(member.defect, MEMBER_DEFECTS[member.defect])
    handle = path.open("rb")
    try:
        return MemberStream(handle, member)
    except BaseException:
        handle.close()
        raise


class MemberStream(io.BufferedIOBase):
    """The content of a member, inflated only as far as it is read. The checksum is verified at the end.

    Damage is raised as `DicomDefectError` and stored in `fault`, because parsers replace errors by their own.
    """

    def __init__(self, handle: BinaryIO, member: ZipMember) -> None:
        """Move `handle`, the open zip, to the content of `member`; the stream closes it."""
        self.fault: DicomDefectError | None = None
        self._handle, self._member = handle, member
        self._content = bytearray()
        self._position = 0
        self._packed_left = member.packed
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS) if member.deflated else None
        self._complete = False
        handle.seek(member.offset)
        header = handle.read(LOCAL.size)
        if len(header) < LOCAL.size or header[:4] != b"PK\3\4":
            raise DicomDefectError("damaged_member", "no member at the offset in the index")
        *_, name_length, extra_length = LOCAL.unpack(header)
        handle.seek(name_length + extra_length, os.SEEK_CUR)

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next `size` bytes, or all remaining ones."""
        end = self._member.bytes if size is None or size < 0 else min(self._position + size, self._member.bytes)
        try:
            while len(self._content) < end or (end == self._member.bytes and not self._complete):
                self._inflate(end)
        except OSError as error:
            self.fault = DicomDefectError("unreadable", error.strerror or str(error))
        except zlib.error as error:
            self.fault = DicomDefectError("damaged_member", str(error))
        except DicomDefectError as fault:
            self.fault = fault
        if self.fault is not None:
            raise self.fault
        part = bytes(memoryview(self._content)[self._position : end])
        self._position = max(end, self._position)
        return part

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to `offset` from the start, the position or the end; return the new position."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._member.bytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def close(self) -> None:
        """Close the zip."""
        self._handle.close()
        super().close()

    def _inflate(self, end: int) -> None:
        """Extend the content towards `end` by one read; verify it when it is complete."""
        size = self._member.bytes
        packed = self._handle.read(min(max(READ_SIZE, end - len(self._content)), self._packed_left))
        self._packed_left -= len(packed)
        if self._inflater is None:
            self._content += packed
            ended = not packed or len(self._content) == size
        else:
            # One byte more than declared reveals a member that is larger than declared.
            limit = size - len(self._content) + 1
            self._content += self._inflater.decompress(self._inflater.unconsumed_tail + packed, limit)
            ended = self._inflater.eof or not (packed or self._inflater.unconsumed_tail)
        if len(self._content) > size:
            raise DicomDefectError("oversized_member", f"more than the declared {size} bytes")
        if ended:
            if len(self._content) < size:
                raise DicomDefectError("damaged_member", f"{len(self._content)} of {size} bytes")
            if zlib.crc32(self._content) != self._member.crc:
                raise DicomDefectError("damaged_member", "checksum mismatch")
            self._complete = True


def _read_directory(path: Path, handle: BinaryIO) -> tuple[bytes, int, int, bool]:
    """Return the central directory, its number of entries, and how the offsets in it differ from those in the file.

    The difference is a number of bytes before the zip itself. It is 0 if offsets are modulo 2**32 (the last value), as
    macOS writes them instead of zip64. The number of entries may be modulo 65,536 for the same reason.
    """
    size = handle.seek(0, os.SEEK_END)
    tail_at = max(0, size - END.size - LOCATOR64.size - 0xFFFF)
    handle.seek(tail_at)
    tail = handle.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + END.size > len(tail):
        handle.seek(0)
        if handle.read(4) in (b"PK\3\4", b"PK\7\x08"):
            raise _damaged(path, "its end is missing")
        raise InvalidInputError(
            f"{path} is neither a folder nor a zip nor a DICOM or NIfTI file.",
            "Give a folder or a zip with DICOM or NIfTI files.",
        )
    _, disk, first_disk, here, count, length, offset, _ = END.unpack_from(tail, at)
    end = tail_at + at
    if at >= LOCATOR64.size and tail[at - LOCATOR64.size :][:4] == b"PK\6\7":
        _, disk, declared, _ = LOCATOR64.unpack_from(tail, at - LOCATOR64.size)
        for candidate in (declared, end - LOCATOR64.size - END64.size):  # the second if the zip has a prefix
            handle.seek(candidate)
            found = handle.read(END64.size)
            if len(found) == END64.size and found[:4] == b"PK\6\6":
                break
        else:
            raise _damaged(path, "its zip64 index is damaged")
        _, _, _, _, disk, first_disk, here, count, length, offset = END64.unpack(found)
        end = candidate
    if disk or first_disk or here != count:
        raise UnsupportedError(
            f"{path} is one part of a zip in several files.", "Join the parts to one file first, e.g. with `zip -s 0`."
        )
    shift = end - length - offset
    if shift < 0 or count * ENTRY.size > length:
        raise _damaged(path, "its index is damaged")
    wraps = shift > 0 and shift % (WIDE + 1) == 0
    handle.seek(end - length)
    return handle.read(length), count, 0 if wraps else shift, wraps


def _parse_directory(directory: bytes, count: int, shift: int, wraps: bool) -> ZipIndex:
    """Return the files among the entries of the central `directory`; see `_read_directory`."""
    names: list[str] = []
    numbers = array("q")
    defects: dict[int, str] = {}
    known: set[str] = set()
    at = entries = previous = 0
    while entries < count or directory[at : at + 4] == b"PK\1\2":
        entries += 1
        entry = ENTRY.unpack_from(directory, at)
        signature, _, _, flags, method, _, _, crc, packed, size, named, extra, comment, _, _, _, offset = entry
        if signature != b"PK\1\2":
            raise ValueError("no entry")
        start = at + ENTRY.size
        at = start + named + extra + comment
        if at > len(directory):
            raise ValueError("truncated entry")
        if WIDE in (packed, size, offset):
            size, packed, offset = _zip64(directory[start + named : start + named + extra], size, packed, offset)
        if wraps:  # members follow each other: a smaller offset has left 2**32 behind
            shift += (WIDE + 1) * (offset < previous)
            previous = offset
        raw = directory[start : start + named]
        name = _decode_name(raw, flags, directory[start + named : start + named + extra])
        while name.startswith("./"):  # some programs start each name with the folder itself
            name = name[2:]
        if name.endswith("/") or not name:
            continue
        if name in known:
            defects[len(names)] = "duplicate_member"
        elif _escapes(name):
            defects[len(names)] = "unsafe_name"
        elif flags & 1:
            defects[len(names)] = "encrypted"
        elif method not in (STORED, DEFLATED):
            defects[len(names)] = "unsupported_packing"
        elif size > MEMBER_LIMIT or (method == STORED and size != packed):
            defects[len(names)] = "oversized_member"
        known.add(name)
        names.append(name)
        numbers.extend((offset + shift, packed, size, crc, method))
    if (entries - count) % (1 << 16):
        raise ValueError("another number of entries")
    return ZipIndex(names, numbers, defects)


def _decode_name(raw: bytes, flags: int, extra: bytes) -> str:
    """Return the name of an entry: UTF-8 if it is valid, whether it is declared or not, otherwise code page 437."""
    if not raw.isascii():
        field = _extra_field(extra, UNICODE_PATH)
        if field is not None and field[1:5] == zlib.crc32(raw).to_bytes(4, "little"):
            raw, flags = field[5:], 0x800
    raw = raw.replace(b"\\", b"/")  # as some programs on Windows write
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("utf-8", "backslashreplace") if flags & 0x800 else raw.decode("cp437")


def _zip64(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Return the three numbers, each `WIDE` one replaced by its value in the zip64 field of `extra`."""
    field = _extra_field(extra, ZIP64)
    if field is None:
        return size, packed, offset
    wide = iter(struct.unpack_from(f"<{len(field) // 8}Q", field))
    try:
        return tuple(next(wide) if n == WIDE else n for n in (size, packed, offset))  # type: ignore[return-value]
    except RuntimeError as error:
        raise ValueError("a zip64 field is too short") from error


def _extra_field(extra: bytes, kind: int) -> bytes | None:
    """Return the content of the first field of a kind in the `extra` of an entry, or None."""
    at = 0
    while at + 4 <= len(extra):
        found, length = struct.unpack_from("<HH", extra, at)
        at += 4
        if found == kind:
            return extra[at : at + length]
        at += length
    return None


def _escapes(name: str) -> bool:
    """Return whether unpacking `name` could write outside a folder, on any operating system."""
    return name[:1] == "/" or name[1:2] == ":" or "\0" in name or (".." in name and ".." in name.split("/"))


def _damaged(path: Path, why: str) -> CorruptFileError:
    return CorruptFileError(f"The zip {path} is damaged: {why}.", "Copy or download it again.")
