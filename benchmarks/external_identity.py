"""Patients and images of several datasets: time and hits of the comparison of ids and of near-duplicate images.

Ids: 20,000 patients with 680,000 slices are compared with a stored dataset of as many, half of them the same. Images:
slices of phantom patients are cached at 256 px. A cache of 100,000 slices has their shards several times. For the
search, 100,000 different slices are made of them by rotation, scaling and structured noise; copies of slices are
planted as other patients: shifted by whole pixels, saved with 8 bits in three windows, and compressed as JPEG.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
from catalog import synthetic_scan
from common import Figure

from ichx.cache.build import ensure_cache
from ichx.cache.hu_cache import CACHE_FILE, PLACES_FILE, Cache, CacheSpec, shard_path
from ichx.cache.image_hash import LENGTH, hash_slice
from ichx.cache.image_hashes import image_hashes
from ichx.cache.shards import SHARD_ROWS
from ichx.cache.similar_images import find_similar
from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.catalog import build_catalog, write_catalog
from ichx.datasets.dataset import CATALOG_FILE, load_dataset
from ichx.datasets.new_version import store_version
from ichx.datasets.overlap import find_overlaps, identity_keys, write_identity
from ichx.phantom.dicom_files import write_phantom
from ichx.project import Project
from ichx.store import VersionDraft, open_store
from ichx.worker_pool import map_in_processes, worker_count
from ichx.workspace import init_workspace

SIZE = 256
JPEG_QUALITY = 75
SLICES_PER_PATIENT = 34

Image = npt.NDArray[np.int16]


def measure(quick: bool) -> list[Figure]:
    """Return the figures of patients and images of several datasets."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        return [*_identity(root / "ids", 2_000 if quick else 20_000), *_images(root / "images", quick=quick)]


