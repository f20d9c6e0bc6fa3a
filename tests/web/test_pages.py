"""Every page in a real browser: errors, requests, size, keyboard, and what a screen reader needs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from web_site import Serve, Tab

PAGES = (
    "/experiments",
    "/studies",
    "/studies?open=first",
    "/experiments/1?smooth=0.5&recipe=all",
    "/compare?exp=1&exp=2&all=1",
    "/jobs",
    "/tuning",
    "/worklist",
    "/worklist?kind=reviewed",
    "/data",
    "/data/ph@1",
    "/ensembles",
)
"""Add each page here; other tests visit them, too."""

LOOKS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True},
}

ACCESSIBILITY = r"""() => {
  const problems = [];
  const shown = (e) => e.checkVisibility({ visibilityProperty: true });
  const name = (e) => {
    const ids = (e.getAttribute("aria-labelledby") ?? "").split(/\s+/).filter(Boolean);
    const labelled = ids.map((id) => document.getElementById(id)?.textContent ?? "").join(" ");
    const alt = [...e.querySelectorAll("img[alt]")].map((image) => image.alt).join(" ");
    return (e.getAttribute("aria-label") || labelled || [...(e.labels ?? [])].map((l) => l.textContent).join(" ") ||
      (e.matches("input[type=submit], input[type=button]") ? e.value : "") ||
      (e.matches("a, button, summary, [role=button], [role=tab]") ? e.textContent + alt : "") || e.title || "").trim();
  };
  const show = (e) => e.outerHTML.slice(0, 120);
  for (const e of document.querySelectorAll(
    "input:not([type=hidden]), select, textarea, button, a[href], summary, [role=button], [role=slider], [role=tab]"))
    if (shown(e) && !name(e)) problems.push(`no name: ${show(e)}`);
  for (const e of document.querySelectorAll("img:not([alt]), canvas:not([aria-label]):not([aria-hidden]), " +
    "svg:not([aria-hidden]):not([aria-label]):not([aria-labelledby])"))
    if (shown(e) && !e.querySelector(":scope > title") && !e.closest("[aria-hidden], [role=img]"))
      problems.push(`no text: ${show(e)}`);
  for (const e of document.querySelectorAll("main th:not([scope])")) problems.push(`no scope: ${show(e)}`);
  for (const e of document.querySelectorAll("table"))
    if (shown(e) && e.rows.length > 1 && !e.querySelector("th")) problems.push(`no header: ${show(e)}`);
  const levels = [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].filter(shown).map((e) => +e.tagName[1]);
  levels.forEach((level, i) => {
    if (i && level > levels[i - 1] + 1) problems.push(`h${levels[i - 1]} before h${level}`);
  });
  const seen = new Set();
  for (const e of document.querySelectorAll("[id]")) {
    if (seen.has(e.id)) problems.push(`id twice: ${e.id}`);
    seen.add(e.id);
  }
  for (const e of document.querySelectorAll("[aria-labelledby], [aria-controls], [aria-describedby], label[for]"))
    for (const attribute of ["aria-labelledby", "aria-describedby", "for"])
      for (const id of (e.getAttribute(attribute) ?? "").split(/\s+/).filter(Boolean))
        if (!document.getElementById(id)) problems.push(`no element ${id}: ${show(e)}`);
  for (const e of document.querySelectorAll("[tabindex]")) if (e.tabIndex > 0) problems.push(`tabindex: ${show(e)}`);
  for (const e of document.querySelectorAll("[onclick], [data-href]"))
    if (e.tabIndex < 0) problems.push(`not for keyboards: ${show(e)}`);
  if (!document.documentElement.lang) problems.push("no language");
  if (document.querySelectorAll("main").length !== 1) problems.push("not one main");
  return problems;
}"""
"""Returns what a screen reader or a keyboard misses on the page."""

OVERFLOW = """() => [...document.querySelectorAll("body *")].filter((e) => {
  const box = e.getBoundingClientRect();
  if (box.right <= window.innerWidth + 1 || !box.width) return false;
  for (let p = e.parentElement; p; p = p.parentElement)
    if (/auto|scroll|hidden|clip/.test(getComputedStyle(p).overflowX)) return false;
  return true;
}).map((e) => e.outerHTML.slice(0, 100)).slice(0, 3)"""
"""Returns elements that make the page wider than the window."""


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("path", PAGES)
def test_a_page_works_and_stays_on_the_server(
    trained_root: Path, serve: Serve, tab: Callable[..., Tab], path: str, look: str
) -> None:
    page = tab(serve(trained_root), **LOOKS[look]).open(path)
    assert page.locator("h1").count() == 1
    assert page.locator("h1").inner_text().strip()
    assert page.title().endswith(" - ichx")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), page.evaluate(OVERFLOW)
    assert page.evaluate(ACCESSIBILITY) == []


@pytest.mark.parametrize("path", PAGES)
def test_the_keyboard_reaches_the_content(trained_root: Path, serve: Serve, tab: Callable[..., Tab], path: str) -> None:
    page = tab(serve(trained_root)).open(path)
    page.locator("body").evaluate("body => { document.activeElement?.blur(); body.focus(); }")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["x"] >= 0  # type: ignore[index]
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    focusable = page.locator(
        "main :is(a[href], button:enabled, input:enabled:not([type=hidden]), select:enabled, [tabindex='0']):visible"
    ).count()
    if focusable:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.closest('main') !== null")
        assert page.evaluate(
            "(style => style.outlineStyle !== 'none' || style.boxShadow !== 'none')"
            "(getComputedStyle(document.activeElement))"
        ), "the focus is invisible"


@pytest.mark.parametrize("path", PAGES)
def test_a_page_works_read_only(trained_root: Path, serve: Serve, tab: Callable[..., Tab], path: str) -> None:
    page = tab(serve(trained_root, read_only=True)).open(path)
    assert page.locator("body[data-read-only]").count() == 1
    assert page.locator("header .mark").inner_text() == "read-only"
