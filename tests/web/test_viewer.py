"""The viewer of a study in a real browser: pixels, keys, gestures, and what happens without some of the data."""

import json

import numpy as np
from fake_studies import SOURCE, STUDY, ServeStudies, hu_of, probabilities
from viewer_pages import (
    PATH,
    READ,
    OpenTab,
    canvas_pixels,
    expected_pixels,
    query_of,
    wait_for_query,
    wait_for_slice,
)

from ichx.labels import LABELS


def test_keys_wheel_slider_and_strip_choose_the_slice(serve_studies: ServeStudies, tab: OpenTab) -> None:
    served, _ = serve_studies(count=9)
    page = tab(served).open(f"{PATH}?of=experiment:1")
    wait_for_slice(page, "a4")
    for key, name in {
        "ArrowDown": "a5", "ArrowLeft": "a4", "PageUp": "a0", "ArrowUp": "a0", "PageDown": "a5", "End": "a8",
        "ArrowRight": "a8", "Home": "a0",
    }.items():  # fmt: skip
        page.keyboard.press(key)
        wait_for_slice(page, name)
        wait_for_query(page, "slice", name)
    page.locator(".stage").hover()
    page.mouse.wheel(0, 100)
    wait_for_slice(page, "a1")
    page.mouse.wheel(0, 100)
    wait_for_slice(page, "a2")
    page.mouse.wheel(0, -100)
    wait_for_slice(page, "a1")
    page.locator("#slider").fill("6")
    wait_for_slice(page, "a6")
    page.locator("#slider").focus()
    page.keyboard.press("ArrowDown")  # the next slice, as elsewhere
    wait_for_slice(page, "a7")
    page.get_by_role("button", name="Previous slice").click()
    wait_for_slice(page, "a6")
    strip = page.locator(".strip svg")
    box = strip.bounding_box()
    assert box is not None
    page.mouse.click(box["x"] + 118 + (box["width"] - 128) * 2.5 / 9, box["y"] + 60)
    wait_for_slice(page, "a2")
    np.testing.assert_array_equal(canvas_pixels(page), expected_pixels(hu_of(2), (40, 80)))
    page.locator("[name=note]").fill("n")
    page.locator("[name=note]").press("ArrowDown")
    page.locator("[name=note]").press("5")
    assert query_of(page).get("window") == "brain"
    wait_for_slice(page, "a2")


def test_back_returns_to_the_slice_the_window_and_the_predictions(serve_studies: ServeStudies, tab: OpenTab) -> None:
    served, _ = serve_studies(count=9)
    page = tab(served).open(f"{PATH}?slice=a2&of=ensemble:2")
    wait_for_slice(page, "a2")
    page.keyboard.press("ArrowDown")
    wait_for_slice(page, "a3")
    page.keyboard.press("5")
    page.keyboard.press("End")
    wait_for_slice(page, "a8")
    page.locator("#first").select_option("experiment:1")
    page.locator("#second").select_option("ensemble:2")
    assert page.locator(".stage").count() == 2
    assert page.evaluate("new URLSearchParams(location.search).getAll('of')") == ["experiment:1", "ensemble:2"]
    page.go_back()
    page.wait_for_function("() => document.querySelectorAll('.stage').length === 1")
    assert page.locator("#second").input_value() == ""
    page.go_back()
    page.go_back()
    wait_for_slice(page, "a3")
    assert page.locator("#window").input_value() == "bone"
    np.testing.assert_array_equal(canvas_pixels(page), expected_pixels(hu_of(3), (600, 2800)))
    page.go_back()
    wait_for_slice(page, "a3")
    np.testing.assert_array_equal(canvas_pixels(page), expected_pixels(hu_of(3), (40, 80)))
    page.go_forward()
    page.reload()
    wait_for_slice(page, "a3")
    np.testing.assert_array_equal(canvas_pixels(page), expected_pixels(hu_of(3), (600, 2800)))


