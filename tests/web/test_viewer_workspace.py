"""The viewer on the studies, pixels, predictions and masks of a real workspace."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import numpy as np
from test_pages import ACCESSIBILITY
from test_viewer import canvas_pixels, expected_pixels, wait_for_slice
from web_site import Serve, Tab

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
