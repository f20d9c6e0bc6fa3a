"""Slices in bulk: build a cache, load from it, read headers, memory; compared with common implementations.

    python benchmarks/data.py [--quick] [--json FILE]

The slices are those in the folder ICHX_TEST_DATA, or phantom slices of 512 px, repeated as often as needed. All figures
except that of two processes are processor time of one thread, which depends little on other work on the machine.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "NO_ALBUMENTATIONS_UPDATE": "1"}

import blosc2
import cv2
import numpy as np
import pandas as pd
import pydicom
import torch
from common import Figure, arguments, conclude

from ichx.cache.build import ensure_cache
from ichx.cache.hu_cache import Cache, CacheSpec
from ichx.cache.shards import pack
from ichx.datasets.catalog import build_catalog
from ichx.datasets.ingest import scan_source
from ichx.labels import LABELS
from ichx.loading.loader import Batch, SliceLoader
from ichx.loading.sampling import EpochAddress
from ichx.recipe import AugmentationRecipe, InputRecipe, ModelRecipe, Recipe, StageRecipe

SIZE = 378
BATCH = 64
ADDRESS = EpochAddress(seed=0, fold=0, stage=0, epoch=0)
MAX_KB = 4
"""Peak memory per additional slice: a catalog row with its texts takes 1 to 2 KB, an image 279 KB."""

OFF = {"hflip": False, "shift": 0.0, "scale": 0.0, "rotate": 0.0, "grid_limit": 0.0, "anchors": 0.0}
AFFINE = AugmentationRecipe(probability=1.0, hflip=False, grid_limit=0.0, anchors=0.0)
ELASTIC = AugmentationRecipe(probability=0.2, elastic_alpha=30.0, elastic_sigma=15.0, **OFF)

POLICIES = {
    "policy each, flip and affine": AugmentationRecipe(policy="each", grid_limit=0.0, anchors=0.0),
    "policy each, flip, affine, crop, erasing, noise": AugmentationRecipe(
        policy="each", grid_limit=0.0, anchors=0.0, crop_area=0.3, erase=0.1, noise=10.0
    ),
}


def main() -> None:
    if sys.argv[1:2] == ["--memory"]:
        print_peak_memory(Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
        return
    options = arguments(__doc__)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="albumentations")
    repeats = 3 if options.quick else 5
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = slice_files(folder)
        count = 256 if options.quick else 1024
        slices = make_catalog(files, count)
        channels = nine_channels(folder, slices.iloc[:256], repeats)
        figures = [
            *building(folder, slices, repeats),
            scaling(folder, make_catalog(files, 1536 if options.quick else 4096), 1 if options.quick else 3),
            *loading(folder, slices, repeats),
            *channels,
            headers(folder, files, count, repeats),
            *memory(files, 128 if options.quick else 512),
        ]
    conclude(figures, options)


def slice_files(folder: Path) -> list[Path]:
    """Return real slices, or phantom slices written to `folder`."""
    root = os.environ.get("ICHX_TEST_DATA")
    found = sorted((Path(root) / "rsna_mini").rglob("*.dcm")) if root else []
    if found:
        print(f"{len(found)} real slices, repeated")
        return found
    from ichx.phantom.dicom_files import write_phantom

    write_phantom(folder / "phantom", patients=2, seed=1, size=512)
    found = sorted((folder / "phantom").rglob("*.dcm"))
    print(f"ICHX_TEST_DATA is not set: {len(found)} phantom slices, repeated")
    return found


def make_catalog(files: list[Path], count: int) -> pd.DataFrame:
    """Return the columns that cache and loader need, for `count` slices that share the files."""
    stats = [(str(file), file.stat()) for file in files]
    return pd.DataFrame(
        {
            "slice_id": f"ID_{number:09d}",
            "file": file,
            "bytes": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
            "study": "study",
            "series": f"series{number // 32}",
            "run": 0,
            "rows": 512,
            "columns": 512,
            "window_centre": 40.0,
            "window_width": 80.0,
            **dict.fromkeys(LABELS, 0.0),
        }
        for number, (file, stat) in enumerate(islice(cycle(stats), count))
    )


def build(cache_dir: Path, slices: pd.DataFrame, size: int = SIZE) -> Cache:
    """Build a cache in one process."""
    return ensure_cache(cache_dir, "d", Path("/"), slices, CacheSpec(size, "slice", "bilinear"), processes=1)


def building(folder: Path, slices: pd.DataFrame, repeats: int) -> list[Figure]:
    def build_cache() -> None:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        build(folder / "cache", slices)

    def write_pngs() -> None:
        shutil.rmtree(folder / "png", ignore_errors=True)
        (folder / "png").mkdir()
        for file, slice_id in zip(slices["file"], slices["slice_id"], strict=True):
            cv2.imwrite(str(folder / "png" / f"{slice_id}.png"), three_windows(file))

    ratio, ours, theirs = compare(build_cache, write_pngs, repeats, len(slices))
    baseline = f"three float windows, resize, PNG ({1 / theirs:,.0f}/s)"
    return [
        Figure("cache building, one process", ratio, "x", baseline, "5 x", ratio >= 5),
        Figure("cache building, one process", 1 / ours, "slices/s", "-", "-", True),
    ]


def three_windows(file: str) -> np.ndarray:
    """Return what many solutions of the challenge store: three windowed channels, (378, 378, 3) uint8."""
    dataset = pydicom.dcmread(file)
    hu = dataset.pixel_array * dataset.RescaleSlope + dataset.RescaleIntercept
    of_file = [float(np.atleast_1d(dataset.get(name, 40))[0]) for name in ("WindowCenter", "WindowWidth")]
    channels = []
    for centre, width in (of_file, (80, 200), (600, 2800)):
        low, high = centre - width / 2, centre + width / 2
        channel = (np.clip(hu, low, high) - low) / (high - low)
        channels.append(cv2.resize((channel * 255).astype(np.uint8), (SIZE, SIZE)))
    return np.stack(channels, -1)


def scaling(folder: Path, slices: pd.DataFrame, repeats: int) -> Figure:
    """Compare the wall time of two processes with one, after the first finished shards: start-up is excluded."""

    def rate(processes: int) -> float:
        shutil.rmtree(folder / "cache", ignore_errors=True)
        calls: list[tuple[float, int]] = []
        ensure_cache(
            folder / "cache",
            "d",
            Path("/"),
            slices,
            CacheSpec(SIZE, "slice", "bilinear"),
            processes=processes,
            progress=lambda done, _: calls.append((time.perf_counter(), done)),
        )
        (start, first), (end, last) = calls[processes], calls[-1]  # calls[0] precedes the work
        return (last - first) / (end - start)

    pairs = [(rate(1), rate(2)) for _ in range(repeats)]
    ratio = statistics.median(two / one for one, two in pairs)
    baseline = f"one process ({statistics.median(one for one, _ in pairs):,.0f}/s)"
    return Figure("cache building, two processes", ratio, "x", baseline, "1.8 x", ratio >= 1.8)


def loading(folder: Path, slices: pd.DataFrame, repeats: int) -> list[Figure]:
    cache, small = build(folder / "cache", slices), build(folder / "cache", slices, 96)
    pngs = [str(folder / "png" / f"{slice_id}.png") for slice_id in slices["slice_id"]]
    rows = np.random.default_rng(0).permutation(len(slices))
    n = len(rows) - len(rows) % BATCH

    def epoch(augmentation: AugmentationRecipe) -> Callable[[], None]:
        loader = SliceLoader(cache, slices, recipe(SIZE, augmentation))
        return lambda: consume(loader.training_batches(rows, ADDRESS))

    def png_epoch(transform: Callable[..., object]) -> Callable[[], None]:
        def run() -> None:
            for row in rows[:n].tolist():
                image = cv2.cvtColor(cv2.imread(pngs[row]), cv2.COLOR_BGR2RGB)
                transform(image=image)

        return run

    reference, elastic = albumentations_pipelines()
    figures = []
    for name, augmentation, pipeline, target in (
        ("loading, reference augmentation", AugmentationRecipe(), reference, 4),
        ("loading, elastic 30/15 in one of five", ELASTIC, elastic, 8),
    ):
        ratio, ours, theirs = compare(epoch(augmentation), png_epoch(pipeline), repeats, n)
        baseline = f"PNG, uint8 x 3, albumentations ({1 / theirs:,.0f}/s)"
        figures.append(Figure(name, ratio, "x", baseline, f"{target} x", ratio >= target))
        figures.append(Figure(name, 1 / ours, "samples/s per core", "-", "-", True))
    for name, augmentation in POLICIES.items():
        ratio, ours, theirs = compare(epoch(augmentation), epoch(AugmentationRecipe()), repeats, n)
        baseline = f"reference augmentation ({1 / theirs:,.0f}/s)"
        figures.append(Figure(f"loading, {name}", ratio, "x the samples/s", baseline, "-", True))
    figures += adjacent_slices(cache, slices, rows, repeats)
    rows = np.tile(rows, -(-2048 // len(rows)))
    n = len(rows)

    def plain(of: Cache) -> Callable[[], None]:
        loader = SliceLoader(of, slices, recipe(of.spec.size))
        return lambda: consume(loader.inference_batches(rows))

    ratio, _, theirs = compare(plain(cache), decompression(cache, rows), repeats, n)
    baseline = f"blosc2 decompression alone ({1e3 * theirs:.3f} ms)"
    figures.append(
        Figure("loading, no augmentation", 1 / ratio, "x the time", baseline, "1.5 x", 1 / ratio <= 1.5),
    )
    milliseconds = 1e3 * compare(plain(small), lambda: None, repeats, n)[1]
    name = "loading, no augmentation, 96 px"
    figures.append(Figure(name, milliseconds, "core-ms per sample", "-", "0.25 ms", milliseconds <= 0.25))
    return figures


def albumentations_pipelines() -> tuple[Callable[..., object], Callable[..., object]]:
    """Return the reference augmentation and an elastic one, as users of albumentations write them."""
    import albumentations

    reference = albumentations.Compose(
        [
            albumentations.OneOf(
                [
                    albumentations.HorizontalFlip(p=1),
                    albumentations.Affine(
                        scale=(0.925, 1.075), translate_percent=(-0.05, 0.05), rotate=(-25, 25), keep_ratio=True, p=1
                    ),
                    albumentations.GridDistortion(num_steps=20, distort_limit=0.25, p=1),
                    albumentations.Affine(translate_px=(-5, 5), shear=(-2, 2), p=1),
                ],
                p=0.75,
            )
        ]
    )
    return reference, albumentations.Compose([albumentations.ElasticTransform(alpha=30, sigma=15, p=0.2)])


def adjacent_slices(cache: Cache, slices: pd.DataFrame, rows: np.ndarray, repeats: int) -> list[Figure]:
    """Compare three slices per sample with one, in training (random order) and in inference (in order)."""
    alone = SliceLoader(cache, slices, recipe(SIZE))
    three = SliceLoader(cache, slices, recipe(SIZE, neighbours=1))

    def train(loader: SliceLoader) -> Callable[[], None]:
        return lambda: consume(loader.training_batches(rows, ADDRESS))

    def infer(loader: SliceLoader) -> Callable[[], None]:
        return lambda: consume(loader.inference_batches(np.sort(rows)))

    figures = []
    for name, work, target in (("reference augmentation", train, 3.2), ("inference, in order", infer, 1.7)):
        ratio, _, of_one = compare(work(three), work(alone), repeats, len(rows))
        figures.append(
            Figure(
                f"loading three slices per sample, {name}",
                1 / ratio,
                "x the time",
                f"one slice ({1e3 * of_one:.3f} ms)",
                f"{target} x",
                1 / ratio <= target,
            )
        )
    return figures


def nine_channels(folder: Path, slices: pd.DataFrame, repeats: int) -> list[Figure]:
    """Measure training samples of three slices in three windows at 384 px, all moved and with varied windows.

    The rate of a core halves when other programs use its caches, so it is also compared with what no loader can avoid.
    """
    cache = build(folder / "nine", slices, 384)
    rows = np.random.default_rng(0).permutation(len(slices))
    varied = {"window_shift": 10.0, "window_scale": 0.1}
    figures = []
    for name, augmentation in (
        ("every slice moved, varied windows", replace(AFFINE, **varied)),
        ("reference augmentation, varied windows", AugmentationRecipe(**varied)),
    ):
        loader = SliceLoader(cache, slices, recipe(384, augmentation, neighbours=1))
        work = partial(lambda of: consume(of.training_batches(rows, ADDRESS)), loader)
        ratio, ours, least = compare(work, moving(cache, np.repeat(rows, 3)), repeats, len(rows))
        rate, name = 1 / ours, f"loading 9 channels at 384 px, {name}"
        figures.append(Figure(name, rate, "samples/s per core", "-", "600", rate >= 600))
        if not figures[1:]:
            baseline = f"blosc2 decompression and cv2.warpAffine alone ({1e3 * least:.3f} ms)"
            figures.append(Figure(name, 1 / ratio, "x the time", baseline, "1.5 x", 1 / ratio <= 1.5))
    return figures


def moving(cache: Cache, rows: np.ndarray) -> Callable[[], None]:
    """Return a function that decompresses the chunks of `rows` from memory and moves each slice, in float32."""
    size = cache.spec.size
    unpack_all = decompression(cache, rows)
    matrix = cv2.getRotationMatrix2D((size / 2, size / 2), 10, 1.05)
    image, moved = cache.read(0).astype(np.float32), np.empty((size, size), np.float32)

    def run() -> None:
        unpack_all()
        for _ in rows:
            cv2.warpAffine(image, matrix, (size, size), dst=moved, borderValue=-1024)

    return run


def decompression(cache: Cache, rows: np.ndarray) -> Callable[[], None]:
    """Return a function that decompresses the chunks of `rows` from memory into batches."""
    chunks = [pack(cache.read(row)) for row in rows.tolist()]
    batch = np.empty((BATCH, cache.spec.size, cache.spec.size), np.int16)

    def run() -> None:
        for chunk, out in zip(chunks, cycle(batch), strict=False):
            blosc2.decompress2(chunk, dst=out, nthreads=1)

    return run


def recipe(size: int, augmentation: AugmentationRecipe | None = None, neighbours: int = 0) -> Recipe:
    return Recipe(
        plugin="benchmark",
        model=ModelRecipe("none"),
        input=InputRecipe(size=size, neighbours=neighbours),
        stage=(StageRecipe("full", "all", 1, 1e-3),),
        batch=BATCH,
        augmentation=augmentation or AugmentationRecipe(),
    )


def consume(batches: Iterable[Batch]) -> None:
    for _ in batches:
        pass


def headers(folder: Path, files: list[Path], count: int, repeats: int) -> Figure:
    link_files(files, folder / "headers", count)
    names = sorted((folder / "headers").iterdir())

    def read_all() -> None:
        for name in names:
            pydicom.dcmread(name, stop_before_pixels=True)

    ratio, _, theirs = compare(
        lambda: build_catalog(scan_source(folder / "headers", processes=1), b"key"), read_all, repeats, count
    )
    baseline = f"pydicom.dcmread alone ({1 / theirs:,.0f}/s)"
    return Figure("catalog from headers, one process", 1 / ratio, "x the time", baseline, "1.1 x", 1 / ratio <= 1.1)


def link_files(files: list[Path], folder: Path, count: int) -> None:
    """Fill `folder` with `count` names of copies of `files`; each copy exists once on disk."""
    folder.mkdir()
    copies = [Path(shutil.copy(file, folder / f"{number:06d}.dcm")) for number, file in enumerate(files[:count])]
    for number, file in islice(enumerate(cycle(copies)), len(copies), count):
        os.link(file, folder / f"{number:06d}.dcm")


def memory(files: list[Path], n: int) -> list[Figure]:
    """Measure how much the peak memory of each step grows from 4 n to 16 n slices, in one process per count."""
    peaks = []
    for count in (n, 4 * n, 16 * n):
        with tempfile.TemporaryDirectory() as folder:
            link_files(files, Path(folder) / "files", count)
            command = [sys.executable, __file__, "--memory", f"{folder}/files", str(count), f"{folder}/cache"]
            peaks.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
    figures = []
    for step in peaks[0]:
        kilobytes = (peaks[2][step] - peaks[1][step]) / (12 * n)  # libraries warm up before 4 n
        megabytes = ", ".join(f"{peak[step] / 1024:.0f}" for peak in peaks)
        baseline = f"{megabytes} MB at {n:,}, {4 * n:,}, {16 * n:,} slices"
        met = kilobytes <= MAX_KB
        figures.append(Figure(f"peak memory, {step}", kilobytes, "KB per slice", baseline, f"{MAX_KB} KB", met))
    return figures


def print_peak_memory(source: Path, count: int, cache_dir: Path) -> None:
    """Print the peak memory of each step as JSON, in KB."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    peaks = {}

    def measure(step: str, work: Callable[[], object]) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        work()
        status = Path("/proc/self/status").read_text()
        peaks[step] = int(status.partition("VmHWM:")[2].split()[0])

    measure("ingest", lambda: build_catalog(scan_source(source, processes=1), b"key"))
    slices = make_catalog(sorted(source.iterdir()), count)
    measure("cache building", lambda: build(cache_dir, slices, 96))
    loader = SliceLoader(build(cache_dir, slices, 96), slices, recipe(96))
    measure("loading", lambda: [consume(loader.training_batches(np.arange(count), ADDRESS)) for _ in range(2)])
    print(json.dumps(peaks))


def compare(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int, count: int
) -> tuple[float, float, float]:
    """Return how many times faster `ours` is, and both in seconds of processor time per item, as medians."""
    ours()
    theirs()
    pairs = [(_seconds(ours) / count, _seconds(theirs) / count) for _ in range(repeats)]
    ratio = statistics.median(their / our for our, their in pairs)
    return ratio, statistics.median(our for our, _ in pairs), statistics.median(their for _, their in pairs)


def _seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


if __name__ == "__main__":
    main()