def test_two_experiments_are_shown_in_step(serve_studies: ServeStudies, tab: OpenTab) -> None:
    served, fake = serve_studies(count=9)
    page = tab(served).open(f"{PATH}?slice=a4&of=experiment:1&of=ensemble:2&overlay=heat&label=subdural")
    wait_for_slice(page, "a4")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.stage')].every((one) => one.dataset.overlay === 'heat')"
    )
    legends = page.locator(".overlay-legend").all_inner_texts()
    assert all("Grad-CAM of subdural" in one and "0.25" in one for one in legends)
    assert any("of=ensemble%3A2" in one and "/a4?" in one for one in fake.requests if "overlays" in one)
    colours = [
        page.locator("canvas.overlay").nth(i).evaluate(READ)[2][4 * (8 * 3 + 3) : 4 * (8 * 3 + 3) + 4] for i in (0, 1)
    ]
    assert colours[0] != colours[1]
    assert page.locator(".pane").nth(1).get_by_text("not out-of-fold").count() == 1
    assert page.locator(".pane").nth(0).get_by_text("not out-of-fold").count() == 0
    page.locator(".stage").nth(1).hover()
    page.mouse.wheel(0, 100)
    wait_for_slice(page, "a5")
    np.testing.assert_array_equal(canvas_pixels(page, 0), canvas_pixels(page, 1))
    cursors = page.locator(".chart .now")
    assert cursors.nth(0).get_attribute("d") == cursors.nth(1).get_attribute("d")
    page.keyboard.press("+")
    zooms = page.locator(".stage").evaluate_all("all => all.map((one) => one.dataset.zoom)")
    assert zooms == ["1.250", "1.250"]
    rows = page.locator("#probabilities tr").all_inner_texts()
    assert rows[0].split("\t") == ["label", "truth", "A: smoothed", "B: ensemble"]
    assert rows[6].split() == ["any", "yes", f"{probabilities(5, 2)[5]:.3f}", f"{probabilities(5, 0)[5]:.3f}"]
    page.get_by_role("checkbox", name="CNN").check()
    assert query_of(page)["curves"] == "CNN,smoothed,ensemble"
    assert page.locator(".pane").nth(0).locator("[data-curve=CNN]").count() == len(LABELS)
    page.get_by_role("checkbox", name="epidural").uncheck()
    assert page.locator("[data-curve=CNN][data-label=epidural]").count() == 0
    page.go_back()
    page.wait_for_function("() => document.querySelectorAll('[data-curve=CNN][data-label=epidural]').length === 1")
    page.keyboard.press("o")
    page.wait_for_function("() => [...document.querySelectorAll('.stage')].every((one) => one.dataset.overlay === '')")
    ticks = page.locator(".pane").nth(0).locator("[data-truth=subdural] path")
    assert ticks.count() == 5


def test_masks_are_requested_only_for_slices_that_have_one(serve_studies: ServeStudies, tab: OpenTab) -> None:
    served, fake = serve_studies(count=9)
    page = tab(served).open(f"{PATH}?slice=a3&overlay=mask")
    wait_for_slice(page, "a3")
    assert "no mask" in page.locator(".overlay-legend").inner_text()
    page.keyboard.press("ArrowDown")
    page.wait_for_function("() => document.querySelector('.stage').dataset.overlay === 'mask'")
    assert "marked by a reader" in page.locator(".overlay-legend").inner_text()
    assert [one.partition("?")[0] for one in fake.requests if "overlays" in one] == ["/overlays/a4"]
    page.locator("#opacity").fill("30")
    assert page.locator("canvas.overlay").evaluate("one => one.style.opacity") == "0.3"


