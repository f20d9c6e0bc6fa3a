"""Studies, pixels and predictions by HTTP, on a workspace with trained experiments."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from simulated_run import open_copy
from web_site import Serve, serving

from ichx.cache.build import find_cache
from ichx.cache.hu_cache import Cache
from ichx.cache.recipe_caches import recipe_spec
from ichx.datasets.dataset import LoadedDataset, load_dataset
from ichx.errors import CorruptFileError
from ichx.evaluation.oof import read_oof
from ichx.labels import LABELS
from ichx.project import Project, open_project
from ichx.recipe_text import from_toml

if TYPE_CHECKING:
    import httpx


@pytest.fixture(scope="module")
def client(trained_root: Path) -> "Iterator[httpx.Client]":
    with serving(trained_root) as served:
        yield served.client()


@pytest.fixture(scope="module")
def project(trained_root: Path) -> Iterator[Project]:
    with open_project(trained_root) as opened:
        yield opened


@pytest.fixture(scope="module")
def data(project: Project) -> LoadedDataset:
    (name,) = {d.name for d in project.store.datasets() if d.test_of is None}
    return load_dataset(project, name)


@pytest.fixture(scope="module")
def source(data: LoadedDataset) -> str:
    return f"{data.version.dataset}@{data.version.number}"


def get(client: "httpx.Client", path: str, **query: Any) -> Any:
    answer = client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


def slices_of(study: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for series in study["series"] for one in series["slices"]]


def test_a_study_has_its_slices_from_head_to_foot_with_labels_and_folds(
    client: "httpx.Client", data: LoadedDataset, source: str
) -> None:
    name = data.slices["study"].iloc[0]
    rows = data.slices[data.slices["study"] == name].set_index("slice_id")
    study = get(client, f"/api/studies/{source}/{name}")
    assert (study["source"], study["study"]) == (source, name)
    assert [len(series["slices"]) for series in study["series"]] == [len(rows)]
    assert study["series"][0]["order"] == "head to foot"
    listed = slices_of(study)
    heights = [rows.loc[one["id"], "pos_z"] for one in listed]
    assert heights == sorted(heights, reverse=True)
    for one in listed:
        row = rows.loc[one["id"]]
        assert one["labels"] == {label: int(row[label]) for label in LABELS}
        assert one["spacing"] == pytest.approx([row["spacing_row"], row["spacing_column"]])
        assert one["position"] == row["position"]
        assert one["side"] == {"left": "R", "right": "L"}
        assert one["fold"] == study["fold"]
        assert "kernel" not in one["header"]  # the phantom has none
    assert [p["of"] for p in study["predictors"]] != []
    assert study["pixels"]["problem"] is None


def test_a_slice_has_the_fields_of_its_header(dataset_copy: Path, serve: Serve) -> None:
    with open_copy(dataset_copy) as store:
        version = store.version("ph")
        path = dataset_copy / version.path / "catalog.parquet"
    catalog = pd.read_parquet(path)
    header = {"manufacturer": "GE", "kernel": "H30s", "kvp": 120.0, "thickness": 5.0, "age": "60-69"}
    catalog.assign(**header, institution="ab12").to_parquet(path)
    with serve(dataset_copy).client() as client:
        study = get(client, f"/api/studies/ph@{version.number}/{catalog['study'].iloc[0]}")
    expected = {"manufacturer": "GE", "kernel": "H30s", "kVp": 120.0, "slice thickness": 5.0, "age": "60-69"}
    for one in slices_of(study):
        assert {name: one["header"].get(name) for name in expected} == expected
        assert "ab12" not in one["header"].values()


def test_pixels_are_those_of_the_cache(
    client: "httpx.Client", project: Project, data: LoadedDataset, source: str
) -> None:
    spec = recipe_spec(from_toml(project.store.experiment(1).recipe))
    cache = find_cache(project.workspace.cache_dir, data.version.dataset, data.slices, spec)
    assert cache is not None
    for row in (0, len(data.slices) // 2, len(data.slices) - 1):
        slice_id = data.slices["slice_id"].iloc[row]
        answer = client.get(f"/api/pixels/{source}/{quote(slice_id, safe='')}", params={"size": spec.size})
        shape = int(answer.headers["X-Rows"]), int(answer.headers["X-Columns"])
        assert shape == (spec.size, spec.size)
        assert np.array_equal(np.frombuffer(answer.content, "<i2").reshape(shape), cache.read(row))
        scale = max(data.slices["rows"].iloc[row], data.slices["columns"].iloc[row]) / spec.size
        expected = data.slices["spacing_row"].iloc[row] * scale
        assert float(answer.headers["X-Spacing"].split(",")[0]) == pytest.approx(expected, rel=1e-5)


def test_several_slices_are_those_of_single_requests(
    client: "httpx.Client", project: Project, data: LoadedDataset, source: str
) -> None:
    size = recipe_spec(from_toml(project.store.experiment(1).recipe)).size
    names = data.slices["slice_id"].iloc[[3, 0, 7]].tolist()
    answer = client.get(f"/api/pixels/{source}", params={"size": size, "slice": names})
    singles = [client.get(f"/api/pixels/{source}/{quote(name, safe='')}", params={"size": size}) for name in names]
    assert answer.content == b"".join(one.content for one in singles)
    assert answer.headers["X-Spacing"] == ";".join(one.headers["X-Spacing"] for one in singles)
    assert (answer.headers["X-Missing"], answer.headers["X-Rows"]) == ("", str(size))
    assert answer.headers["Cache-Control"] == singles[0].headers["Cache-Control"] == "no-store"


def test_a_slice_without_pixels_in_the_cache_is_missing_in_a_block(
    client: "httpx.Client", project: Project, data: LoadedDataset, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = recipe_spec(from_toml(project.store.experiment(1).recipe)).size
    names, read = data.slices["slice_id"].iloc[:3].tolist(), Cache.read

    def damaged(cache: Cache, row: int) -> Any:
        if row == 1:
            raise CorruptFileError("Row 1 is damaged.", "Build the cache again.")
        return read(cache, row)

    monkeypatch.setattr(Cache, "read", damaged)
    answer = client.get(f"/api/pixels/{source}", params={"size": size, "slice": names})
    assert (answer.headers["X-Missing"], len(answer.content)) == ("1", 2 * 2 * size * size)


@pytest.mark.parametrize("count", [0, 17])
def test_too_few_or_many_slices_are_refused(
    client: "httpx.Client", data: LoadedDataset, source: str, count: int
) -> None:
    names = data.slices["slice_id"].iloc[:count].tolist()
    answer = client.get(f"/api/pixels/{source}", params={"slice": names})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_input")


def test_predictions_are_the_stored_ones(
    client: "httpx.Client", project: Project, data: LoadedDataset, source: str
) -> None:
    name = data.slices["study"].iloc[0]
    found = get(client, f"/api/predictions/{source}/{name}", of="experiment:1")
    assert (found["of"], found["out_of_fold"], found["problem"]) == ("experiment:1", True, None)
    curves = {curve["name"]: curve["probabilities"] for curve in found["curves"]}
    for curve, tta in (("CNN", "none"), ("TTA", "hflip")):
        oof = read_oof(project, project.store.experiment(1), tta)
        expected = dict(zip(oof.slice_ids, oof.probabilities, strict=True))
        assert set(curves[curve]) == set(data.slices["slice_id"][data.slices["study"] == name])
        for slice_id, values in curves[curve].items():
            assert values == pytest.approx(expected[slice_id].tolist(), abs=1e-6)


def test_a_slice_redirects_to_its_study_in_the_viewer(client: "httpx.Client", data: LoadedDataset, source: str) -> None:
    slice_id, study = data.slices["slice_id"].iloc[3], data.slices["study"].iloc[3]
    answer = client.get(f"/slices/{source}/{quote(slice_id, safe='')}", params={"of": "experiment:1", "window": "a&b"})
    assert answer.status_code == 303
    assert answer.headers["Location"] == f"/studies/{source}/{study}?slice={slice_id}&of=experiment%3A1&window=a%26b"


BAD = (
    "nothing",
    "..",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "a%00b",
    "'; DROP TABLE run; --",
    "<script>",
    "é" * 300,
    "a%0d%0ab",
)


@pytest.mark.parametrize("bad", BAD)
def test_only_ids_that_a_source_has_are_answered(
    client: "httpx.Client", data: LoadedDataset, source: str, trained_root: Path, bad: str
) -> None:
    study, slice_id = data.slices["study"].iloc[0], data.slices["slice_id"].iloc[0]
    quoted = quote(bad, safe="%")
    urls = [f"/api/studies/{source}/{quoted}", f"/api/pixels/{source}/{quoted}", f"/slices/{source}/{quoted}"]
    urls += [f"/api/predictions/{source}/{quoted}?of=experiment:1"]
    urls += [f"/api/studies/{one}/{study}" for one in (quoted, f"{quoted}@1", f"{data.version.dataset}@{quoted}")]
    urls += [f"/api/pixels/{quoted}/{slice_id}", f"/api/pixels/{quoted}@1?slice={slice_id}"]
    urls += [f"/api/pixels/{source}?slice={slice_id}&slice={quoted}"]
    for url in urls:
        answer = client.get(url)
        assert answer.status_code == 404, url
        assert not url.startswith("/api/") or str(trained_root) not in answer.text
        assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("size", ["", "0", "15", "4097", "-88", "1e3", "88.0", "٨٨", "99999999999"])
def test_invalid_sizes_are_refused(client: "httpx.Client", data: LoadedDataset, source: str, size: str) -> None:
    answer = client.get(f"/api/pixels/{source}/{data.slices['slice_id'].iloc[0]}", params={"size": size})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_input")


@pytest.mark.parametrize("of", ["", "experiment", "experiment:", "experiment:x", "run:1", "experiment:1;", "a" * 500])
def test_invalid_predictors_are_refused(client: "httpx.Client", data: LoadedDataset, source: str, of: str) -> None:
    answer = client.get(f"/api/predictions/{source}/{data.slices['study'].iloc[0]}", params={"of": of})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_input")


def test_no_answer_has_a_path(client: "httpx.Client", data: LoadedDataset, source: str, trained_root: Path) -> None:
    study = get(client, f"/api/studies/{source}/{data.slices['study'].iloc[0]}")
    assert str(trained_root) not in json.dumps(study)
    assert str(data.source) not in json.dumps(study)
    assert not any(file in json.dumps(study) for file in data.slices["file"][:50])
