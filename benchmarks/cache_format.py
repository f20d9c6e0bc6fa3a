"""Cache format: shards of ichx compared with blosc2 frames of the same chunks; time, size and detected damage.

    python benchmarks/cache_format.py [--quick] [--json FILE]

The slices are those in the folder ICHX_TEST_DATA, or phantom slices, repeated as often as needed. Times are processor
time of one thread, which reads files that are in the page cache.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import blosc2
import numpy as np
from common import Figure, arguments, conclude
from data import slice_files

from ichx.cache.resize import fit_square
from ichx.cache.shards import SHARD_ROWS, ShardFiles, pack, read_table, unpack, write_shard
from ichx.ct.dicom import read_slice

SIZE = 378
CPARAMS = {
    "codec": blosc2.Codec.LZ4,
    "clevel": 9,
    "filters": [blosc2.Filter.BITSHUFFLE],
    "typesize": 2,
    "nthreads": 1,
    "blocksize": SIZE * SIZE * 2,
}


def main() -> None:
    options = arguments(__doc__)
    repeats = 5 if options.quick else 15
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = slice_files(folder)
        images = [fit_square(read_slice(files[row % len(files)]).hu, SIZE, "bilinear") for row in range(SHARD_ROWS)]
        shard, frame = folder / "0.shard", folder / "0.b2frame"
        table = write_shard(shard, [pack(image) for image in images], {})
        write_frame(frame, images)
        rows = np.random.default_rng(0).permutation(SHARD_ROWS).tolist()
        out = np.empty((SIZE, SIZE), np.int16)
        shards, places = ShardFiles([shard]), table.places.tolist()
        opened = blosc2.open(str(frame), mode="r", dparams={"nthreads": 1})

        def read_row(row: int, out: np.ndarray) -> None:
            offset, length, checksum = places[row]
            unpack(shards.read(0, offset, length), checksum, out)

        def read_shard() -> None:
            for row in rows:
                read_row(row, out)

        def read_frame() -> None:
            for row in rows:
                opened.decompress_chunk(row, dst=out)

        figures = [
            compare("read in random order, with and without checksum", read_shard, read_frame, repeats),
            compare("open", lambda: read_table(shard), lambda: blosc2.open(str(frame), mode="r"), repeats),
            compare(
                "write",
                lambda: write_shard(shard, [pack(i) for i in images], {}),
                lambda: write_frame(frame, images),
                repeats,
            ),
        ]
        sizes = shard.stat().st_size, frame.stat().st_size
        figures.append(Figure("size", sizes[1] / sizes[0], "x", f"shard ({sizes[0] / 1e6:.1f} MB)", "-", True))
        of_frames = undetected(frame, images, lambda row, out: opened.decompress_chunk(row, dst=out))
        of_shards = undetected(shard, images, read_row)
        figures.append(Figure("damage read as pixels", of_frames, "of frames", f"{of_shards:g} of shards", "-", True))
    conclude(figures, options)


def write_frame(path: Path, images: list[np.ndarray]) -> None:
    """Write `images` as one contiguous frame, a chunk each."""
    path.unlink(missing_ok=True)
    frame = blosc2.SChunk(
        chunksize=images[0].nbytes, urlpath=str(path), contiguous=True, mode="w", cparams=blosc2.CParams(**CPARAMS)
    )
    for image in images:
        frame.append_data(image)


def undetected(path: Path, images: list[np.ndarray], read: Callable[[int, np.ndarray], object]) -> float:
    """Return the share of files with one damaged byte from which `read` returns wrong pixels without an error."""
    original = path.read_bytes()
    positions = np.random.default_rng(1).integers(len(original) // 4, len(original) * 3 // 4, 50).tolist()
    wrong, out = 0, np.empty((SIZE, SIZE), np.int16)
    for position in positions:
        damaged = bytearray(original)
        damaged[position] ^= 255
        path.write_bytes(damaged)
        try:
            for row, image in enumerate(images):
                read(row, out)
                if not np.array_equal(out, image):
                    wrong += 1
                    break
        except (RuntimeError, ValueError):
            continue
    path.write_bytes(original)
    return wrong / len(positions)


def compare(name: str, shard: Callable[[], object], frame: Callable[[], object], repeats: int) -> Figure:
    """Return the median ratio of the times of a frame and a shard."""
    pairs = [(_seconds(shard), _seconds(frame)) for _ in range(repeats + 1)][1:]
    milliseconds = 1e3 * statistics.median(ours for ours, _ in pairs)
    ratio = statistics.median(theirs / ours for ours, theirs in pairs)
    return Figure(name, ratio, "x the time", f"shard ({milliseconds:.3g} ms)", "-", True)


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    main()