def test_touch_scrolls_slices_and_two_fingers_zoom_or_change_the_window(
    serve_studies: ServeStudies, tab: OpenTab
) -> None:
    served, _ = serve_studies(count=30)
    opened = tab(served, viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True)
    page = opened.open(f"{PATH}?slice=a10&of=experiment:1&of=ensemble:2")
    wait_for_slice(page, "a10")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.locator(".stage").first.scroll_into_view_if_needed()
    box = page.locator(".stage").first.bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    session = page.context.new_cdp_session(page)

    def touch(*steps: list[tuple[float, float]]) -> None:
        for number, points in enumerate(steps):
            kind = "touchStart" if number == 0 else "touchMove"
            touches = [{"x": x + dx, "y": y + dy, "id": i} for i, (dx, dy) in enumerate(points)]
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": touches})
        session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    touch([(0, -40)], [(0, -20)], [(0, 0)], [(0, 30)])
    page.wait_for_function("() => Number(document.querySelector('#slider').value) > 12")
    shown = page.locator(".stage").first.get_attribute("data-shown")
    touch([(-20, 0), (20, 0)], [(-30, 0), (30, 0)], [(-50, 0), (50, 0)])
    page.wait_for_function("() => Number(document.querySelector('.stage').dataset.zoom) > 1.3")
    touch([(-20, 0), (20, 0)], [(-10, 10), (30, 10)], [(0, 20), (40, 20)], [(10, 30), (50, 30)])
    page.wait_for_function("() => document.querySelector('#window').value === ''")
    assert int(page.locator("#width").input_value()) > 80
    assert int(page.locator("#centre").input_value()) > 40
    touch([(0, 0)], [(15, 0)], [(30, 0)])  # moves the zoomed image
    assert page.locator(".stage").first.get_attribute("data-shown") == shown
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_unknown_sides_and_spacings_are_not_guessed(serve_studies: ServeStudies, tab: OpenTab) -> None:
    nothing = {"side": None, "spacing": None, "header_window": None, "position": None, "thickness": None}
    served, _ = serve_studies(count=3, facts={**nothing, "labels": None})
    page = tab(served).open(f"{PATH}?slice=a1&window=file&of=experiment:1")
    wait_for_slice(page, "a1")
    assert page.locator(".side:visible, .ruler:visible").count() == 0
    np.testing.assert_array_equal(canvas_pixels(page), expected_pixels(hu_of(1), (40, 80)))
    facts = page.locator("#facts").inner_text()
    assert facts.count("unknown") == 4
    assert page.locator("#probabilities td.truth").first.inner_text() == "–"
    assert page.locator("[data-truth]").count() == 0
    page.locator("#first").select_option("")
    page.wait_for_selector(".pane h2:has-text('Image')")
    assert page.locator(".strip:visible, .switches:visible").count() == 0


def test_unknown_and_soft_labels_and_pseudo_labels_are_explained(serve_studies: ServeStudies, tab: OpenTab) -> None:
    known = dict.fromkeys(LABELS) | {"subdural": 0.25, "any": 1.0}
    why = {label: "its study alone is positive" for label in LABELS if known[label] is None}
    served, fake = serve_studies(count=3, facts={"labels": known, "unknown": why})
    fake.changes["positive"] = ["epidural"]
    page = tab(served).open(f"{PATH}?slice=a1")
    wait_for_slice(page, "a1")
    assert page.locator("#probabilities td.truth").all_inner_texts() == ["–", "–", "–", "–", "0.25", "yes"]
    assert page.locator("#probabilities td.yes").count() == 1
    note = page.locator("#unknown-labels").inner_text()
    assert note.count("its study alone is positive") == 1
    assert "subdural" not in note
    assert page.locator("[data-truth=subdural] .tick, [data-truth=epidural] .tick").count() == 0
    assert page.locator("[data-truth=epidural] .unknown").count() == 3
    assert page.locator("[data-truth=any] .tick").count() == 3
    assert "labels of the study: epidural" in page.locator("#summary").inner_text()
    fake.facts = {
        "labels": None,
        "unknown": dict.fromkeys(LABELS, "no"),
        "pseudo": {"any": [0.25, 0.75], "subdural": [0.5, 0.5]},
    }
    page.reload()
    wait_for_slice(page, "a1")
    assert page.locator("#probabilities td.truth").all_inner_texts() == ["–", "–", "–", "–", "0.500", "0.250 to 0.750"]
    assert "pseudo-label" in page.locator("#probabilities thead").inner_text()
    assert "never scored" in page.locator("#unknown-labels").inner_text()


def test_sides_are_those_of_the_slice(serve_studies: ServeStudies, tab: OpenTab) -> None:
    served, _ = serve_studies(count=3, facts={"side": {"left": "L", "right": "R"}})
    page = tab(served).open(f"{PATH}?slice=a1")
    wait_for_slice(page, "a1")
    assert page.locator(".side.left").inner_text() == "L"
    assert page.locator(".side.right").inner_text() == "R"


