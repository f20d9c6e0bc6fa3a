"""Slices in bulk: building a cache, loading from it, reading headers, memory; against what is usually written for it.

    python benchmarks/data.py [--quick] [--json FILE]

Real slices are taken from ICHX_TEST_DATA, again and again, and phantom slices of 512 px where that is absent. All but
the second process is counted in processor time, one thread each, so that other work on the machine counts little.
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
from collections.abc import Callable
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
from ichx.datasets.catalog import build_catalog
from ichx.datasets.ingest import scan_source
from ichx.labels import LABELS
from ichx.loading.loader import inference_batches, training_batches
from ichx.recipe import AugmentationRecipe, InputRecipe, ModelRecipe, Recipe, StageRecipe

SIZE = 378
BATCH = 64
MEMORY_KB = 4
"""What a slice may add to the peak of memory: a catalog row with its texts takes 1 to 2 KB, an image 279."""

OFF = {"hflip": False, "shift": 0.0, "scale": 0.0, "rotate": 0.0, "grid_limit": 0.0, "anchors": 0.0}
ELASTIC = AugmentationRecipe(probability=0.2, elastic_alpha=30.0, elastic_sigma=15.0, **OFF)


def main() -> None:
    if sys.argv[1:2] == ["--memory"]:
        _measure_memory(Path(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
        return
    options = arguments(__doc__)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", module="albumentations")
    repeats = 3 if options.quick else 5
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        files = slice_files(place)
        count = 256 if options.quick else 1024
        slices = catalog(files, count)
        figures = [
            *building(place, slices, repeats),
            scaling(place, catalog(files, 1536 if options.quick else 4096), 1 if options.quick else 3),
            *loading(place, slices, repeats),
            headers(place, files, count, repeats),
            *memory(files, 128 if options.quick else 512),
        ]
    conclude(figures, options)


def slice_files(place: Path) -> list[Path]:
    """Return real slices, or phantom slices written to `place`, and say which."""
    root = os.environ.get("ICHX_TEST_DATA")
    found = sorted((Path(root) / "rsna_mini").rglob("*.dcm")) if root else []
    if found:
        print(f"{len(found)} real slices, taken again and again")
        return found
    from ichx.phantom.dicom_files import write_phantom

    write_phantom(place / "phantom", patients=2, seed=1, size=512)
    found = sorted((place / "phantom").rglob("*.dcm"))
    print(f"ICHX_TEST_DATA is not set: {len(found)} phantom slices, taken again and again")
    return found


def catalog(files: list[Path], count: int) -> pd.DataFrame:
    """Return the rows that cache and loader need of `count` slices, in which the files stand again and again."""
    stats = [(str(file), file.stat()) for file in files]
    return pd.DataFrame(
        {
            "slice_id": f"ID_{number:09d}",
            "file": file,
            "bytes": stat.st_size,
            "mtime_ns": stat.st_mtime_ns,
            "series": f"series{number // 32}",
            "rows": 512,
            "columns": 512,
            "window_centre": 40.0,
            "window_width": 80.0,
            **dict.fromkeys(LABELS, 0.0),
        }
        for number, (file, stat) in enumerate(islice(cycle(stats), count))
    )


def building(place: Path, slices: pd.DataFrame, repeats: int) -> list[Figure]:
    spec = CacheSpec(SIZE, "slice", "bilinear")

    def ours() -> None:
        shutil.rmtree(place / "cache", ignore_errors=True)
        ensure_cache(place / "cache", "d", Path("/"), slices, spec, processes=1)

    def peer() -> None:
        shutil.rmtree(place / "png", ignore_errors=True)
        (place / "png").mkdir()
        for file, slice_id in zip(slices["file"], slices["slice_id"], strict=True):
            cv2.imwrite(str(place / "png" / f"{slice_id}.png"), three_windows(file))

    ratio, seconds, other = compare(ours, peer, repeats, len(slices))
    against = f"three float windows, resize, PNG ({1 / other:,.0f}/s)"
    return [
        Figure("cache building, one process", ratio, "x", against, "5 x", ratio >= 5),
        Figure("cache building, one process", 1 / seconds, "slices/s", "-", "-", True),
    ]


def three_windows(file: str) -> np.ndarray:
    """Return what solutions of this challenge wrote to disk: three windowed channels, (378, 378, 3) uint8."""
    dataset = pydicom.dcmread(file)
    hu = dataset.pixel_array * dataset.RescaleSlope + dataset.RescaleIntercept
    own = [
        np.atleast_1d(dataset.get(name, default))[0] for name, default in (("WindowCenter", 40), ("WindowWidth", 80))
    ]
    channels = []
    for centre, width in ((float(own[0]), float(own[1])), (80, 200), (600, 2800)):
        low, high = centre - width / 2, centre + width / 2
        channel = (np.clip(hu, low, high) - low) / (high - low)
        channels.append(cv2.resize((channel * 255).astype(np.uint8), (SIZE, SIZE)))
    return np.stack(channels, -1)


def scaling(place: Path, slices: pd.DataFrame, repeats: int) -> Figure:
    """Two processes against one in wall time, from the first finished shards on: starting them is left out."""

    def rate(processes: int) -> float:
        shutil.rmtree(place / "cache", ignore_errors=True)
        seen: list[tuple[float, int]] = []
        ensure_cache(
            place / "cache",
            "d",
            Path("/"),
            slices,
            CacheSpec(SIZE, "slice", "bilinear"),
            processes=processes,
            progress=lambda done, _: seen.append((time.perf_counter(), done)),
        )
        (began, first), (ended, last) = seen[processes], seen[-1]  # seen[0] is the report before the work
        return (last - first) / (ended - began)

    pairs = [(rate(1), rate(2)) for _ in range(repeats)]
    ratio = statistics.median(two / one for one, two in pairs)
    one = statistics.median(one for one, _ in pairs)
    return Figure("cache building, two processes", ratio, "x", f"one process ({one:,.0f}/s)", "1.8 x", ratio >= 1.8)


def loading(place: Path, slices: pd.DataFrame, repeats: int) -> list[Figure]:
    import albumentations

    cache, small = (
        ensure_cache(place / "cache", "d", Path("/"), slices, CacheSpec(size, "slice", "bilinear"), processes=1)
        for size in (SIZE, 96)
    )
    pngs = [str(place / "png" / f"{slice_id}.png") for slice_id in slices["slice_id"]]
    rows = np.random.default_rng(0).permutation(len(slices))
    n = len(rows) - len(rows) % BATCH

    def epoch(augmentation: AugmentationRecipe) -> Callable[[], None]:
        return lambda: spend(
            training_batches(cache, slices, rows, recipe(SIZE, augmentation), fold=0, stage=0, epoch=0, workers=0)
        )

    def png_epoch(transform: Callable[..., object]) -> Callable[[], None]:
        def run() -> None:
            for row in rows[:n].tolist():
                image = cv2.cvtColor(cv2.imread(pngs[row]), cv2.COLOR_BGR2RGB)
                transform(image=image)

        return run

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
    elastic = albumentations.Compose([albumentations.ElasticTransform(alpha=30, sigma=15, p=0.2)])
    figures = []
    for name, ours, peer, reach in (
        ("loading, reference augmentation", AugmentationRecipe(), reference, 4),
        ("loading, elastic 30/15 in one of five", ELASTIC, elastic, 8),
    ):
        ratio, seconds, other = compare(epoch(ours), png_epoch(peer), repeats, n)
        against = f"PNG, uint8 x 3, albumentations ({1 / other:,.0f}/s)"
        figures.append(Figure(name, ratio, "x", against, f"{reach} x", ratio >= reach))
        figures.append(Figure(name, 1 / seconds, "samples/s a core", "-", "-", True))
    figures += neighbours(cache, slices, rows, repeats)
    rows = np.tile(rows, -(-2048 // len(rows)))
    n = len(rows)
    plain = lambda of: lambda: spend(inference_batches(of, slices, rows, recipe(of.spec.size), workers=0))  # noqa: E731
    ratio, _, other = compare(plain(cache), decompression(cache, rows), repeats, n)
    figures.append(
        Figure(
            "loading, no augmentation",
            1 / ratio,
            "x the time",
            f"blosc2 decompression alone ({1e3 * other:.3f} ms)",
            "1.5 x",
            1 / ratio <= 1.5,
        )
    )
    _, seconds, _ = compare(plain(small), lambda: None, repeats, n)
    milliseconds = 1e3 * seconds
    name = "loading, no augmentation, 96 px"
    figures.append(Figure(name, milliseconds, "core-ms a sample", "-", "0.25 ms", milliseconds <= 0.25))
    return figures


def neighbours(cache: Cache, slices: pd.DataFrame, rows: np.ndarray, repeats: int) -> list[Figure]:
    """Three slices a sample against one: training in a random order, where each is read, and inference in theirs."""
    alone, three = recipe(SIZE), recipe(SIZE, neighbours=1)

    def training(of: Recipe) -> Callable[[], None]:
        return lambda: spend(training_batches(cache, slices, rows, of, fold=0, stage=0, epoch=0, workers=0))

    def inference(of: Recipe) -> Callable[[], None]:
        return lambda: spend(inference_batches(cache, slices, np.sort(rows), of, workers=0))

    figures = []
    for name, work, reach in (("reference augmentation", training, 3.2), ("inference, in order", inference, 1.7)):
        ratio, _, other = compare(work(three), work(alone), repeats, len(rows))
        figures.append(
            Figure(
                f"loading three slices a sample, {name}",
                1 / ratio,
                "x the time",
                f"one slice ({1e3 * other:.3f} ms)",
                f"{reach} x",
                1 / ratio <= reach,
            )
        )
    return figures


def decompression(cache: Cache, rows: np.ndarray) -> Callable[[], None]:
    """Return what decompresses the chunks of `rows`, which are in memory already, to their places in a batch."""
    chunks = [cache.packed(row) for row in rows.tolist()]
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


def spend(batches: object) -> None:
    for _ in batches:  # type: ignore[attr-defined]
        pass


def headers(place: Path, files: list[Path], count: int, repeats: int) -> Figure:
    folder = place / "headers"
    link_files(files, folder, count)
    names = sorted(folder.iterdir())

    def ours() -> None:
        build_catalog(scan_source(folder, processes=1), b"key")

    def peer() -> None:
        for name in names:
            pydicom.dcmread(name, stop_before_pixels=True)

    ratio, _, other = compare(ours, peer, repeats, count)
    figure = "catalog from headers, one process"
    against = f"pydicom.dcmread alone ({1 / other:,.0f}/s)"
    return Figure(figure, 1 / ratio, "x the time", against, "1.1 x", 1 / ratio <= 1.1)


def link_files(files: list[Path], folder: Path, count: int) -> None:
    """Fill `folder` with `count` names for copies of `files`, of which each is on the disk once."""
    folder.mkdir()
    copies = [Path(shutil.copy(file, folder / f"{number:06d}.dcm")) for number, file in enumerate(files[:count])]
    for number, file in islice(enumerate(cycle(copies)), len(copies), count):
        os.link(file, folder / f"{number:06d}.dcm")


def memory(files: list[Path], n: int) -> list[Figure]:
    """How much the peak of each step grows from 4 n to 16 n slices, measured in a process for each number of them."""
    peaks = []
    for count in (n, 4 * n, 16 * n):
        with tempfile.TemporaryDirectory() as folder:
            link_files(files, Path(folder) / "files", count)
            command = [sys.executable, __file__, "--memory", f"{folder}/files", str(count), f"{folder}/cache"]
            peaks.append(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))
    figures = []
    for step in peaks[0]:
        kilobytes = (peaks[2][step] - peaks[1][step]) / (12 * n)  # up to 4 n, libraries warm up
        told = ", ".join(f"{peak[step] / 1024:.0f}" for peak in peaks)
        against = f"{told} MB at {n:,}, {4 * n:,}, {16 * n:,} slices"
        held = kilobytes <= MEMORY_KB
        figures.append(Figure(f"peak memory, {step}", kilobytes, "KB a slice", against, f"{MEMORY_KB} KB", held))
    return figures


def _measure_memory(source: Path, count: int, cache_dir: Path) -> None:
    """Print the peak memory of each step as JSON, in KB."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    peaks = {}

    def step(name: str, work: Callable[[], object]) -> object:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        result = work()
        status = Path("/proc/self/status").read_text()
        peaks[name] = int(status.partition("VmHWM:")[2].split()[0])
        return result

    step("ingest", lambda: build_catalog(scan_source(source, processes=1), b"key"))
    slices = catalog(sorted(source.iterdir()), count)
    spec = CacheSpec(96, "slice", "bilinear")
    step("cache building", lambda: ensure_cache(cache_dir, "d", Path("/"), slices, spec, processes=1))
    cache = ensure_cache(cache_dir, "d", Path("/"), slices, spec, processes=1)
    rows = np.arange(count)
    batches = lambda: training_batches(cache, slices, rows, recipe(96), fold=0, stage=0, epoch=0, workers=0)  # noqa: E731
    step("loading", lambda: [spend(batches()) for _ in range(2)])
    print(json.dumps(peaks))


def compare(ours: Callable[[], None], peer: Callable[[], None], repeats: int, count: int) -> tuple[float, float, float]:
    """Return how many times faster `ours` is, and both in seconds of processor time for each of `count`, as medians."""
    ours()
    peer()
    pairs = [(_seconds(ours) / count, _seconds(peer) / count) for _ in range(repeats)]
    ratio = statistics.median(other / own for own, other in pairs)
    return ratio, statistics.median(own for own, _ in pairs), statistics.median(other for _, other in pairs)


def _seconds(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
