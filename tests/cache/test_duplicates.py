"""Near-duplicate images under different patients."""

import json
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pytest
from conftest import Program

from ichx.cache.build import ensure_cache
from ichx.cache.duplicates import find_duplicates
from ichx.cache.hu_cache import CacheSpec
from ichx.cache.image_hash import LENGTH, SIMILAR, VERSION, hash_slice
from ichx.cache.image_hashes import image_hashes
from ichx.cache.similar_images import find_similar
from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import load_dataset
from ichx.errors import InvalidInputError, NotReadyError
from ichx.phantom.dicom_files import write_phantom
from ichx.project import Project
from ichx.store import open_store
from ichx.workspace import init_workspace, open_workspace

SIZE = 128


def shifted(hu: np.ndarray) -> np.ndarray:
    moved = np.full_like(hu, -1024)
    moved[5:, :-4] = hu[:-5, 4:]
    return moved


def windowed(hu: np.ndarray, centre: float = 40, width: float = 200) -> np.ndarray:
    grey = np.rint(np.clip((hu - centre) / width + 0.5, 0, 1) * 255)
    return np.rint(grey / 255 * width + centre - width / 2).astype(np.int16)


def recompressed(hu: np.ndarray) -> np.ndarray:
    grey = np.rint(np.clip((hu + 60) / 200, 0, 1) * 255).astype(np.uint8)
    grey = cv2.imdecode(cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, 75])[1], cv2.IMREAD_GRAYSCALE)
    return np.rint(grey / 255.0 * 200 - 60).astype(np.int16)


pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR UI")

