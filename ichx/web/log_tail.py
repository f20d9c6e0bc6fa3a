"""The end of a log file, and what is added to it, as JSON for a page that follows it."""

import codecs
import os
from pathlib import Path
from typing import Any, Final

from ichx.errors import NotFoundError
from ichx.text import escape
from ichx.web.served_files import open_inside

BYTE_DIGITS: Final = 15
"""Maximum number of digits of a position in a log."""
TAIL_BYTES: Final = 65_536
"""Maximum number of bytes that a response contains."""


def read_tail(folder: Path, name: str, start: int | None) -> dict[str, Any]:
    """Return `text` of a log from byte `start`, the byte `end` after it, and whether text before it is `cut`.

    A log that has not begun is `missing`.

    Args:
        folder: The folder of its experiment, or the workspace.
        name: Path within the folder, with slashes.
        start: End of the text that the page has; None, or a byte that the log does not have, for the last lines.

    Raises:
        NotFoundError: It cannot be read, or a link leads to it.
    """
    try:
        handle = open_inside(folder, name)
    except FileNotFoundError:
        return {"text": "", "end": 0, "cut": False, "missing": True}
    except OSError as error:
        raise NotFoundError(f"Cannot read the log {name}.", "Make it readable.") from error
    with handle:
        size = os.fstat(handle.fileno()).st_size
        first = max(size - TAIL_BYTES, 0) if start is None or not 0 <= start <= size else start
        cut = size - first > TAIL_BYTES or (first > 0 and first != start)
        if cut:
            first = size - TAIL_BYTES
        handle.seek(first)
        data = handle.read(TAIL_BYTES)
    if cut:
        skipped = data.find(b"\n") + 1
        data, first = data[skipped:], first + skipped
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    text = decoder.decode(data)
    end = first + len(data) - len(decoder.getstate()[0])  # a character that is being written comes next time
    return {"text": escape(text.replace("\r\n", "\n")), "end": end, "cut": cut, "missing": False}
