"""The pages of datasets: what they show equals what the commands compute; thumbnails, links, states."""

import re
import shutil
import time
from collections.abc import Callable
from html import unescape
from pathlib import Path

import httpx
import numpy as np
import pytest
from dicom_files import write_ct, write_study
from test_pages import ACCESSIBILITY, LOOKS, OVERFLOW
from web_site import Serve, Tab

from ichx.cache.decode_check import check_dataset
from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import describe_dataset
from ichx.datasets.fold_import import describe_folds, import_folds
from ichx.labels import LABELS
from ichx.project import open_project
from ichx.workspace import init_workspace


def shown(client: httpx.Client, path: str) -> str:
    """Return a page, once nothing of it is being prepared."""
    while True:
        answer = client.get(path)
        assert answer.status_code == 200, answer.text
        if "reloads itself" not in answer.text:
            return answer.text
        time.sleep(0.05)


def rows_of(page: str, region: str) -> list[list[str]]:
    """Return the texts of the cells of the table in a region."""
    part = page[page.index(f'aria-label="{region}"') :]
    body = part[part.index("<tbody>") : part.index("</tbody>")]
    return [
        [unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S)]
        for row in re.findall(r"<tr.*?</tr>", body, re.S)
    ]


@pytest.fixture
def flawed(tmp_path: Path) -> Path:
    """A workspace whose dataset `flawed` has gaps, assumptions, defects and leaky folds."""
    files = tmp_path / "files"
    ids = [i for p in range(8) for i in write_study(files / f"p{p}", str(p), 9)]
    paths = {path.stem: path for path in files.rglob("*.dcm")}
    paths[ids[4]].unlink()  # a gap
    del ids[4]
    write_ct(files / "report.dcm", Modality="SR", SOPInstanceUID="9.1")
    (files / "notes.txt").write_text("patient Jane Doe", encoding="utf-8")
    shutil.copy(paths[ids[20]], files / "z_copy.dcm")
    labelled = [i for i in ids if i != ids[30]]
    positive = set(labelled[::3])
    rows = [f"{i}_{label},{int(i in positive and label in ('any', 'subdural'))}" for i in labelled for label in LABELS]
    (tmp_path / "labels.csv").write_text("ID,Label\n" + "\n".join(rows) + "\n", encoding="utf-8")
    folds = "\n".join(f"{i},{n % 2}" for n, i in enumerate(labelled))
    (tmp_path / "leaky.csv").write_text(f"slice_id,fold\n{folds}\n", encoding="utf-8")
    root = tmp_path / "flawed"
    init_workspace(root)
    with open_project(root) as project:
        add_dataset(project, AddRequest("flawed", files, labels=tmp_path / "labels.csv", folds=3))
        import_folds(project, "flawed", tmp_path / "leaky.csv", allow_leaks=True)
    return root


def test_datasets_and_their_versions_are_listed(flawed: Path, serve: Serve) -> None:
    with serve(flawed).client() as client:
        page = client.get("/data").text
        assert 'href="/data/flawed@2"' in page
        assert 'href="/data/flawed@1"' in page
        answer = client.get("/data/flawed")
        assert answer.status_code == 303
        assert answer.headers["location"] == "/data/flawed@2"
        for unknown in ("flawed@9", "other@1", "other", "flawed@" + "9" * 30):
            assert client.get(f"/data/{unknown}").status_code == 404
        assert "flawed@1" in shown(client, "/data/flawed@2")


def test_folds_and_prevalences_are_those_of_the_commands(flawed: Path, serve: Serve) -> None:
    with open_project(flawed) as project:
        version = project.store.version("flawed")
        fold_sets = describe_folds(project, "flawed")["fold_sets"]
    with serve(flawed).client() as client:
        page = shown(client, "/data/flawed@2")
    labels = {row[0]: row[1:3] for row in rows_of(page, "Positive slices by label")}
    for label, share in version.summary["prevalences"].items():
        assert labels[label] == [str(round(share * version.slices)), f"{share:.2%}".replace("%", " %")]
    for at, described in enumerate(fold_sets, start=1):
        part = page.replace(f'aria-labelledby="folds-{at}"', f'aria-label="folds-{at}"')
        rows = rows_of(part, f"folds-{at}")[1:]
        expected = [
            [
                *(str(fold[name]) for name in ("fold", "patients", "slices")),
                *(f"{100 * fold['prevalences'][label]:.2f} %" for label in LABELS),
            ]
            for fold in described["folds"]
        ]
        assert rows == expected
    (leaky,) = (one for one in fold_sets if one["leaks"])
    assert len(rows_of(page, "Patients in more than one fold of leaky")) == len(leaky["leaks"])
    assert "leaky folds" in page