def test_the_viewer_waits_until_the_source_is_indexed(serve_studies: ServeStudies, tab: OpenTab) -> None:
    served, fake = serve_studies(count=3, indexing=["Reading headers: 1 of 3.", "Reading headers: 2 of 3."])
    page = tab(served, allow_errors=True).open(f"{PATH}?slice=a1")
    page.wait_for_function("() => document.querySelector('#summary').textContent.includes('2 of 3')")
    wait_for_slice(page, "a1")
    assert page.locator("#notice:visible").count() == 0
    assert fake.indexing == []


def test_an_overlay_that_does_not_exist_shows_why(serve_studies: ServeStudies, tab: OpenTab) -> None:
    served, fake = serve_studies(count=3)
    opened = tab(served, allow_errors=True)
    page = opened.open(f"{PATH}?slice=a1&of=experiment:1&overlay=predicted_mask")
    page.wait_for_function("() => document.querySelector('.overlay-legend').textContent.includes('predicts no masks')")
    assert any("kind=predicted_mask" in one and "size=32" in one for one in fake.requests)
    wait_for_slice(page, "a1")
    assert page.locator("canvas.overlay:visible").count() == 0
    page.locator("#overlay").select_option("heat")
    page.wait_for_selector("canvas.overlay:visible")
    page.locator("#first").select_option("")
    page.wait_for_function("() => document.querySelectorAll('canvas.overlay:not([hidden])').length === 0")


def test_files_are_predicted_on_request(serve_studies: ServeStudies, tab: OpenTab) -> None:
    served, fake = serve_studies(count=3, read_only=True)
    fake.states = [
        {"state": "none"},
        {"state": "failed", "problem": "Experiment 1 has no weights.", "remedy": "Run it."},
        {"state": "running", "what": "slices", "done": 1, "total": 3},
        {"state": "done"},
    ]
    page = tab(served).open(f"/studies/folder@1/{STUDY}?slice=a1&of=experiment:1")
    wait_for_slice(page, "a1")
    button = page.get_by_role("button", name="Predict with experiment 1")
    button.click()
    page.wait_for_selector(".strip-note .problem")
    assert "has no weights" in page.locator(".strip-note").inner_text()
    assert fake.requests.count("POST experiment:1") == 1
    button.click()
    page.wait_for_selector("[data-curve=smoothed]")
    assert fake.requests.count("POST experiment:1") == 2
    assert page.locator("#reviews:visible").count() == 0
    wait_for_slice(page, "a1")


def test_several_series_are_chosen_by_name_and_found_by_slice(serve_studies: ServeStudies, tab: OpenTab) -> None:
    served, fake = serve_studies(count=4)
    both = [
        {"series": name, "flags": ["gap"] * i, "order": "unknown", "slices": fake.slices(i)}
        for i, name in enumerate(("series-a", "series-b"))
    ]
    fake.changes["series"] = both
    page = tab(served).open(f"{PATH}?slice=b2")
    wait_for_slice(page, "b2")
    assert page.locator("#series").input_value() == "1"
    np.testing.assert_array_equal(canvas_pixels(page), expected_pixels(hu_of(102), (40, 80)))
    assert "gap" in page.locator("#facts").inner_text()
    page.locator("#series").select_option("0")
    wait_for_slice(page, "a1")
    assert query_of(page)["series"] == "series-a"
    page.go_back()
    wait_for_slice(page, "b2")


def test_screen_readers_get_number_id_and_probabilities(serve_studies: ServeStudies, tab: OpenTab) -> None:
    served, _ = serve_studies(count=9)
    page = tab(served).open(f"{PATH}?slice=a4&of=experiment:1")
    wait_for_slice(page, "a4")
    page.wait_for_selector("[data-curve=smoothed]")
    page.keyboard.press("ArrowDown")
    wanted = f"subdural {probabilities(5, 2)[4]:.3f}"
    page.wait_for_function("wanted => document.querySelector('#status').textContent.includes(wanted)", arg=wanted)
    for text in (
        page.locator("#status").inner_text(),
        page.locator(".stage").get_attribute("aria-label"),
        page.locator("#slider").get_attribute("aria-valuetext"),
    ):
        assert text is not None
        assert text.startswith("Slice 6 of 9, a5")
        assert "labels: subdural, any" in text