def _identity(root: Path, patients: int) -> list[Figure]:
    workspace = init_workspace(root)
    key = workspace.privacy_key()
    with open_store(workspace) as store:
        project = Project(workspace, store)
        for name, offset in (("rsna", 0), ("other", patients // 2)):
            scan = _scan(patients, offset, name)
            catalog, _ = build_catalog(scan, key)
            if name == "rsna":
                keys = identity_keys(scan, catalog, key)
                draft = VersionDraft(name, None, "/files", "", "0" * 16, None, len(catalog), patients, 0, None, {})
                store_version(project, draft, 1, _Files(catalog, keys).write)
        start, processor = time.perf_counter(), time.process_time()
        keys = identity_keys(scan, catalog, key)
        (found,), unread = find_overlaps(project, {"other"}, keys, catalog)
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
    expected = patients - patients // 2
    assert not unread
    what = f"{patients:,} patients, {len(catalog):,} slices, against as many; {processor:.2g} s of processor time"
    wrong = abs(found.patients - expected)
    return [
        Figure("identity check", seconds, "s", what, "5 s", seconds <= 5),
        Figure(
            "identity check: patients missed or too many", wrong, "patients", f"{expected:,} shared", "0", not wrong
        ),
    ]


@dataclass(frozen=True)
class _Files:
    """The files of a stored version."""

    catalog: pd.DataFrame
    keys: pd.DataFrame

    def write(self, folder: Path) -> None:
        """Write them."""
        write_catalog(self.catalog, folder / CATALOG_FILE)
        write_identity(self.keys, folder)


def _scan(patients: int, offset: int, prefix: str) -> pd.DataFrame:
    """Return the scan of a study per patient, numbered from `offset`."""
    scan = synthetic_scan(patients * SLICES_PER_PATIENT)
    number = (scan["series_id"].str.removeprefix("ID_s").astype(int) + offset).astype(str)
    scan["patient_id"], scan["study_id"], scan["series_id"] = "ID_p" + number, "ID_t" + number, prefix + number
    scan["slice_id"] = prefix + scan["slice_id"]
    return scan


def _images(root: Path, *, quick: bool) -> list[Figure]:
    patients, wanted, planted = (16, 4_000, 200) if quick else (120, 100_000, 1_000)
    cache, patient = _cached_phantom(root, patients)
    hashes = image_hashes(cache)
    false = find_similar(hashes, groups=patient)
    tiled = _tiled(cache, root / "tiled", wanted)
    start = _clocks()
    image_hashes(tiled)
    hashing, hashing_processor = _clocks() - start
    random = np.random.default_rng(0)
    bases = random.choice(np.flatnonzero(hashes.any(axis=1)), planted)
    copies = {
        kind: np.array([_hash(change(cache.read(row), random)) for row in bases]) for kind, change in COPIES.items()
    }
    count = sum(map(len, copies.values()))
    rows = random.integers(0, cache.n, wanted - len(hashes) - count)
    jobs = [(cache, chunk, number) for number, chunk in enumerate(np.array_split(rows, max(1, len(rows) // 500)))]
    others = dict(map_in_processes(_distort, jobs, worker_count(None, len(jobs))))
    everything = np.concatenate([hashes, *copies.values(), *(others[number] for number in range(len(jobs)))])
    new = patient.max() + 1 + np.arange(count)  # each copy is another patient
    groups = np.concatenate([patient, new, patient[rows]])
    start = _clocks()
    found = find_similar(everything, groups=groups)
    searching, searching_processor = _clocks() - start
    pairs = set(zip(found.first.tolist(), found.second.tolist(), strict=True))
    shares, at = {}, len(hashes)
    for kind, of in copies.items():
        shares[kind] = float(np.mean([(int(base), at + i) in pairs for i, base in enumerate(bases)]))
        at += len(of)
    share = float(np.mean(list(shares.values())))
    parts = ", ".join(f"{kind} {value:.1%}" for kind, value in shares.items())
    load = f"load {os.getloadavg()[0]:.0f}"
    total = hashing + searching
    return [
        Figure(
            "near-duplicates: hashes, once per cache",
            hashing,
            "s",
            f"{tiled.n:,} slices of {SIZE} px, {hashing_processor:.3g} s of processor time, {load}",
            "",
            met=True,
        ),
        Figure(
            "near-duplicates: pairs",
            searching,
            "s",
            f"{len(everything):,} slices, {searching_processor:.3g} s of processor time, {load}",
            "",
            met=True,
        ),
        Figure("near-duplicates: hashes and pairs", total, "s", load, "60 s", total <= 60),
        Figure("planted copies found", 100 * share, "%", parts, "99 %", share >= 0.99),
        Figure(
            "false pairs of different patients",
            len(false.first),
            "pairs",
            f"{int(hashes.any(axis=1).sum()):,} of {cache.n:,} slices of {patients} phantom patients have a hash",
            "0",
            not len(false.first),
        ),
    ]


def _clocks() -> npt.NDArray[np.float64]:
    """Return the time, and the processor time of this process and of those that it waited for, in seconds."""
    return np.array([time.perf_counter(), sum(os.times()[:4])])


def _cached_phantom(root: Path, patients: int) -> tuple[Cache, npt.NDArray[np.int64]]:
    """Return a cache of phantom patients, and the patient of each row."""
    files = write_phantom(root / "files", patients=patients, seed=41, size=SIZE, prevalence={"any": 0.4})
    assert files.train is not None
    workspace = init_workspace(root / "workspace")
    with open_store(workspace) as store:
        project = Project(workspace, store)
        add_dataset(project, AddRequest("phantom", files.train))
        data = load_dataset(project, "phantom")
        spec = CacheSpec(SIZE, "slice", "bilinear")
        cache = ensure_cache(workspace.cache_dir, "phantom", data.source, data.slices, spec)
    return cache, pd.factorize(data.slices["patient"])[0].astype(np.int64)


def _tiled(cache: Cache, folder: Path, wanted: int) -> Cache:
    """Return a cache of about `wanted` slices that links the full shards of `cache` several times."""
    full = cache.n // SHARD_ROWS
    shards = max(1, wanted // SHARD_ROWS)
    folder.mkdir()
    for shard in range(shards):
        os.link(shard_path(cache.folder, shard % full), shard_path(folder, shard))
    places = np.concatenate([cache.places(shard % full) for shard in range(shards)])
    np.save(folder / PLACES_FILE, places)
    manifest = json.loads((cache.folder / CACHE_FILE).read_text())
    manifest |= {"n": len(places), "defects": {}, "shard_bytes": [cache.shard_bytes[i % full] for i in range(shards)]}
    (folder / CACHE_FILE).write_text(json.dumps(manifest))
    return Cache(folder)


def _hash(hu: Image) -> npt.NDArray[np.int8]:
    found = hash_slice(hu)
    return np.zeros(LENGTH, np.int8) if found is None else found


def _distort(job: tuple[Cache, npt.NDArray[np.int64], int]) -> tuple[int, npt.NDArray[np.int8]]:
    """Return the job's number, and the hashes of distorted slices."""
    cache, rows, number = job
    random = np.random.default_rng([number, 1])
    found = []
    for row in rows:
        matrix = cv2.getRotationMatrix2D((SIZE / 2, SIZE / 2), float(random.uniform(-25, 25)), 1.0)
        matrix[:, 0] *= random.uniform(0.85, 1.15)
        matrix[:, 1] *= random.uniform(0.85, 1.15)
        hu = cv2.warpAffine(cache.read(int(row)), matrix, (SIZE, SIZE), borderValue=-1024).astype(np.float32)
        coarse = random.normal(0, 8, (24, 24)).astype(np.float32)
        hu += cv2.resize(coarse, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC) * (hu > -200)
        found.append(_hash(np.rint(hu).astype(np.int16)))
    return number, np.array(found)


def _shifted(hu: Image, random: np.random.Generator) -> Image:
    matrix = np.array([[1, 0, random.integers(-12, 13)], [0, 1, random.integers(-12, 13)]], np.float64)
    return np.asarray(cv2.warpAffine(hu, matrix, (SIZE, SIZE), borderValue=-1024), np.int16)


def _windowed(centre: float, width: float) -> Callable[[Image, np.random.Generator], Image]:
    def change(hu: Image, _: np.random.Generator) -> Image:
        grey = np.rint(np.clip((hu - centre) / width + 0.5, 0, 1) * 255)
        return np.rint(grey / 255 * width + centre - width / 2).astype(np.int16)

    return change


def _compressed(hu: Image, _: np.random.Generator) -> Image:
    grey = np.rint(np.clip((hu + 60) / 200, 0, 1) * 255).astype(np.uint8)
    content = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1]
    read = cv2.imdecode(content, cv2.IMREAD_GRAYSCALE)
    return np.rint(np.asarray(read, np.float64) / 255 * 200 - 60).astype(np.int16)


COPIES: Mapping[str, Callable[[Image, np.random.Generator], Image]] = {
    "shifted": _shifted,
    "brain window": _windowed(40, 80),
    "subdural window": _windowed(80, 200),
    "soft-tissue window": _windowed(40, 400),
    f"JPEG {JPEG_QUALITY}": _compressed,
}
