"""A zip read in place: its index, and a member's bytes as a stream that inflates no more than it is asked for.

A challenge's archive has 900,000 members and 180 GB: the index is kept as plain columns, and a member is opened by its
place alone, so that no worker reads the index again. Stored and deflated members, zip64. Nothing is ever unpacked to
disk, so that no member can escape; names that would are defects. Not for which members count (`ichx.datasets.sources`).
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
from ichx.errors import IchxError

MEMBER_DEFECTS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "unsafe_name": "in the zip, under an absolute path or one that leads out of it",
        "duplicate_member": "in the zip, where an earlier member has the same name",
        "encrypted": "in the zip, encrypted",
        "unsupported_packing": "in the zip, packed by another method than stored or deflated",
        "oversized_member": "in the zip, larger than 1 GiB or than the zip says",
        "damaged_member": "in the zip, where its bytes are cut off or differ from their checksum",
    }
)
"""Each reason for which a member of a zip is refused before anyone looks at its contents, and what it means."""

MEMBER_LIMIT: Final = 1 << 30
"""Bytes to which a member may inflate."""

STEP: Final = 1 << 14
"""Packed bytes that are read at once at least: a header fits in."""

END: Final = struct.Struct("<4s4H2LH")
END64: Final = struct.Struct("<4sQ2H2L4Q")
LOCATOR64: Final = struct.Struct("<4sLQL")
ENTRY: Final = struct.Struct("<4s6H3L5H2L")
LOCAL: Final = struct.Struct("<4s5H3L2H")
STORED, DEFLATED = 0, 8
MEMBER_BYTES, MEMBER_CRC = 2, 3
"""Places among the five numbers of a member in an index."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a zip: its packed bytes follow the local header at `offset`; `bytes` and `crc` are of what they hold.

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
    """The files among a zip's members: `names`, and `numbers`, int64, of which each has five, one after another.

    These are offset, packed, bytes, crc and method; `defects` has a member's number for each one that is refused.
    """

    names: list[str]
    numbers: "array[int]"
    defects: dict[int, str]

    def member(self, number: int) -> Member:
        """Return member `number` of the index."""
        offset, packed, size, crc, method = self.numbers[5 * number : 5 * number + 5]
        defect = self.defects.get(number, "")
        return Member(self.names[number], offset, packed, size, crc, method == DEFLATED, defect)


def read_index(path: Path) -> ZipIndex:
    """Return the files among the members of the zip at `path`, in the order of its index, folders left out.

    Raises `IchxError` where it is no zip, is cut off or damaged, is one part of several, or cannot be read.
    """
    try:
        with path.open("rb") as handle:
            index, count, shift = _read_directory(path, handle)
    except OSError as error:
        raise IchxError(f"{path} cannot be read: {error.strerror}", "give yourself the right to read it") from error
    try:
        return _members(index, count, shift)
    except (struct.error, ValueError, OverflowError) as error:
        raise _damaged(path, "its index is damaged") from error


def open_member(path: Path, member: Member) -> "MemberStream":
    """Return the contents of `member` of the zip at `path`, as a stream to be read and sought in.

    Raises `DicomDefectError` for a member that is refused, `OSError` where the zip cannot be opened.
    """
    if member.defect:
        raise DicomDefectError(member.defect, MEMBER_DEFECTS[member.defect])
    return MemberStream(path.open("rb"), member)


