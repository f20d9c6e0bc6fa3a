"""`ichx ui` shows the files of NIfTI volumes that are in no dataset."""

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
from nifti_files import convert, write_raw
from web_site import serving

from ichx.datasets.catalog import build_catalog, usable_slices
from ichx.datasets.ingest import scan_source
from ichx.datasets.sources import SourceFiles, read_source_slice

if TYPE_CHECKING:
    from ichx.phantom.dicom_files import PhantomFiles


def test_a_volume_is_shown_with_the_pixels_and_sides_of_its_dicom_study(
    phantom: "PhantomFiles", dataset_root: Path, tmp_path: Path
) -> None:
    assert phantom.test is not None
    scan = scan_source(phantom.test)
    names = scan[scan["patient_id"] == scan["patient_id"][0]]["file"]
    path = write_raw(tmp_path / "head.nii.gz", convert([phantom.test / name for name in names]))
    slices = usable_slices(build_catalog(scan_source(phantom.test), None)[0])
    slices = slices[slices["file"].isin(names)]
    files = SourceFiles(phantom.test, slices).select(range(len(slices)))
    with serving(dataset_root, files=path) as served:
        client = served.client()
        listed = client.get("/studies", params={"source": "folder@1"}).text
        study = listed.partition("/studies/folder@1/")[2].partition('"')[0].partition("?")[0]
        assert study, listed[:400]
        content = client.get(f"/api/studies/folder@1/{study}").json()
        shown = [one for series in content["series"] for one in series["slices"]]
        assert [one["id"] for one in shown] == [f"head#{number:03d}" for number in range(len(slices), 0, -1)]
        assert all(one["side"] == {"left": "R", "right": "L"} for one in shown)
        for number in (1, len(slices) // 2):
            slice_id = quote(f"head#{number:03d}", safe="")
            answer = client.get(f"/api/pixels/folder@1/{slice_id}")
            assert answer.status_code == 200, answer.text
            pixels = np.frombuffer(answer.content, "<i2").reshape(64, 64)
            assert np.array_equal(pixels, read_source_slice(files[number - 1]).hu)
