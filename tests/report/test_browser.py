"""Reports in a real browser: figures are drawn, nothing is requested, keys, pointer and label selection work."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import PROGRAM, Browser

from ichx.evaluation.ensemble import EnsembleRequest, make_ensemble
from ichx.labels import LABELS
from ichx.project import Project
from ichx.report import write_report
from ichx.store import open_store
from ichx.workspace import open_workspace

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed (apt-get install chromium)")

PHONE, DESKTOP = (390, 844), (1280, 900)
CHECK_FIGURES = """
(async () => {
  const problems = [];
  for (const chart of document.querySelectorAll("svg.chart")) {
    const all = [...chart.querySelectorAll(".series path, .series circle")];
    const marks = all.filter((one) => one.getClientRects().length);
    const box = chart.getBoundingClientRect();
    if (box.width < 200 || box.height < 80) problems.push(chart.id + " is too small");
    if (!marks.length) problems.push(chart.id + " is empty");
    if (/NaN|Infinity|undefined/.test(chart.innerHTML)) problems.push(chart.id + " has invalid coordinates");
    for (const text of chart.querySelectorAll("text")) {
      const inner = text.getBoundingClientRect();
      const cut = inner.left < box.left - 1 || inner.right > box.right + 1;
      if (cut) problems.push(chart.id + " cuts " + text.textContent);
    }
  }
  const images = [...document.querySelectorAll("img, image")];
  const sources = images.map((one) => one.getAttribute("src") ?? one.getAttribute("href"));
  for (const source of sources) {
    const image = new Image();
    image.src = source;
    try { await image.decode(); } catch { problems.push("not decoded: " + source.slice(0, 40)); }
    if (!image.naturalWidth) problems.push("empty: " + source.slice(0, 40));
  }
  for (const use of document.querySelectorAll("use")) {
    if (!use.getBoundingClientRect().width) problems.push("use of " + use.getAttribute("href") + " is empty");
  }
  return { problems, charts: document.querySelectorAll("svg.chart").length, images: sources.length };
})()
"""
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


@pytest.fixture(params=("desktop, light", "phone, dark"))
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    phone = request.param.startswith("phone")
    with Browser(*(PHONE if phone else DESKTOP), dark=phone, mobile=phone) as opened:
        yield opened


@pytest.mark.parametrize(("kind", "charts"), [("experiment", 7), ("ensemble", 4)])
def test_all_figures_are_drawn_without_requests(
    pages: dict[str, Path], browser: Browser, kind: str, charts: int, tmp_path: Path
) -> None:
    browser.open(pages[kind])
    drawn = browser.run(CHECK_FIGURES)
    assert drawn["problems"] == []
    assert drawn["charts"] == charts
    assert drawn["images"] > 100
    requests = [request for request in browser.requests if not request.startswith("data:")]
    assert requests == [pages[kind].resolve().as_uri()]
    assert browser.errors == []
    width = browser.run("[innerWidth, document.documentElement.scrollWidth]")
    assert width[1] <= width[0]
    browser.screenshot(tmp_path / "page.png")
    screenshot = cv2.imread(str(tmp_path / "page.png"))
    assert screenshot is not None
    assert screenshot.std() > 5
    dark = browser.run("matchMedia('(prefers-color-scheme: dark)').matches")
    assert (np.median(screenshot) < 60) == dark  # most pixels are background


def test_csp_violations_are_detected(pages: dict[str, Path], browser: Browser, tmp_path: Path) -> None:
    """The check above can fail: the browser blocks an injected image and an injected script, and reports both."""
    html = pages["experiment"].read_text(encoding="utf-8")
    injected = tmp_path / "injected.html"
    content = '<img src="http://127.0.0.1:9/x.png"><script>document.title = "changed"</script></main>'
    injected.write_text(html.replace("</main>", content, 1), encoding="utf-8")
    browser.open(injected)
    assert any("img-src" in line for line in browser.errors)
    assert any("script-src" in line for line in browser.errors)
    assert browser.run("document.title") != "changed"
    assert any("not decoded" in problem for problem in browser.run(CHECK_FIGURES)["problems"])


def test_the_selected_label_is_highlighted(pages: dict[str, Path], browser: Browser) -> None:
    browser.open(pages["experiment"])
    visible = "[...document.querySelectorAll('{}')].filter((o) => o.getClientRects().length).map((o) => o.dataset.{})"
    faint = "[...document.querySelectorAll('#strip .series[data-label]')].map((o) => getComputedStyle(o).opacity)"
    cards = browser.run("document.querySelectorAll('.card').length")
    for label in ("any", "subdural"):
        browser.run(f"document.querySelector('label[for=choose-{label}]').click()")
        assert browser.run(visible.format(".heat", "heat")) == [label] * cards
        assert set(browser.run(visible.format("#reliability .series", "label"))) == {label}
        assert sorted(browser.run(faint)) == ["0.25"] * (len(LABELS) - 1) + ["1"]
    browser.run("document.querySelector('label[for=choose-all]').click()")
    assert set(browser.run(visible.format("#reliability .series", "label"))) == set(LABELS)


def test_keys_and_pointer_show_tooltips(pages: dict[str, Path], browser: Browser) -> None:
    browser.open(pages["experiment"])
    tooltip = "document.getElementById('tip').hidden ? '' : document.getElementById('tip').textContent"
    browser.run("document.getElementById('curve-score').focus()")
    for expected in ("fold 0, epoch 1 (balanced): validation score 0.", "fold 0, epoch 2 (balanced)"):
        browser.command("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight")
        assert browser.run(tooltip).startswith(expected)
    browser.command("Input.dispatchKeyEvent", type="keyDown", key="ArrowDown")
    assert browser.run(tooltip).startswith("fold 1, epoch 2 (balanced)")
    browser.command("Input.dispatchKeyEvent", type="keyDown", key="Escape")
    assert browser.run(tooltip) == ""
    x, y = browser.run(SECOND_POINT)
    browser.command("Input.dispatchMouseEvent", type="mouseMoved", x=x + 2, y=y + 3)
    assert re.match(r"slice 2: any predicted \d\.\d{3}, (positive|negative)$", browser.run(tooltip))
    browser.command("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
    assert browser.run(tooltip) == ""


def test_enter_enlarges_a_slice(pages: dict[str, Path], browser: Browser) -> None:
    browser.open(pages["experiment"])
    browser.run("document.querySelector('#w1 svg.views').focus()")
    browser.command("Input.dispatchKeyEvent", type="keyDown", key="Enter")
    width = "document.querySelector('{} svg.views').getBoundingClientRect().width"
    assert browser.run("document.getElementById('large').open")
    assert browser.run(width.format("#large")) > 0.95 * browser.run(width.format("#w1"))
    ids = "[...document.querySelectorAll('[id]')].map((one) => one.id)"
    assert browser.run(f"new Set({ids}).size === {ids}.length")
    browser.run("document.querySelector('#large button').click()")
    assert not browser.run("document.getElementById('large').open")


def test_print_without_javascript(pages: dict[str, Path]) -> None:
    with Browser(794, 1123, dark=True) as browser:  # A4
        browser.command("Emulation.setScriptExecutionDisabled", value=True)
        browser.open(pages["experiment"])
        browser.command("Emulation.setEmulatedMedia", media="print")
        assert browser.run(CHECK_FIGURES)["problems"] == []
        assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        hidden = "[...document.querySelectorAll('nav, dialog, #tip')].filter((o) => o.getClientRects().length).length"
        assert browser.run(hidden) == 0