class MemberStream(io.BufferedIOBase):
    """The contents of a member. They are inflated as far as they are read; the checksum is tested at the end.

    Whatever is wrong with them is raised as `DicomDefectError`, and kept as `fault`: parsers give errors other names.
    """

    def __init__(self, handle: BinaryIO, member: Member) -> None:
        self.fault: DicomDefectError | None = None
        self._handle, self._member = handle, member
        self._content = bytearray()
        self._at = 0
        self._left = member.packed
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS) if member.deflated else None
        self._started = self._finished = False

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next `size` bytes, or all that are left."""
        end = self._member.bytes if size is None or size < 0 else min(self._at + size, self._member.bytes)
        try:
            self._fill(end)
        except DicomDefectError as fault:
            self.fault = fault
            raise
        part = bytes(memoryview(self._content)[self._at : end])
        self._at = max(end, self._at)
        return part

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to `offset` from the start, from here or from the end; return the place."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._member.bytes}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """Return the place in the contents."""
        return self._at

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def close(self) -> None:
        """Close the zip."""
        self._handle.close()
        super().close()

    def _fill(self, end: int) -> None:
        """Bring the first `end` bytes in; all of them are checked."""
        try:
            if not self._started:
                self._start()
            while len(self._content) < end or (end == self._member.bytes and not self._finished):
                self._more(end)
        except OSError as error:
            raise DicomDefectError("unreadable", error.strerror or str(error)) from error
        except (zlib.error, struct.error) as error:
            raise DicomDefectError("damaged_member", str(error)) from error

    def _start(self) -> None:
        self._handle.seek(self._member.offset)
        head = LOCAL.unpack(self._handle.read(LOCAL.size))
        if head[0] != b"PK\3\4":
            raise DicomDefectError("damaged_member", "no member stands where the zip's index says")
        self._handle.seek(head[9] + head[10], os.SEEK_CUR)
        self._started = True

    def _more(self, end: int) -> None:
        room = self._member.bytes - len(self._content)
        packed = self._handle.read(min(max(STEP, end - len(self._content)), self._left))
        self._left -= len(packed)
        if self._inflater is None:
            self._content += packed
            ended = not packed
        else:
            # One byte more than there is room for shows a member that holds more than it says.
            self._content += self._inflater.decompress(self._inflater.unconsumed_tail + packed, room + 1)
            ended = self._inflater.eof or not (packed or self._inflater.unconsumed_tail)
        if len(self._content) > self._member.bytes:
            raise DicomDefectError("oversized_member", f"more than the {self._member.bytes} bytes that the zip says")
        if ended or (self._inflater is None and len(self._content) == self._member.bytes):
            if len(self._content) < self._member.bytes:
                raise DicomDefectError("damaged_member", f"{len(self._content)} of {self._member.bytes} bytes")
            if zlib.crc32(self._content) != self._member.crc:
                raise DicomDefectError("damaged_member", "the bytes differ from their checksum")
            self._finished = True


def _read_directory(path: Path, handle: BinaryIO) -> tuple[bytes, int, int]:
    """Return the index of the zip, its number of entries, and by how much all its offsets are too small."""
    size = handle.seek(0, os.SEEK_END)
    tail_at = max(0, size - END.size - LOCATOR64.size - 0xFFFF)
    handle.seek(tail_at)
    tail = handle.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + END.size > len(tail):
        handle.seek(0)
        if handle.read(4) in (b"PK\3\4", b"PK\7\x08"):
            raise _damaged(path, "its end is missing")
        raise IchxError(f"{path} is neither a folder nor a zip", "give a folder or a zip with DICOM files")
    _, disk, first_disk, here, count, length, offset, _ = END.unpack_from(tail, at)
    index_end = tail_at + at
    if at >= LOCATOR64.size and tail[at - LOCATOR64.size :][:4] == b"PK\6\7":
        _, disk, place, _ = LOCATOR64.unpack_from(tail, at - LOCATOR64.size)
        end64_at = index_end - LOCATOR64.size - END64.size
        for candidate in (place, end64_at):  # the second where something was put before the zip
            handle.seek(candidate)
            found = handle.read(END64.size)
            if len(found) == END64.size and found[:4] == b"PK\6\6":
                break
        else:
            raise _damaged(path, "its zip64 index is damaged")
        _, _, _, _, disk, first_disk, here, count, length, offset = END64.unpack(found)
        index_end = candidate
    if disk or first_disk or here != count:
        raise IchxError(f"{path} is one part of a zip in several", "join the parts to one file first (`zip -s 0`)")
    shift = index_end - length - offset
    if shift < 0 or count * ENTRY.size > length:
        raise _damaged(path, "its index is damaged")
    handle.seek(index_end - length)
    return handle.read(length), count, shift


def _members(index: bytes, count: int, shift: int) -> ZipIndex:
    names: list[str] = []
    numbers = array("q")
    defects: dict[int, str] = {}
    known: set[str] = set()
    at = 0
    for _ in range(count):
        entry = ENTRY.unpack_from(index, at)
        signature, _, _, flags, method, _, _, crc, packed, size, named, extra, comment, _, _, _, offset = entry
        if signature != b"PK\1\2":
            raise ValueError("no entry")
        start = at + ENTRY.size
        at = start + named + extra + comment
        if at > len(index):
            raise ValueError("cut off")
        if 0xFFFFFFFF in (packed, size, offset):
            size, packed, offset = _wide(index[start + named : start + named + extra], size, packed, offset)
        raw = index[start : start + named]
        name = raw.decode("utf-8" if flags & 0x800 else "cp437", "replace").replace("\\", "/")
        while name.startswith("./"):  # some packers begin each name with the folder itself
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
    return ZipIndex(names, numbers, defects)


def _wide(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Return the three with those that 32 bits cannot hold taken from the zip64 field of `extra`."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        at += 4
        if kind == 1:
            field = extra[at : at + length]
            wide = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
            try:
                return tuple(next(wide) if n == 0xFFFFFFFF else n for n in (size, packed, offset))  # type: ignore[return-value]
            except RuntimeError as error:
                raise ValueError("a zip64 field is too short") from error
        at += length
    return size, packed, offset


def _escapes(name: str) -> bool:
    """Whether unpacking `name` could write outside a folder; a drive's letter counts everywhere."""
    return name[:1] == "/" or name[1:2] == ":" or "\0" in name or (".." in name and ".." in name.split("/"))


def _damaged(path: Path, why: str) -> IchxError:
    return IchxError(f"{path} is a damaged zip: {why}", "it was probably not copied or downloaded whole: do so again")
