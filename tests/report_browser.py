"""The fixture of reports in a real browser."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHECK_FIGURES = """
(async () => {
  const problems = [];
  for (const chart of document.querySelectorAll("svg.chart")) {
    const all = [...chart.querySelectorAll(".series path, .series circle")];
    const marks = all.filter((one) => one.getClientRects().length);
    const box = chart.getBoundingClientRect();
    if (box.width < 200 || box.height < 80) problems.push(chart.id + " is too small");
    const chosen = document.querySelector("input[id^=choose-]:checked")?.id.slice("choose-".length);
    const lacking = all.length && chosen && !all.some((one) => one.closest(".series").dataset.label === chosen);
    if (!marks.length && !lacking) problems.push(chart.id + " is empty");
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


@dataclass
class View:
    """A report in a browser, with what it requested and the errors that the browser logged."""

    page: "Page"
    requests: list[str] = field(default_factory=list)
    """All addresses except data URIs."""
    errors: list[str] = field(default_factory=list)
    """Exceptions, failed requests and violations of the content security policy."""

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression, or of the promise that it returns."""
        return self.page.evaluate(script)

    def figures(self) -> dict[str, Any]:
        """Return the number of charts and images, and the problems of those that are not drawn or cut off."""
        return self.run(CHECK_FIGURES)


OpenReport = Callable[..., View]


@pytest.fixture
def open_report(chromium: "Browser") -> Iterator[OpenReport]:
    """Return `open_report(path)`. Options of the browser's context are passed on, e.g. `viewport`, `color_scheme`."""
    contexts = []

    def open_file(path: Path, **options: Any) -> View:
        context = chromium.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        view = View(page)
        page.on("request", lambda one: one.url.startswith("data:") or view.requests.append(one.url))
        page.on("console", lambda one: one.type == "error" and view.errors.append(one.text))
        page.on("pageerror", lambda error: view.errors.append(str(error)))
        page.goto(path.resolve().as_uri())
        return view

    yield open_file
    for context in contexts:
        context.close()
