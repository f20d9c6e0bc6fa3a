"""The viewer of a study in a real browser: pixels, keys, gestures, and what happens without some of the data."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest
from fake_studies import SOURCE, STUDY, ServeStudies, hu_of, probabilities
from web_site import Tab

from ichx.ct.windows import windows_numpy
from ichx.labels import LABELS

if TYPE_CHECKING:
    from playwright.sync_api import Page

OpenTab = Callable[..., Tab]
PATH = f"/studies/{SOURCE}/{STUDY}"
READ = """(canvas) => {
  const copy = document.createElement("canvas");
  [copy.width, copy.height] = [canvas.width, canvas.height];
  const context = copy.getContext("2d");
  context.drawImage(canvas, 0, 0);
  return [canvas.height, canvas.width, Array.from(context.getImageData(0, 0, copy.width, copy.height).data)];
}"""
SOFTWARE_GL = """const original = WebGL2RenderingContext.prototype.getExtension;
WebGL2RenderingContext.prototype.getExtension = function (name) {
  return name === "WEBGL_debug_renderer_info" ? null : original.call(this, name);
};"""
NO_GL = """const original = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, options) {
  return kind.startsWith("webgl") ? null : original.call(this, kind, options);
};"""


def canvas_pixels(page: "Page", pane: int = 0) -> npt.NDArray[np.uint8]:
    """Return the red values of the canvas `(rows, columns)`; asserts that the pixels are opaque grey."""
    rows, columns, values = page.locator(".stage canvas.pixels").nth(pane).evaluate(READ)
    rgba = np.array(values, np.uint8).reshape(rows, columns, 4)
    assert (rgba[..., :3] == rgba[..., :1]).all()
    assert (rgba[..., 3] == 255).all()
    return rgba[..., 0]


def expected_pixels(
    hu: npt.NDArray[np.int16], window: tuple[float, float], shape: str = "linear"
) -> npt.NDArray[np.uint8]:
    """Return what `ichx.ct.windows` makes of a slice, in grey levels."""
    return np.rint(255 * windows_numpy(hu, (35, 90), [window], shape)[0]).astype(np.uint8)


def wait_for_slice(page: "Page", name: str) -> None:
    """Wait until each pane shows a slice."""
    page.wait_for_function(
        """name => {
          const stages = [...document.querySelectorAll('.stage')];
          return stages.length > 0 && stages.every((one) => one.dataset.shown === name);
        }""",
        arg=name,
    )


def query_of(page: "Page") -> dict[str, Any]:
    """Return the parameters of the URL."""
    return page.evaluate("Object.fromEntries(new URLSearchParams(location.search))")  # type: ignore[no-any-return]


def wait_for_query(page: "Page", name: str, value: str | None) -> None:
    """Wait until a parameter of the URL has a value."""
    page.wait_for_function(
        "([name, value]) => new URLSearchParams(location.search).get(name) === value", arg=[name, value]
    )


@pytest.mark.parametrize(("script", "painter"), [(SOFTWARE_GL, "webgl2"), (NO_GL, "2d")])
@pytest.mark.parametrize("shape", [(32, 32), (33, 31)])
def test_the_canvas_has_the_pixels_of_the_windows(
    serve_studies: ServeStudies, tab: OpenTab, script: str, painter: str, shape: tuple[int, int]
) -> None:
    served, _ = serve_studies(shape=shape, count=3)
    opened = tab(served)
    opened.page.add_init_script(script)
    page = opened.open(f"{PATH}?slice=a0")
    wait_for_slice(page, "a0")
    assert page.locator(".stage").get_attribute("data-painter") == painter
    windows = {"1": (-1, -1), "2": (40, 80), "3": (80, 200), "4": (40, 40), "5": (600, 2800)}
    for index in (0, 1, 2):
        for key, window in windows.items():
            page.keyboard.press(key)
            for sigmoid in (False, True):
                if sigmoid:
                    page.keyboard.press("s")
                shown = canvas_pixels(page)
                wanted = expected_pixels(hu_of(index, shape), window, "sigmoid" if sigmoid else "linear")
                np.testing.assert_allclose(shown.astype(int), wanted.astype(int), rtol=0, atol=int(sigmoid))
                assert (shown != wanted).mean() < 0.001
            page.keyboard.press("s")
        page.keyboard.press("ArrowDown")
        wait_for_slice(page, f"a{min(index + 1, 2)}")


@pytest.mark.parametrize("window", [(-32768, 1), (32767, 1), (0, 65535), (-2000, 2), (7, 3)])
def test_extreme_windows_of_the_url_give_the_pixels_of_the_windows(
    serve_studies: ServeStudies, tab: OpenTab, window: tuple[int, int]
) -> None:
    served, _ = serve_studies(count=2)
    page = tab(served).open(f"{PATH}?slice=a0&window={window[0]}:{window[1]}")
    wait_for_slice(page, "a0")
    np.testing.assert_array_equal(canvas_pixels(page), expected_pixels(hu_of(0), window))
    assert page.locator("#centre").input_value() == str(window[0])


def test_a_change_of_the_window_makes_no_request_and_reaches_the_url(serve_studies: ServeStudies, tab: OpenTab) -> None:
    served, _ = serve_studies()
    page = tab(served).open(f"{PATH}?slice=a4&of=experiment:1")
    wait_for_slice(page, "a4")
    page.wait_for_load_state("networkidle")
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.keyboard.press("5")
    assert query_of(page)["window"] == "bone"
    page.locator("#more > summary").click()
    page.locator("#centre").fill("50")
    page.locator("#centre").press("Enter")
    page.locator("#width").fill("130")
    page.locator("#width").press("Enter")
    assert query_of(page)["window"] == "50:130"
    np.testing.assert_array_equal(canvas_pixels(page), expected_pixels(hu_of(4), (50, 130)))
    box = page.locator(".stage").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 200, box["y"] + 200)
    page.mouse.down(button="right")
    page.mouse.move(box["x"] + 260, box["y"] + 170, steps=3)
    page.mouse.up(button="right")
    page.wait_for_function("() => new URLSearchParams(location.search).get('window') !== '50:130'")
    centre, width = map(int, query_of(page)["window"].split(":"))
    assert centre < 50
    assert width > 130
    np.testing.assert_array_equal(canvas_pixels(page), expected_pixels(hu_of(4), (centre, width)))
    assert page.locator("#window").input_value() == ""
    page.keyboard.down("Shift")
    page.mouse.down()
    page.mouse.move(box["x"] + 100, box["y"] + 170, steps=3)
    page.mouse.up()
    page.keyboard.up("Shift")
    wait_for_slice(page, "a4")
    assert int(page.locator("#width").input_value()) < width
    page.keyboard.press("1")
    np.testing.assert_array_equal(canvas_pixels(page), expected_pixels(hu_of(4), (35, 90)))
    assert requests == []


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


def test_zoom_keeps_the_point_under_the_pointer_and_the_scale_is_in_mm(
    serve_studies: ServeStudies, tab: OpenTab
) -> None:
    served, _ = serve_studies(count=3, shape=(40, 20), facts={"spacing": [0.5, 2.0]})
    page = tab(served).open(f"{PATH}?slice=a1")
    wait_for_slice(page, "a1")
    frame = page.locator(".frame").bounding_box()
    assert frame is not None
    assert frame["width"] / frame["height"] == pytest.approx((20 * 2.0) / (40 * 0.5), rel=0.01)

    def pixels_per_mm() -> float:
        bar = page.locator(".ruler i").bounding_box()
        assert bar is not None
        return float(bar["width"]) / float(page.locator(".ruler span").inner_text().removesuffix(" mm"))

    assert pixels_per_mm() == pytest.approx(frame["width"] / 40, rel=0.02)
    x, y = frame["x"] + frame["width"] / 4, frame["y"] + frame["height"] / 4
    page.mouse.move(x, y)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    page.wait_for_function("() => Number(document.querySelector('.stage').dataset.zoom) > 1")
    zoomed = page.locator(".frame").bounding_box()
    assert zoomed is not None
    assert (x - zoomed["x"]) / zoomed["width"] == pytest.approx(0.25, abs=0.01)
    assert pixels_per_mm() == pytest.approx(zoomed["width"] / 40, rel=0.02)
    wait_for_slice(page, "a1")
    page.mouse.down()
    page.mouse.move(x + 20, y, steps=2)
    page.mouse.up()
    moved = page.locator(".frame").bounding_box()
    assert moved is not None
    assert moved["x"] - zoomed["x"] == pytest.approx(20, abs=1)
    page.keyboard.press("r")
    assert page.locator(".frame").bounding_box() == frame


def test_the_hu_under_the_pointer_are_shown(serve_studies: ServeStudies, tab: OpenTab) -> None:
    served, _ = serve_studies(count=3, shape=(4, 8))
    page = tab(served).open(f"{PATH}?slice=a1")
    wait_for_slice(page, "a1")
    box = page.locator(".frame").bounding_box()
    assert box is not None
    for row, column in ((3, 1), (2, 7)):
        page.mouse.move(box["x"] + box["width"] * (column + 0.5) / 8, box["y"] + box["height"] * (row + 0.5) / 4)
        assert page.locator(".value").inner_text() == f"{hu_of(1, (4, 8))[row, column]} HU"
    page.keyboard.press("ArrowDown")
    wait_for_slice(page, "a2")
    assert page.locator(".value").inner_text() == f"{hu_of(2, (4, 8))[2, 7]} HU"
    page.mouse.move(box["x"] + 5, box["y"] - 5)
    assert page.locator(".value").inner_text() == ""


def test_unknown_sides_and_spacings_are_not_guessed(serve_studies: ServeStudies, tab: OpenTab) -> None:
    nothing = {"side": None, "spacing": None, "header_window": None, "position": None, "thickness": None}
    served, _ = serve_studies(count=3, facts={**nothing, "labels": None})
    page = tab(served).open(f"{PATH}?slice=a1&window=file&of=experiment:1")
    wait_for_slice(page, "a1")
    assert page.locator(".side:visible, .ruler:visible").count() == 0
    np.testing.assert_array_equal(canvas_pixels(page), expected_pixels(hu_of(1), (40, 80)))
    facts = page.locator("#facts").inner_text()
    assert facts.count("unknown") == 4
    assert page.locator("#probabilities td.truth").first.inner_text() == "unknown"
    assert page.locator("[data-truth]").count() == 0
    page.locator("#first").select_option("")
    page.wait_for_selector(".pane h2:has-text('Image')")
    assert page.locator(".strip:visible, .switches:visible").count() == 0


def test_sides_are_those_of_the_slice(serve_studies: ServeStudies, tab: OpenTab) -> None:
    served, _ = serve_studies(count=3, facts={"side": {"left": "L", "right": "R"}})
    page = tab(served).open(f"{PATH}?slice=a1")
    wait_for_slice(page, "a1")
    assert page.locator(".side.left").inner_text() == "L"
    assert page.locator(".side.right").inner_text() == "R"


def test_a_damaged_slice_shows_its_error_and_the_others_work(serve_studies: ServeStudies, tab: OpenTab) -> None:
    served, _ = serve_studies(count=5, damaged=frozenset({3}))
    page = tab(served, allow_errors=True).open(f"{PATH}?slice=a2")
    wait_for_slice(page, "a2")
    page.keyboard.press("ArrowDown")
    page.wait_for_selector(".message:visible")
    message = page.locator(".message").inner_text()
    assert "a3" in message
    assert "3 bytes of 9" in message
    assert page.locator(".frame:visible").count() == 0
    page.keyboard.press("ArrowDown")
    wait_for_slice(page, "a4")
    assert page.locator(".message:visible").count() == 0
    np.testing.assert_array_equal(canvas_pixels(page), expected_pixels(hu_of(4), (40, 80)))


def test_missing_pixels_and_unknown_predictions_show_problem_and_remedy(
    serve_studies: ServeStudies, tab: OpenTab
) -> None:
    problem = {"sizes": [], "version": None, "problem": "There is no cache.", "remedy": "Run `ichx cache build set`."}
    served, fake = serve_studies(count=3, damaged=frozenset({0, 1, 2}), changes={"pixels": problem})
    page = tab(served, allow_errors=True).open(f"{PATH}?slice=a1&of=experiment:9")
    page.wait_for_selector(".message:visible")
    assert page.locator("#notice code").inner_text() == "ichx cache build set"
    page.wait_for_function("() => document.querySelector('.strip-note').textContent.includes('experiment:9')")
    assert any(one.startswith("/pixels/") and one.endswith("/a1") for one in fake.requests)
    assert page.locator("#slider").is_visible()
    page.goto(f"{served.url}/studies/{SOURCE}/other")
    page.wait_for_selector("#notice:visible")
    assert "No such study." in page.locator("#notice").inner_text()
    page.goto(f"{served.url}{PATH}?slice=zz")
    page.wait_for_selector("#problem:visible")
    assert "zz" in page.locator("#problem").inner_text()


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


def test_neighbours_are_loaded_in_advance_in_blocks_and_only_once(serve_studies: ServeStudies, tab: OpenTab) -> None:
    served, fake = serve_studies(count=60)
    page = tab(served).open(f"{PATH}?slice=a20")
    wait_for_slice(page, "a20")
    page.wait_for_load_state("networkidle")
    assert sorted(fake.pixel_requests()) == sorted(f"a{i}" for i in range(16, 32))
    for index in range(21, 25):
        page.keyboard.press("ArrowDown")
        wait_for_slice(page, f"a{index}")
    page.wait_for_load_state("networkidle")
    assert sorted(fake.pixel_requests()) == sorted(f"a{i}" for i in range(16, 48))
    requests = [one for one in fake.requests if one.startswith("/pixels")]
    assert [one.count("slice=") for one in requests][::2] == [0, 16], "the slice that is shown comes first"
    assert sorted(one.count("slice=") for one in requests) == [0, 15, 16]
    assert all("size=32" in one and "v=d1" in one for one in requests)


def test_slices_of_files_are_loaded_one_by_one(serve_studies: ServeStudies, tab: OpenTab) -> None:
    served, fake = serve_studies(count=60, sizes=())
    page = tab(served).open(f"{PATH}?slice=a20")
    wait_for_slice(page, "a20")
    page.wait_for_load_state("networkidle")
    assert sorted(fake.pixel_requests()) == sorted(f"a{i}" for i in range(17, 31))
    assert not any("slice=" in one for one in fake.requests if one.startswith("/pixels"))


def test_a_block_has_the_pixels_of_its_slices_and_the_reason_of_each_that_is_missing(
    serve_studies: ServeStudies, tab: OpenTab
) -> None:
    served, fake = serve_studies(count=12, damaged=frozenset({5}))
    page = tab(served, allow_errors=True).open(f"{PATH}?slice=a0")
    wait_for_slice(page, "a0")
    page.wait_for_load_state("networkidle")
    fake.requests.clear()
    found = page.evaluate(
        """async () => {
          const { SliceLoader } = await import("/static/viewer_slices.js");
          const urlOfBlock = (ids) => "/api/pixels/set@1?" + new URLSearchParams(ids.map((id) => ["slice", id]));
          const loader = new SliceLoader((id) => `/api/pixels/set@1/${id}`, { urlOfBlock });
          const ids = [...Array(8).keys()].map((i) => `a${i}`);
          loader.prefetch(ids, 4, 1);
          const all = await Promise.allSettled(ids.map((id) => loader.load(id)));
          return all.map((one) => one.status === "fulfilled" ? [...one.value.hu] : one.reason.message);
        }"""
    )
    for index, values in enumerate(found):
        if index == 5:
            assert values == "Slice a5 is damaged: 3 bytes of 9. Read `ichx --help`."
        else:
            assert values == hu_of(index).ravel().tolist()
    assert [one.count("slice=") for one in fake.requests] == [8, 0], "only the missing one is requested alone"


def test_the_memory_of_slices_is_bounded(serve_studies: ServeStudies, tab: OpenTab) -> None:
    served, _ = serve_studies(count=12)
    page = tab(served).open(f"{PATH}?slice=a0")
    wait_for_slice(page, "a0")
    held = page.evaluate(
        """async () => {
          const { SliceLoader } = await import("/static/viewer_slices.js");
          const loader = new SliceLoader((id) => `/api/pixels/set@1/${id}`, { memory: 3 * 2 * 32 * 32 });
          for (let i = 0; i < 12; i++) { await loader.load(`a${i}`); loader.peek("a0"); }
          return [loader.bytes, [...Array(12).keys()].filter((i) => loader.has(`a${i}`))];
        }"""
    )
    assert held == [3 * 2 * 32 * 32, [0, 10, 11]]


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
