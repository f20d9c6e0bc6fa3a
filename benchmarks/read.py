"""Reading files: headers compared with pydicom, and the decoder process compared with a direct call of the codec.

    python benchmarks/read.py [--quick] [--json FILE]

The files are real slices in the folder ICHX_TEST_DATA, or phantom slices of 512 pixels.
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

MAX_HEADER_RATIO = 1.1
MAX_OVERHEAD_MS = 1.0
"""Milliseconds per slice."""


def main() -> None:
    options = arguments(__doc__)
    warnings.simplefilter("ignore")
    repetitions = 7 if options.quick else 31
    with tempfile.TemporaryDirectory() as folder:
        paths = _slices(Path(folder))
        pairs = _time_both(lambda: _each(paths, read_headers), lambda: _each(paths, _read_with_pydicom), repetitions)
        stored = pydicom.dcmread(paths[0]).pixel_array
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    baseline = (
        f"dcmread, stop_before_pixels ({1e6 * statistics.median(theirs for _, theirs in pairs) / len(paths):.0f} us)"
    )
    figures = [Figure("headers", ratio, "x the time", baseline, f"{MAX_HEADER_RATIO} x", ratio <= MAX_HEADER_RATIO)]
    figures += [_overhead(syntax, direct, stored, repetitions) for syntax, direct in _codecs().items()]
    conclude(figures, options)


def _overhead(syntax: str, direct: Callable[[bytes], object], stored: np.ndarray, repetitions: int) -> Figure:
    """Return the additional time per slice in the decoder process."""
    codec, codestream = CODECS[syntax], encoders()[syntax](stored)
    rows, columns = stored.shape
    pairs = _time_both(lambda: decode(codec, codestream, rows, columns, 2), lambda: direct(codestream), repetitions)
    overhead = 1e3 * statistics.median(ours - theirs for ours, theirs in pairs)
    baseline = f"imagecodecs in this process ({1e3 * statistics.median(theirs for _, theirs in pairs):.1f} ms)"
    name, met = f"decoder process, {codec}", overhead <= MAX_OVERHEAD_MS
    return Figure(name, overhead, "ms more", baseline, f"{MAX_OVERHEAD_MS} ms", met)


def _slices(folder: Path) -> list[Path]:
    real = os.environ.get("ICHX_TEST_DATA")
    if real:
        return sorted((Path(real) / "rsna_mini").rglob("*.dcm"))
    return sorted(write_phantom(folder / "phantom", patients=1, seed=1, processes=1).train.iterdir())


def _read_with_pydicom(path: Path) -> object:
    return pydicom.dcmread(path, stop_before_pixels=True)


def _each(paths: list[Path], read: Callable[[Path], object]) -> None:
    for path in paths:
        read(path)


def _codecs() -> dict[str, Callable[[bytes], object]]:
    """Return the codecs of imagecodecs by transfer syntax."""
    import imagecodecs

    return {
        "1.2.840.10008.1.2.4.70": imagecodecs.jpeg8_decode,
        "1.2.840.10008.1.2.4.80": imagecodecs.jpegls_decode,
        "1.2.840.10008.1.2.4.90": imagecodecs.jpeg2k_decode,
    }


def _time_both(ours: Callable[[], object], theirs: Callable[[], object], times: int) -> list[tuple[float, float]]:
    """Return the seconds of both, `times` times in turn, after a warm-up."""
    pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(times + 1)]
    return pairs[1:]


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
