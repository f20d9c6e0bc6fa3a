"""The page of a mixture, and its slices in the viewer, which are read from the files of its parts."""

import shutil
import zlib
from pathlib import Path

import numpy as np
from test_data_page import rows_of, shown
from web_site import Serve

from ichx.cache.hu_cache import CacheSpec
from ichx.cache.mixture_cache import ensure_dataset_cache
from ichx.cache.shards import unpack
from ichx.datasets.dataset import load_dataset
from ichx.project import Project, open_project
from ichx.store import open_store
from ichx.workspace import open_workspace


def test_pages(mixed_root: Path, tmp_path: Path, serve: Serve) -> None:
    root = Path(shutil.copytree(mixed_root, tmp_path / "workspace"))
    with serve(root).client() as client:
        page = shown(client, "/data/mixed@1")
        assert [row[0] for row in rows_of(page, "Parts of the mixture")] == [f"site-{n} version 1" for n in "abc"]
        assert "train only" in page
        studies = shown(client, "/studies?source=mixed%401&fold=-1")
        assert "2 of 12 studies" in studies
        with open_store(open_workspace(root)) as store:
            slices = load_dataset(Project(open_workspace(root), store), "mixed").slices
        for part in ("site-a", "site-b", "site-c"):  # without a cache, from the files of the part
            slice_id = slices["slice_id"][slices["part"] == part].iloc[0]
            pixels = client.get(f"/api/pixels/mixed@1/{slice_id}")
            assert pixels.status_code == 200, pixels.text
            assert pixels.headers["X-Rows"] == str(slices["rows"][slices["part"] == part].iloc[0])


def test_stored_slices_are_those_of_the_caches_of_the_parts(mixed_root: Path, tmp_path: Path, serve: Serve) -> None:
    root = Path(shutil.copytree(mixed_root, tmp_path / "workspace"))
    with open_project(root) as project:
        data = load_dataset(project, "mixed")
        cache = ensure_dataset_cache(project.workspace.cache_dir, data, CacheSpec(32, "none", "area"))
    slices = data.slices
    with serve(root).client() as client:
        shown(client, "/studies?source=mixed%401")
        for part in ("site-a", "site-b", "site-c"):
            row = int(slices.index[slices["part"] == part][0])
            query = {"slice": [slices["slice_id"][row]], "size": 32, "stored": "1"}
            assert client.get("/api/pixels/mixed@1", params=query).content == cache.read_chunk(row)
            pixels = np.empty((32, 32), np.int16)
            chunk = cache.read_chunk(row)
            unpack(chunk, zlib.crc32(chunk), pixels)
            assert np.array_equal(pixels, cache.read(row))
