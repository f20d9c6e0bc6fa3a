"""Reading: a header against pydicom's, and a compressed slice in the decoder process against the codec called directly.

    python benchmarks/read.py [--quick] [--json FILE]

The files are the challenge's slices in the folder in ICHX_TEST_DATA, or phantom slices of 512 pixels.
"""

import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from common import Figure, arguments, conclude

from ichx.ct.decoding import decode
from ichx.ct.dicom import read_headers
from ichx.ct.syntaxes import CODECS
from ichx.phantom.dicom_files import write_phantom
from ichx.phantom.encoded_files import encoders

HEADERS = 1.1
OVERHEAD = 1.0
"""Milliseconds for one slice."""


def main() -> None:
    options = arguments(__doc__)
    warnings.simplefilter("ignore")
    repetitions = 7 if options.quick else 31
    with tempfile.TemporaryDirectory() as folder:
        paths = _slices(Path(folder))
        pairs = _alternate(lambda: _each(paths, read_headers), lambda: _each(paths, _peer), repetitions)
        stored = pydicom.dcmread(paths[0]).pixel_array
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    peer = 1e6 * statistics.median(theirs for _, theirs in pairs) / len(paths)
    figures = [
        Figure(
            *("read_headers", ratio, "x", f"dcmread, stop_before_pixels ({peer:.0f} us a file)", f"{HEADERS} x"),
            ratio <= HEADERS,
        )
    ]
    figures += [_overhead(syntax, direct, stored, repetitions) for syntax, direct in _codecs().items()]
    conclude(figures, options)


def _overhead(syntax: str, direct: Callable[[bytes], object], stored: np.ndarray, repetitions: int) -> Figure:
    """Return how much longer a slice takes in the decoder process than in this one."""
    codec, codestream = CODECS[syntax], encoders()[syntax](stored)
    rows, columns = stored.shape
    pairs = _alternate(lambda: decode(codec, codestream, rows, columns, 2), lambda: direct(codestream), repetitions)
    more = 1e3 * statistics.median(ours - theirs for ours, theirs in pairs)
    alone = 1e3 * statistics.median(theirs for _, theirs in pairs)
    return Figure(
        *(f"decoder process, {codec}", more, "ms more", f"imagecodecs here ({alone:.1f} ms)"),
        *(f"{OVERHEAD} ms", more <= OVERHEAD),
    )


def _slices(folder: Path) -> list[Path]:
    real = os.environ.get("ICHX_TEST_DATA")
    if real:
        return sorted((Path(real) / "rsna_mini").rglob("*.dcm"))
    return sorted(write_phantom(folder / "phantom", patients=1, seed=1, processes=1).train.iterdir())


def _peer(path: Path) -> object:
    return pydicom.dcmread(path, stop_before_pixels=True)


def _each(paths: list[Path], read: Callable[[Path], object]) -> None:
    for path in paths:
        read(path)


def _codecs() -> dict[str, Callable[[bytes], object]]:
    """Return by transfer syntax the codec as its users call it."""
    import imagecodecs

    return {
        "1.2.840.10008.1.2.4.70": imagecodecs.jpeg8_decode,
        "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_decode,
        "1.2.840.10008.1.2.4.90": imagecodecs.jpeg2k_decode,
    }


def _alternate(ours: Callable[[], object], theirs: Callable[[], object], times: int) -> list[tuple[float, float]]:
    """Return the seconds of both, `times` times, in turn, after a first one that does not count."""
    pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(times + 1)]
    return pairs[1:]


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
