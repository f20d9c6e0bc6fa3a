"""Chunks of a cache that the viewer decodes itself: `static/viewer_chunks.js` knows those of `ichx.cache.shards.pack`.

They are sent as they are stored. blosc2 can write others, which the server decodes.
"""

from typing import Final

HEADER_BYTES: Final = 32
FORMAT: Final = 5
"""Version of the format of blosc2."""
EXTENDED, COPIED, DELTA, LZ4_ONE_STREAM = 0x05, 0x02, 0x08, 0x30
"""Flags: a header of 32 bytes; the pixels follow as they are; LZ4 that is not split into streams."""
ZEROS: Final = 0x10
"""Second flags: the pixels are all 0, and nothing follows."""
_BITSHUFFLE: Final = bytes([2])


def can_decode(chunk: bytes) -> bool:
    """Return whether the viewer decodes `chunk`, whose size has been verified."""
    if len(chunk) < HEADER_BYTES or int.from_bytes(chunk[12:16], "little") != len(chunk):
        return False
    flags, second = chunk[2], chunk[31]
    return (
        chunk[0] == FORMAT
        and flags & (EXTENDED | DELTA) == EXTENDED
        and (bool(flags & COPIED) or flags & 0xF0 == LZ4_ONE_STREAM)
        and chunk[3] == 2  # bytes of a number
        and chunk[4:8] == chunk[8:12]  # one block
        and chunk[16:22].replace(b"\0", b"") == _BITSHUFFLE  # the only filter, in any of its places
        and second in (0, ZEROS)
    )
