"""Slices that are sent as the cache stores them: what the browser decodes is exactly what `ichx.cache` reads."""

import base64
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import pytest
from web_site import Serve, Served, Tab, first_study

from ichx.cache.hu_cache import CACHE_FILE, Cache
from ichx.cache.resize import fit_square
from ichx.cache.shards import pack
from ichx.ct.dicom import read_slice
from ichx.web.browser_chunks import can_decode

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from ichx.phantom.dicom_files import PhantomFiles

OpenTab = Callable[..., Tab]
Image = npt.NDArray[np.int16]
DECODE = """async ([chunks, counts]) => {
  const { unpackChunk } = await import("/static/viewer_chunks.js");
  const found = [];
  for (const [i, text] of chunks.entries()) {
    try {
      const pixels = unpackChunk(Uint8Array.from(atob(text), (one) => one.charCodeAt(0)), counts[i]);
      const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", pixels));
      found.push([...digest].map((one) => one.toString(16).padStart(2, "0")).join(""));
    } catch (error) {
      found.push(error.message);
    }
  }
  return found;
}"""
DAMAGED = "The server sent a damaged slice. Reload the page."


@pytest.fixture
def page(dataset_root: Path, serve: Serve, tab: OpenTab) -> "Page":
    """Return a page that can import the modules of the app."""
    return tab(serve(dataset_root)).page


def decoded(page: "Page", chunks: Sequence[bytes], counts: Sequence[int]) -> list[str]:
    """Return the SHA-256 of the pixels that the browser decodes, or its error."""
    found: list[str] = page.evaluate(DECODE, [[base64.b64encode(one).decode() for one in chunks], list(counts)])
    return found


def check_images(page: "Page", images: Sequence[Image]) -> None:
    """Check that the browser decodes the chunks of `images`."""
    chunks = [pack(image) for image in images]
    assert all(map(can_decode, chunks))
    found = decoded(page, chunks, [image.size for image in images])
    wanted = [hashlib.sha256(image.astype("<i2").tobytes()).hexdigest() for image in images]
    assert [(image.shape, one) for image, one in zip(images, found, strict=True)] == [
        (image.shape, one) for image, one in zip(images, wanted, strict=True)
    ]


