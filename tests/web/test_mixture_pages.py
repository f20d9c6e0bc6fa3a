"""The page of a mixture, and its slices in the viewer, which are read from the files of its parts."""

import shutil
from pathlib import Path

from test_data_page import rows_of, shown
from web_site import Serve

from ichx.datasets.dataset import load_dataset
from ichx.project import Project
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
