"""The viewer in a browser: the pixels of windows, the blocks in which slices are loaded, and the memory they take."""

from typing import TYPE_CHECKING

import numpy as np
import pytest
from fake_studies import SOURCE, ServeStudies, hu_of
from viewer_pages import NO_GL, PATH, SOFTWARE_GL, OpenTab, canvas_pixels, expected_pixels, query_of, wait_for_slice

if TYPE_CHECKING:
    pass


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