def synthetic(edge: int) -> Iterator[npt.NDArray[Any]]:
    """Yield images for each branch of the decoder: runs, far and overlapping matches, copies, the rest of 8."""
    random, shape = np.random.default_rng(edge), (edge, edge)
    for value in (0, -1, 1, 257, -1024, -32768, 32767):
        yield np.full(shape, value)
    yield random.integers(-32768, 32768, shape)  # incompressible
    yield random.integers(-20, 20, shape)
    yield np.cumsum(random.integers(-9, 10, shape), axis=1)
    yield np.tile(np.arange(edge) % 7, (edge, 1))
    yield np.repeat(random.integers(-1024, 3000, (edge, 1)), edge, axis=1)
    yield np.where(random.random(shape) < 0.02, 30000, -1024)
    box = np.full(shape, -1024)
    box[edge // 4 :, edge // 3 :] = random.integers(0, 80, box[edge // 4 :, edge // 3 :].shape)
    yield box


@pytest.mark.parametrize("edges", [(1, 2, 3, 4, 5, 8, 16, 17), (31, 32, 33, 63, 127), (224, 378), (511, 512)], ids=str)
def test_images_of_all_kinds_and_sizes_are_decoded(page: "Page", edges: tuple[int, ...]) -> None:
    check_images(page, [image.astype(np.int16) for edge in edges for image in synthetic(edge)])


def test_slices_of_the_phantom_are_decoded(page: "Page", phantom: "PhantomFiles") -> None:
    images = [read_slice(path).hu for path in sorted(phantom.train.iterdir())[:20]]
    check_images(page, [fit_square(image, edge, "area") for image in images for edge in (45, 96)])


def test_real_slices_are_decoded(page: "Page", shared_data: Path) -> None:
    paths = sorted((shared_data / "rsna_mini" / "stage_2_train").iterdir())[:12]
    images = [read_slice(path).hu for path in paths]
    check_images(page, [fit_square(image, edge, "bilinear") for image in images for edge in (101, 378, 512)])


def test_damaged_chunks_are_errors_or_have_pixels(page: "Page") -> None:
    image = np.cumsum(np.random.default_rng(0).integers(-9, 10, (64, 64)), axis=1).astype(np.int16)
    chunk, random = bytearray(pack(image)), np.random.default_rng(1)
    cut = [bytes(chunk[:length]) for length in (0, 16, 31, 32, 35, 40, len(chunk) - 1)]
    wrong_lengths = [bytes(chunk[:32] + chunk[32:34]), bytes(chunk) + b"\0", pack(image[:-8])]
    assert set(decoded(page, cut + wrong_lengths, [image.size] * 10)) == {DAMAGED}
    flipped = []
    for _ in range(500):  # the checksum, which the server verifies, finds all of them
        one = bytearray(chunk)
        one[random.integers(len(one) if random.random() < 0.5 else 64)] ^= 1 << random.integers(8)
        flipped.append(bytes(one))
    found = decoded(page, flipped, [image.size] * len(flipped))
    assert all(one == DAMAGED or len(one) == 64 for one in found), set(found)
    assert DAMAGED in found


def test_other_chunks_are_decoded_by_the_server() -> None:
    blosc2 = pytest.importorskip("blosc2")
    image = np.cumsum(np.random.default_rng(0).integers(-9, 10, (64, 64)), axis=1).astype("<i2")
    usual: dict[str, Any] = {
        "codec": blosc2.Codec.LZ4,
        "filters": [blosc2.Filter.BITSHUFFLE],
        "typesize": 2,
        "blocksize": image.nbytes,
        "nthreads": 1,
    }
    assert can_decode(blosc2.compress2(image, **usual))
    assert can_decode(blosc2.compress2(image, **usual | {"codec": blosc2.Codec.LZ4HC}))
    for change in (
        {"codec": blosc2.Codec.ZSTD},
        {"codec": blosc2.Codec.BLOSCLZ},
        {"filters": [blosc2.Filter.SHUFFLE]},
        {"filters": [blosc2.Filter.NOFILTER]},
        {"filters": [blosc2.Filter.DELTA, blosc2.Filter.BITSHUFFLE]},
        {"typesize": 4},
        {"blocksize": 1024},
        {"splitmode": blosc2.SplitMode.ALWAYS_SPLIT},
    ):
        other = blosc2.compress2(image, **usual | change)
        assert not can_decode(other), change
        back = np.empty_like(image)
        blosc2.decompress2(other, dst=back)
        assert np.array_equal(back, image)
    assert not can_decode(b"")
    assert not can_decode(pack(image)[:-1])


def _study(served: Served) -> tuple[str, str, list[str]]:
    """Return the path of a study, its source, and the ids of its slices."""
    with served.client() as client:
        path = first_study(client)
        study = client.get(f"/api{path}").json()
    return path, quote(study["source"], safe="@"), [one["id"] for one in study["series"][0]["slices"]]


def _cache_with(root: Path, chunk: bytes) -> tuple[Cache, list[bytes]]:
    """Return the cache that has `chunk`, and all its chunks."""
    for manifest in (root / "cache").glob(f"*/{CACHE_FILE}"):
        cache = Cache(manifest.parent)
        chunks = [cache.read_chunk(row) for row in range(len(cache))]
        if chunk in chunks:
            return cache, chunks
    raise AssertionError("no cache has it")


def test_stored_slices_are_the_chunks_of_the_cache(
    trained_copy: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ichx.web import pixels_api

    served = serve(trained_copy)
    _, source, ids = _study(served)
    with served.client() as client:
        plain = client.get(f"/api/pixels/{source}", params={"slice": ids[:5]})
        stored = client.get(f"/api/pixels/{source}", params={"slice": ids[:5], "stored": "1"})
        single = client.get(f"/api/pixels/{source}/{quote(ids[1], safe='')}", params={"stored": "1"})
        monkeypatch.setattr(pixels_api, "can_decode", lambda chunk: chunk != single.content)
        mixed = client.get(f"/api/pixels/{source}", params={"slice": ids[:5], "stored": "1"})
    lengths = [int(one) for one in stored.headers["X-Chunks"].split(",")]
    assert (plain.headers["X-Chunks"], sum(lengths)) == (",,,,", len(stored.content))
    assert single.headers["X-Chunks"] == str(lengths[1])
    assert stored.headers["X-Spacing"] == plain.headers["X-Spacing"] == mixed.headers["X-Spacing"]
    cache, chunks = _cache_with(trained_copy, single.content)
    wanted = np.frombuffer(plain.content, "<i2").reshape(5, cache.spec.size, cache.spec.size)
    known = {chunk: cache.read(row) for row, chunk in enumerate(chunks)}
    end = 0
    for image, length in zip(wanted, lengths, strict=True):
        assert np.array_equal(known[stored.content[end : end + length]], image)
        end += length
    assert mixed.headers["X-Chunks"].split(",") == [str(one) if i != 1 else "" for i, one in enumerate(lengths)]
    assert mixed.content[lengths[0] :].startswith(wanted[1].tobytes())


LOAD = """async ([ids, source, query]) => {
  const { SliceLoader } = await import("/static/viewer_slices.js");
  const urlOf = (id) => `/api/pixels/${source}/${encodeURIComponent(id)}?${query}`;
  const urlOfBlock = (ids) => `/api/pixels/${source}?${query}&${new URLSearchParams(ids.map((id) => ["slice", id]))}`;
  const loader = new SliceLoader(urlOf, { urlOfBlock });
  loader.prefetch(ids, 3, 1);
  const all = await Promise.allSettled(ids.map((id) => loader.load(id)));
  return all.map((one) => one.status === "fulfilled" ? [...one.value.hu] : one.reason.message);
}"""


def test_the_viewer_shows_stored_decoded_and_damaged_slices_of_one_block(
    trained_copy: Path, serve: Serve, tab: OpenTab, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ichx.web import pixels_api

    served = serve(trained_copy)
    path, source, ids = _study(served)
    ids = ids[:8]
    with served.client() as client:
        wanted = np.frombuffer(client.get(f"/api/pixels/{source}", params={"slice": ids}).content, "<i2")
        other, damaged = (
            client.get(f"/api/pixels/{source}/{quote(ids[i], safe='')}", params={"stored": "1"}).content for i in (2, 5)
        )
    monkeypatch.setattr(pixels_api, "can_decode", lambda chunk: chunk != other)  # one that the viewer cannot decode
    cache, chunks = _cache_with(trained_copy, damaged)
    shard = cache.folder / "00000.shard"
    content = bytearray(shard.read_bytes())
    content[int(cache.places(0)[chunks.index(damaged)][0]) + 40] ^= 4
    shard.write_bytes(content)
    page = tab(served, allow_errors=True).page
    sent: list[str] = []
    page.on("response", lambda one: "/api/pixels/" in one.url and sent.append(one.headers.get("x-chunks", "")))
    found = page.evaluate(LOAD, [ids, source, "stored=1"])
    for i, (values, image) in enumerate(zip(found, wanted.reshape(8, -1), strict=True)):
        if i == 5:
            assert "damaged" in values
            assert "ichx data cache" in values
        else:
            assert values == image.tolist()
    assert [i for i, one in enumerate(sent[0].split(",")) if not one] == [2, 5]
    page = tab(served, allow_errors=True).open(f"{path}?slice={quote(ids[5])}")
    page.wait_for_selector(".message:visible")
    assert "ichx data cache" in page.locator(".message").inner_text()
