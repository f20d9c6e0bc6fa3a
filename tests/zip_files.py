"""Zip files for tests: of a folder, with manipulated entries of the index, in zip64 form."""

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

from ichx.datasets.zip_archive import END, END64, ENTRY, LOCAL, LOCATOR64


def zip_folder(folder: Path, archive: Path, prefix: str = "", method: int = zipfile.ZIP_DEFLATED) -> Path:
    """Pack the files under `folder` to `archive`, with `prefix` before their names, and return it."""
    with zipfile.ZipFile(archive, "w", method) as packed:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                packed.write(file, prefix + file.relative_to(folder).as_posix())
    return archive


def change_entry(archive: Path, name: str, **fields: int) -> None:
    """Change `flags`, `method`, `crc`, `packed`, `bytes` or `offset` in the index entry of `name`."""
    fields_of_entry = {"flags": 3, "method": 4, "crc": 7, "packed": 8, "bytes": 9, "offset": 16}
    content = bytearray(archive.read_bytes())
    at = content.rfind(b"PK\5\6")
    at = END.unpack_from(content, at)[6]
    while content[at : at + 4] == b"PK\1\2":
        entry = list(ENTRY.unpack_from(content, at))
        start = at + ENTRY.size
        if content[start : start + entry[10]].decode() == name:
            for field, value in fields.items():
                entry[fields_of_entry[field]] = value
            ENTRY.pack_into(content, at, *entry)
            archive.write_bytes(content)
            return
        at = start + entry[10] + entry[11] + entry[12]
    raise KeyError(name)


def write_zip64(archive: Path, members: Mapping[str, tuple[bytes, int]]) -> Path:
    """Write stored `members` (content and CRC-32 by name) with all numbers in zip64 fields, as in a zip over 4 GB."""
    body, index = bytearray(), bytearray()
    for name, (content, crc) in members.items():
        raw, offset, wide = name.encode(), len(body), 0xFFFFFFFF
        body += LOCAL.pack(b"PK\3\4", 45, 0x800, 0, 0, 0, crc, wide, wide, len(raw), 20) + raw
        body += struct.pack("<HHQQ", 1, 16, len(content), len(content)) + content
        extra = struct.pack("<HHI", 0x5455, 4, 0) + struct.pack("<HHQQQ", 1, 24, len(content), len(content), offset)
        entry = (45, 45, 0x800, 0, 0, 0, crc, wide, wide, len(raw), len(extra), 0, 0, 0, 0, wide)
        index += ENTRY.pack(b"PK\1\2", *entry) + raw + extra
    count, start = len(members), len(body)
    end = END64.pack(b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(index), start)
    end += LOCATOR64.pack(b"PK\6\7", 0, start + len(index), 1)
    end += END.pack(b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    archive.write_bytes(bytes(body + index) + end)
    return archive
