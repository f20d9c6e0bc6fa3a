"""The viewer on the studies, pixels, predictions and masks of a real workspace."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from simulated_run import open_copy
from test_pages import ACCESSIBILITY
from test_store_states import execute
from test_viewer import canvas_pixels, expected_pixels, wait_for_slice
from web_site import Serve, Served, Tab, first_study

from ichx.labels import LABELS


def test_a_study_shows_the_cached_pixels_and_the_stored_probabilities(
    trained_root: Path, serve: Serve, tab: Callable[..., Tab]
) -> None:
    served = serve(trained_root)
    opened = tab(served)
    page = opened.open("/studies?open=first")
    page.wait_for_url("**/studies/*/*")
    page.wait_for_selector(".stage")
    path = page.evaluate("location.pathname")
    with served.client() as client:
        study = client.get(f"/api{path}").json()
        source = quote(study["source"], safe="@")
        of = study["predictors"][0]["of"]
        found = client.get(f"/api/predictions/{path.removeprefix('/studies/')}", params={"of": of}).json()
        slices = study["series"][0]["slices"]
        size = max(study["pixels"]["sizes"])
        last = slices[-1]["id"]
        answer = client.get(f"/api/pixels/{source}/{quote(last, safe='')}", params={"size": size})
    hu = np.frombuffer(answer.content, "<i2").reshape(size, size)
    page.goto(f"{served.url}{path}?slice={quote(last)}&of={of}&window=80:200")
    wait_for_slice(page, last)
    np.testing.assert_array_equal(canvas_pixels(page), expected_pixels(hu, (80, 200)))
    curve = found["curves"][-1]
    page.wait_for_selector(f"[data-curve='{curve['name']}']")
    rows = page.locator("#probabilities tbody tr").all_inner_texts()
    wanted = [f"{value:.3f}" for value in curve["probabilities"][last]]
    assert [row.split("\t")[-1].strip() for row in rows] == wanted
    assert [row.split("\t")[0].strip() for row in rows] == list(LABELS)
    truth = slices[-1]["labels"]
    assert [row.split("\t")[1].strip() for row in rows] == ["yes" if truth[label] else "no" for label in LABELS]
    assert page.evaluate(ACCESSIBILITY) == []


def _study(served: Served) -> tuple[str, str, dict[str, Any]]:
    """Return the path of a study, the source as in URLs, and the last slice."""
    with served.client() as client:
        path = first_study(client)
        study = client.get(f"/api{path}").json()
    return path, quote(study["source"], safe="@"), study["series"][0]["slices"][-1]


def test_without_a_cache_files_are_decoded_and_the_command_that_builds_one_is_shown(
    trained_copy: Path, serve: Serve, tab: Callable[..., Tab]
) -> None:
    shutil.rmtree(trained_copy / "cache")
    served = serve(trained_copy)
    path, source, last = _study(served)
    page = tab(served).open(f"{path}?slice={quote(last['id'])}&window=bone")
    wait_for_slice(page, last["id"])
    assert page.locator("#notice code").inner_text() == "ichx data cache ph --size 378"
    with served.client() as client:
        answer = client.get(f"/api/pixels/{source}/{quote(last['id'], safe='')}")
    hu = np.frombuffer(answer.content, "<i2").reshape(last["rows"], last["columns"])
    np.testing.assert_array_equal(canvas_pixels(page), expected_pixels(hu, (600, 2800)))


def test_a_damaged_cache_is_reported_for_its_slices_and_the_page_stays_usable(
    trained_copy: Path, serve: Serve, tab: Callable[..., Tab], caplog: pytest.LogCaptureFixture
) -> None:
    for shard in (trained_copy / "cache").rglob("*.shard"):
        shard.write_bytes(b"garbage" * 100)
    served = serve(trained_copy)
    path, _, last = _study(served)
    page = tab(served, allow_errors=True).open(f"{path}?slice={quote(last['id'])}")
    page.wait_for_selector(".message:visible")
    message = page.locator(".message").inner_text()
    assert "ichx data cache" in message
    assert str(trained_copy) not in message
    assert page.locator(".frame:visible").count() == 0
    page.keyboard.press("Home")
    page.wait_for_function("() => document.querySelector('#slider').value === '0'")
    page.wait_for_selector(".message:visible")
    assert "Traceback" not in caplog.text


def test_slices_whose_files_have_vanished_are_reported(
    trained_copy: Path, serve: Serve, tab: Callable[..., Tab]
) -> None:
    shutil.rmtree(trained_copy / "cache")
    with open_copy(trained_copy) as store:
        files = Path(shutil.copytree(store.version("ph", 1).source, trained_copy / "files"))
    execute(trained_copy / "db" / "ichx.db", f"UPDATE dataset_version SET source = '{files}'")
    served = serve(trained_copy)
    path, _, last = _study(served)
    shutil.rmtree(files)
    page = tab(served, allow_errors=True).open(f"{path}?slice={quote(last['id'])}")
    page.wait_for_selector(".message:visible")
    assert str(trained_copy) not in page.locator(".message").inner_text()
    assert page.locator("#slider").is_visible()