def test_the_help_lists_the_keys_and_switches_single_ones_off(serve_studies: ServeStudies, tab: OpenTab) -> None:
    served, _ = serve_studies(count=9)
    page = tab(served).open(f"{PATH}?slice=a4")
    wait_for_slice(page, "a4")
    page.keyboard.press("?")
    dialog = page.locator("#help")
    assert {"Home", "0 r", "5", "?"} <= set(dialog.locator("tbody th").all_inner_texts())
    dialog.locator("#single-keys").uncheck()
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    page.keyboard.press("5")
    page.keyboard.press("ArrowDown")
    wait_for_slice(page, "a5")
    assert page.locator("#window").input_value() == "brain"
    wait_for_query(page, "slice", "a5")
    page.reload()
    wait_for_slice(page, "a5")
    page.get_by_role("button", name="Keys").click()
    assert not page.locator("#single-keys").is_checked()


def test_a_review_is_saved_and_shown(serve_studies: ServeStudies, tab: OpenTab) -> None:
    served, fake = serve_studies(count=9)
    page = tab(served).open(f"{PATH}?slice=a4")
    wait_for_slice(page, "a4")
    note = "<img src=x onerror=alert(1)> blood?"
    page.locator("[name=finding]").select_option("label wrong")
    page.locator("#reviews [name=label]").select_option("epidural")
    page.locator("[name=note]").fill(note)
    page.locator("[name=reader]").fill("AB")
    page.get_by_role("button", name="Save review").click()
    page.wait_for_selector("#reviews li")
    assert fake.reviews == [
        {"source": SOURCE, "slice": "a4", "finding": "label wrong", "label": "epidural", "note": note, "reader": "AB"}
    ]
    assert page.locator("#reviews li").inner_text() == f"label wrong · epidural · {note} · (AB) Withdraw"
    assert page.locator("[data-truth=reviews] path").count() == 1
    page.locator(".stage").focus()
    page.keyboard.press("ArrowDown")
    wait_for_slice(page, "a5")
    assert page.locator("#reviews li").count() == 0
    page.keyboard.press("ArrowUp")
    page.get_by_role("button", name="Withdraw").click()
    page.wait_for_function("() => document.querySelectorAll('[data-truth=reviews]').length === 0")
    assert page.locator("#reviews li").count() == 0


def test_a_read_only_site_has_no_form_for_reviews(serve_studies: ServeStudies, tab: OpenTab) -> None:
    served, _ = serve_studies(count=3, read_only=True)
    page = tab(served).open(f"{PATH}?slice=a1")
    wait_for_slice(page, "a1")
    assert page.locator("#reviews form").count() == 0


def test_ids_flags_and_messages_are_shown_as_text(serve_studies: ServeStudies, tab: OpenTab) -> None:
    bad = '</script><img src=x onerror="window.hit=1">\'&`{{7*7}}'
    served, fake = serve_studies(count=3, facts={"flags": [bad]})
    fake.changes = {
        "patient": bad,
        "defects": [{"defect": bad, "detail": bad}],
        "series": [{"series": bad, "flags": [bad], "order": bad, "slices": fake.slices()}] * 2,
        "predictors": [{"of": "experiment:1", "name": bad, "score": 0.1, "folds": []}],
        "pixels": {"sizes": [32], "version": bad, "problem": bad, "remedy": bad},
    }
    page = tab(served).open(f"{PATH}?slice=a1&of=experiment:1&series={json.dumps(bad)}")
    wait_for_slice(page, "a1")
    page.wait_for_selector("[data-curve=smoothed]")
    assert page.evaluate("window.hit") is None
    assert page.locator("main img").count() == 0
    assert bad in page.locator("#facts").inner_text()
    assert bad in page.locator(".pane h2").inner_text()
    opened = tab(served, allow_errors=True)
    opened.page.goto(f"{served.url}/studies/%3Cb%3Ex%3Cscript%3E@1/%22%3E%3Cimg%20src=x%3E")
    opened.page.wait_for_selector("#notice:visible")