def test_flags_and_defects_have_thumbnails_and_links(flawed: Path, serve: Serve) -> None:
    with open_project(flawed) as project:
        facts = describe_dataset(project, "flawed")
    with serve(flawed).client() as client:
        page = shown(client, "/data/flawed@2")
        flags = {row[0].split("\n")[0]: row[1:] for row in rows_of(page, "Flags and assumptions")}
        gap = next(one for one in facts["geometry"] if one["flag"] == "gap")
        name = next(head for head in flags if head.startswith("gap"))
        assert flags[name] == [str(gap["series"]), str(gap["slices"])]
        images = [unescape(url) for url in re.findall(r'<img src="([^"]+)"', page)]
        kinds = {"/api/thumbnails/flawed@2/", "/api/excluded-thumbnails/flawed@2/"}
        assert {next(kind for kind in kinds if url.startswith(kind)) for url in images} == kinds
        for url in images:
            answer = client.get(url)
            assert answer.status_code == 200, url
            assert answer.content.startswith(b"\x89PNG\r\n\x1a\n")
        links = re.findall(r'<a href="(/(?:slices|studies)/flawed@2/[^"]+)"><img', page)
        assert len(links) == len(images)
        for link in links:
            assert client.get(unescape(link), follow_redirects=True).status_code == 200
        counts = {row[0].split("\n")[0]: int(row[-1]) for row in rows_of(page, "Defects")}
        found = {one["reason"].replace("_", " "): one["files"] for one in facts["defects"]}
        assert {name: next(n for head, n in counts.items() if head.startswith(name)) for name in found} == found
        assert {"no label", "duplicate instance", "not ct", "not dicom"} <= set(found)
        assert client.get("/api/excluded-thumbnails/flawed@2/99").status_code == 404


def test_no_name_of_a_file_is_shown(flawed: Path, serve: Serve) -> None:
    with serve(flawed).client() as client:
        page = shown(client, "/data/flawed@2")
    main = page[page.index("<main") :]
    for name in ("notes.txt", "report.dcm", "z_copy", ".dcm", "Jane", str(flawed.parent)):
        assert name not in main


def test_a_decode_check_updates_the_page(flawed: Path, serve: Serve) -> None:
    with open_project(flawed) as project:
        source = Path(project.store.version("flawed").source)
    first = sorted(source.rglob("ID_*.dcm"))[0]
    with serve(flawed).client() as client:
        assert "ichx data check flawed" in shown(client, "/data/flawed@2")
        with open_project(flawed) as project:
            checked = check_dataset(project, "flawed")
        page = shown(client, "/data/flawed@2")
        assert f"{checked['found']} found = {checked['slices']} slices" in page
        assert "ichx data check flawed" not in page
        first.unlink()  # without its file, a slice has no thumbnail, but the page works
        assert "found = " in shown(client, "/data/flawed@2")


def test_caches_and_missing_ones(flawed: Path, trained_root: Path, trained_copy: Path, serve: Serve) -> None:
    with serve(flawed).client() as client:
        assert "ichx data cache flawed --size 378" in shown(client, "/data/flawed@2")
    with serve(trained_root).client() as client:
        page = shown(client, "/data/ph@1")
        assert {row[0] for row in rows_of(page, "Caches")} == {"32"}
        assert "ichx data cache" not in page
    shutil.rmtree(trained_copy / "cache")
    with serve(trained_copy).client() as client:
        page = shown(client, "/data/ph@1")
        number = re.search(r"ichx data cache ph --for (\d+)", page)
        assert number is not None
        assert int(number[1]) in (1, 2, 3)


def test_a_removed_catalog_is_reported_next_to_the_summary(trained_copy: Path, serve: Serve) -> None:
    for file in trained_copy.glob("datasets/ph/v1/catalog.parquet"):
        file.unlink()
    with serve(trained_copy).client() as client:
        page = shown(client, "/data/ph@1")
    assert "catalog.parquet" in page
    assert "Restore the file" in page
    assert rows_of(page, "Positive slices by label")
    assert str(trained_copy) not in page[page.index("<main") :]


def test_a_test_set_links_to_its_training_set(trained_root: Path, serve: Serve) -> None:
    with serve(trained_root).client() as client:
        test, train = shown(client, "/data/ph-test@1"), shown(client, "/data/ph@1")
    assert '<a href="/data/ph">ph</a>' in test
    assert '<a href="/data/ph-test">ph-test</a>' in train
    assert "Folds" not in test[test.index("<main") :]


@pytest.mark.parametrize("look", LOOKS)
def test_flags_and_defects_in_a_browser(flawed: Path, serve: Serve, tab: Callable[..., Tab], look: str) -> None:
    page = tab(serve(flawed), **LOOKS[look]).open("/data/flawed@2")
    page.locator("#headers").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), page.evaluate(OVERFLOW)
    assert page.evaluate(ACCESSIBILITY) == []
    image = page.locator(".examples img").first
    image.scroll_into_view_if_needed()
    assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 96
    image.click()
    page.wait_for_url("**/studies/flawed@2/**")
    page.go_back()
    assert page.locator("h1").inner_text() == "flawed version 2"


def test_studies_fit_the_window(trained_root: Path, flawed: Path, serve: Serve, tab: Callable[..., Tab]) -> None:
    for root, source in ((trained_root, "ph@1"), (flawed, "flawed@2")):
        page = tab(serve(root), **LOOKS["desktop"]).open(f"/studies?source={source}&of=experiment:1")
        page.locator(".studies tbody tr").first.wait_for()
        assert page.evaluate("(e => e.scrollWidth <= e.clientWidth)(document.querySelector('.scroll'))")
        heights = page.evaluate("[...document.querySelectorAll('.studies tbody tr')].map(row => row.offsetHeight)")
        assert np.median(heights) < 40
        assert "?of=experiment%3A1" in str(page.locator(".studies tbody a").first.get_attribute("href"))
