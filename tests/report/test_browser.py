"""Reports in a real browser: figures are drawn, nothing is requested, keys, pointer and label selection work."""

import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from report_browser import OpenReport

from ichx.evaluation.ensemble import EnsembleRequest, make_ensemble
from ichx.labels import LABELS
from ichx.project import Project
from ichx.report import write_report
from ichx.store import open_store
from ichx.workspace import open_workspace

PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 844},
    "color_scheme": "dark",
    "is_mobile": True,
    "has_touch": True,
}
DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"}
SECOND_POINT = """
new Promise((done) => {
  const dot = document.querySelectorAll("#strip .series[data-label=any] .dot")[1];
  dot.scrollIntoView({ block: "center" });
  requestAnimationFrame(() => requestAnimationFrame(() => {
    const box = dot.getBoundingClientRect();
    done([box.x + box.width / 2, box.y + box.height / 2]);
  }));
})
"""
"""Scrolls to the second point of `any` in the strip and returns its position."""


@pytest.fixture(scope="module")
def pages(trained_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the page of a trained experiment and that of an ensemble."""
    folder = tmp_path_factory.mktemp("pages")
    workspace = open_workspace(Path(shutil.copytree(trained_root, folder / "workspace")))
    with open_store(workspace) as store:
        number = make_ensemble(Project(workspace, store), EnsembleRequest()).ensemble.number
        return {
            "experiment": write_report(Project(workspace, store), 1, folder / "experiment.html").path,
            "ensemble": write_report(Project(workspace, store), number, folder / "ensemble.html", ensemble=True).path,
        }


@pytest.fixture(params=(DESKTOP, PHONE), ids=("desktop, light", "phone, dark"))
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(request.param)


@pytest.mark.parametrize(("kind", "charts"), [("experiment", 9), ("ensemble", 6)])
def test_all_figures_are_drawn_without_requests(
    pages: dict[str, Path], open_report: OpenReport, options: dict[str, Any], kind: str, charts: int
) -> None:
    view = open_report(pages[kind], **options)
    drawn = view.figures()
    assert drawn["problems"] == []
    assert drawn["charts"] == charts
    assert drawn["images"] > 100
    assert view.requests == [pages[kind].resolve().as_uri()]
    assert view.errors == []
    width = view.run("[innerWidth, document.documentElement.scrollWidth]")
    assert width[1] <= width[0] == options["viewport"]["width"]
    screenshot = cv2.imdecode(np.frombuffer(view.page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    assert screenshot is not None
    assert screenshot.std() > 5
    assert (np.median(screenshot) < 60) == (options["color_scheme"] == "dark")  # most pixels are background


def test_csp_violations_are_detected(pages: dict[str, Path], open_report: OpenReport, tmp_path: Path) -> None:
    """The check above can fail: the browser blocks an injected image and an injected script, and reports both."""
    html = pages["experiment"].read_text(encoding="utf-8")
    injected = tmp_path / "injected.html"
    content = '<img src="http://127.0.0.1:9/x.png"><script>document.title = "changed"</script></main>'
    injected.write_text(html.replace("</main>", content, 1), encoding="utf-8")
    view = open_report(injected)
    assert any("img-src" in line for line in view.errors)
    assert any("script-src" in line for line in view.errors)
    assert view.page.title() != "changed"
    assert any("not decoded" in problem for problem in view.figures()["problems"])


def test_the_selected_label_is_highlighted(
    pages: dict[str, Path], open_report: OpenReport, options: dict[str, Any]
) -> None:
    view = open_report(pages["experiment"], **options)
    visible = "[...document.querySelectorAll('{}')].filter((o) => o.getClientRects().length).map((o) => o.dataset.{})"
    faint = "[...document.querySelectorAll('#strip .series[data-label]')].map((o) => getComputedStyle(o).opacity)"
    cards = view.page.locator(".card").count()
    for label in ("any", "subdural"):
        view.page.locator(f".chooser label[for=choose-{label}]").click()
        assert view.run(visible.format(".heat", "heat")) == [label] * cards
        assert set(view.run(visible.format("#reliability .series", "label"))) == {label}
        assert sorted(view.run(faint)) == ["0.25"] * (len(LABELS) - 1) + ["1"]
    view.page.locator(".chooser label[for=choose-all]").click()
    assert set(view.run(visible.format("#reliability .series", "label"))) == set(LABELS)


def test_keys_and_pointer_show_tooltips(pages: dict[str, Path], open_report: OpenReport) -> None:
    view = open_report(pages["experiment"], **DESKTOP)
    keyboard, mouse = view.page.keyboard, view.page.mouse
    tooltip = "document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent"
    view.page.locator("#curve-score").focus()
    for expected in ("fold 0, epoch 1 (balanced): validation score 0.", "fold 0, epoch 2 (balanced)"):
        keyboard.press("ArrowRight")
        assert view.run(tooltip).startswith(expected)
    keyboard.press("ArrowDown")
    assert view.run(tooltip).startswith("fold 1, epoch 2 (balanced)")
    keyboard.press("Escape")
    assert view.run(tooltip) == ""
    x, y = view.run(SECOND_POINT)
    mouse.move(x + 2, y + 3)
    assert re.match(r"slice 2: any predicted \d\.\d{3}, (positive|negative)$", view.run(tooltip))
    mouse.move(1, 1)
    assert view.run(tooltip) == ""


def test_enter_enlarges_a_slice(pages: dict[str, Path], open_report: OpenReport, options: dict[str, Any]) -> None:
    view = open_report(pages["experiment"], **options)
    card, large = view.page.locator("#w1"), view.page.locator("#large")
    card.locator("svg.views").press("Enter")
    assert large.is_visible()
    assert large.locator("article").inner_text() == card.inner_text()  # id, loss, place, truth and probabilities
    assert large.locator(".verdict tbody tr").count() == len(LABELS)
    width = "document.querySelector('{} svg.views').getBoundingClientRect().width"
    assert view.run(width.format("#large")) > 1.05 * view.run(width.format("#w1"))
    for part in (".along i", ".side >> nth=0", ".scale", "[data-heat=any] text >> nth=1"):
        assert large.locator(part).is_visible(), part
    fits = "[document.querySelector('#large').scrollWidth, document.querySelector('#large').clientWidth]"
    scroll, client = view.run(fits)
    assert scroll <= client
    ids = "[...document.querySelectorAll('[id]')].map((one) => one.id)"
    assert view.run(f"new Set({ids}).size === {ids}.length")
    assert view.figures()["problems"] == []
    large.locator("button").click()
    assert not large.is_visible()


def test_a_phone_shows_names_log_loss_and_auc_first(pages: dict[str, Path], open_report: OpenReport) -> None:
    phone = PHONE | {"viewport": {"width": 360, "height": 780}}
    view = open_report(pages["experiment"], **phone)
    assert view.run("document.documentElement.scrollWidth") <= 360
    for name in ("label-scores", "study-scores"):
        table = view.page.locator(f"#{name}")
        table.scroll_into_view_if_needed()
        heads = table.locator("thead th").all_inner_texts()
        assert heads[:3] == ["label", "log loss", "AUC"]
        ends = [
            box["x"] + box["width"] for box in (one.bounding_box() for one in table.locator("thead th").all()) if box
        ]
        assert ends[2] <= 360
        names = table.locator("tbody th, thead th:first-child")
        before = [one.bounding_box() for one in names.all()]
        view.run(f"document.querySelector('.scroll:has(#{name})').scrollLeft = 1000")
        assert view.run(f"document.querySelector('.scroll:has(#{name})').scrollLeft") > 50
        assert [one.bounding_box() for one in names.all()] == before
        x, y = before[1]["x"] + before[1]["width"] / 2, before[1]["y"] + 8
        assert view.run(f"document.elementFromPoint({x}, {y}).closest('th').textContent") == LABELS[0]


def test_print_without_javascript(pages: dict[str, Path], open_report: OpenReport) -> None:
    a4 = {"width": 794, "height": 1123}
    view = open_report(pages["experiment"], viewport=a4, color_scheme="dark", java_script_enabled=False)
    view.page.emulate_media(media="print")
    assert view.figures()["problems"] == []
    assert view.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    hidden = "[...document.querySelectorAll('nav, dialog, #tip')].filter((o) => o.getClientRects().length).length"
    assert view.run(hidden) == 0