COPIES = (shifted, windowed, recompressed)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace with 4 phantom patients, and copies of 3 of them under other ids, both cached."""
    root = tmp_path_factory.mktemp("duplicates")
    files = write_phantom(root / "files", patients=4, seed=5, size=SIZE, prevalence={"any": 0.5})
    assert files.train is not None
    (root / "copies").mkdir()
    patients = {}
    for path in sorted(files.train.iterdir()):
        dataset = pydicom.dcmread(path)
        number = patients.setdefault(str(dataset.PatientID), len(patients))
        if number == len(COPIES):
            continue
        slope, intercept = float(dataset.RescaleSlope), float(dataset.RescaleIntercept)
        hu = np.clip(dataset.pixel_array * slope + intercept, -1024, 3071).astype(np.int16)
        dataset.PixelData = (COPIES[number](hu).astype("<i2")).tobytes()
        dataset.RescaleSlope, dataset.RescaleIntercept = "1", "0"
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 15, 1
        dataset.PatientID, dataset.StudyInstanceUID = f"new {number}", f"1.2.3.4.5.{number}"
        dataset.SeriesInstanceUID, dataset.SOPInstanceUID = f"1.2.3.4.5.{number}.1", f"copy-{path.stem}"
        dataset.save_as(root / "copies" / f"copy-{path.name}")
    workspace = init_workspace(root / "workspace")
    with open_store(workspace) as store:
        project = Project(workspace, store)
        for name, source in (("ph", files.train), ("copies", root / "copies")):
            assert not [w for w in add_dataset(project, AddRequest(name, source)).warnings if "also in" in w]
            data = load_dataset(project, name)
            ensure_cache(workspace.cache_dir, name, data.source, data.slices, CacheSpec(SIZE, "slice", "bilinear"))
    return workspace.root


@pytest.fixture
def project(place: Path) -> Iterator[Project]:
    workspace = open_workspace(place)
    with open_store(workspace) as store:
        yield Project(workspace, store)


def test_copies_under_other_ids_are_found(project: Project) -> None:
    found = find_duplicates(project, "copies", "ph")
    assert len(found.patients) == 3
    assert not any(pair.known for pair in found.patients)
    originals, copies = (load_dataset(project, name).slices for name in ("ph", "copies"))
    for pair in found.patients:
        assert pair.slice_id.removeprefix("copy-") == pair.other_slice_id
        assert pair.similarity >= found.least
        hashed = image_hashes_of(project, "copies")[(copies["patient"] == pair.patient).to_numpy()].any(axis=1).sum()
        assert pair.pairs >= 0.95 * hashed, "a copied slice was not found"
        assert (originals["patient"] == pair.other_patient).any()


def image_hashes_of(project: Project, name: str) -> np.ndarray:
    data = load_dataset(project, name)
    spec = CacheSpec(SIZE, "slice", "bilinear")
    return image_hashes(ensure_cache(project.workspace.cache_dir, name, data.source, data.slices, spec))


def test_different_patients_are_not_similar(project: Project) -> None:
    found = find_duplicates(project, "ph")
    assert (found.patients, found.pairs, found.other) == ((), 0, "ph")
    assert found.slices > 60
    assert found.slices + found.unhashed == project.store.version("ph").slices


def test_known_patients_are_marked(project: Project, place: Path) -> None:
    source = place.parent / "files" / "stage_2_train"
    add_dataset(project, AddRequest("again", source))
    data = load_dataset(project, "again")
    ensure_cache(project.workspace.cache_dir, "again", data.source, data.slices, CacheSpec(SIZE, "none", "area"))
    found = find_duplicates(project, "again", "ph")
    assert [pair.known for pair in found.patients] == [True] * 4


def test_a_dataset_without_a_cache(project: Project, place: Path) -> None:
    add_dataset(project, AddRequest("uncached", place.parent / "files" / "stage_2_train", group_by="study"))
    with pytest.raises(NotReadyError, match="uncached"):
        find_duplicates(project, "ph", "uncached")
    with pytest.raises(InvalidInputError, match="itself"):
        find_duplicates(project, "ph", "ph")
    with pytest.raises(InvalidInputError, match=r"1\.5"):
        find_duplicates(project, "ph", least=1.5)


def test_stored_hashes_are_read_and_damaged_ones_computed_again(project: Project) -> None:
    data = load_dataset(project, "ph")
    cache = ensure_cache(
        project.workspace.cache_dir, "ph", data.source, data.slices, CacheSpec(SIZE, "slice", "bilinear")
    )
    first, calls = image_hashes(cache), list[int]()
    image_hashes(cache, progress=lambda done, total: calls.append(done))
    assert not calls
    (path,) = cache.folder.glob("image-hashes-*.npy")
    path.write_bytes(path.read_bytes()[:1000])
    assert (image_hashes(cache, progress=lambda done, total: calls.append(done)) == first).all()
    assert calls[-1] == cache.n


def test_hashes_of_another_version_are_computed_again(project: Project) -> None:
    data = load_dataset(project, "ph")
    cache = ensure_cache(
        project.workspace.cache_dir, "ph", data.source, data.slices, CacheSpec(SIZE, "slice", "bilinear")
    )
    expected = image_hashes(cache)
    (path,) = cache.folder.glob("image-hashes-*.npy")
    outdated = cache.folder / f"image-hashes-{VERSION - 1}.npy"
    path.unlink()
    np.save(outdated, np.ones_like(expected))
    assert (image_hashes(cache) == expected).all()
    assert list(cache.folder.glob("image-hashes-*.npy")) == [path]


def test_noise_does_not_change_the_hash_of_a_shifted_copy(project: Project) -> None:
    data = load_dataset(project, "ph")
    spec = CacheSpec(256, "slice", "bilinear")
    cache = ensure_cache(project.workspace.cache_dir, "ph", data.source, data.slices, spec)
    random = np.random.default_rng(0)
    cosines = []
    for row in range(0, cache.n, 2):
        hu = np.rint(cache.read(row) + random.normal(0, 15, (256, 256))).astype(np.int16)
        copy = np.full_like(hu, -1024)
        copy[5:, :-3] = hu[:-5, 3:]
        found = [hash_slice(image) for image in (hu, copy)]
        if all(one is not None for one in found):
            a, b = np.array(found, np.float64)
            cosines.append(a @ b / np.sqrt((a @ a) * (b @ b)))
    assert len(cosines) > 30
    assert np.quantile(cosines, 0.02) >= SIMILAR


@pytest.mark.parametrize("hu", [np.full((64, 64), -1024), np.zeros((64, 64)), np.full((64, 64), 900)])
def test_images_without_a_brain_have_no_hash(hu: np.ndarray) -> None:
    assert hash_slice(hu.astype(np.int16)) is None


def test_the_estimate_loses_no_pair() -> None:
    rng = np.random.default_rng(3)
    base = rng.normal(0, 12, (3000, LENGTH))
    copies = 0.9 * base[:1000] + 0.3 * rng.normal(0, 12, (1000, LENGTH))
    hashes = np.rint(np.clip(np.concatenate([base, copies]), -127, 127)).astype(np.int8)
    found = find_similar(hashes)
    assert list(zip(found.first, found.second, strict=True)) == [(i, 3000 + i) for i in range(1000)]
    between = find_similar(hashes[:3000], hashes[3000:])
    assert (between.second == between.first).all()
    assert len(between.first) == 1000
    same_patient = np.r_[np.arange(3000), np.arange(1000)]
    assert not len(find_similar(hashes, groups=same_patient).first)


@pytest.mark.parametrize("least", [0.5, 0.85, 0.97, 1.0])
def test_pairs_near_the_threshold_are_found(least: float) -> None:
    rng = np.random.default_rng(4)
    base = rng.normal(0, 12, (3000, LENGTH))
    cosine = min(1.0, least + 0.01)
    copies = cosine * base + np.sqrt(1 - cosine**2) * rng.normal(0, 12, base.shape)
    hashes, others = (np.rint(np.clip(one, -127, 127)).astype(np.int8) for one in (base, copies))
    a, b = hashes.astype(float), others.astype(float)
    exact = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))
    expected = np.flatnonzero(exact >= least - 1e-7)
    found = find_similar(hashes, others, least=least, processes=2)
    assert (found.first == found.second).all()
    assert np.isin(found.first, expected).all()
    assert len(found.first) >= 0.995 * len(expected) > 1000
    alone = find_similar(hashes, others, least=least, processes=1)
    assert (alone.first == found.first).all()
    assert (alone.similarity == found.similarity).all()


def test_command(ichx: Program, place: Path) -> None:
    listed = ichx("data", "duplicates", "copies", "--against", "ph", "--json", cwd=place)
    assert len(json.loads(listed.out)["patients"]) == 3
    shown = ichx("data", "duplicates", "copies", "--against", "ph", cwd=place)
    assert "3 pairs of patients under different ids" in shown.out + shown.err
    none = ichx("data", "duplicates", "ph", cwd=place)
    assert "No near-duplicates" in none.out + none.err
