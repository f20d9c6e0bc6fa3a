"""Reading a worklist in the viewer: from slice to slice with the same window, and the usual predictions of a study."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from test_viewer import query_of, wait_for_query, wait_for_slice
from web_site import Serve, Tab

OpenTab = Callable[..., Tab]


def test_the_rows_of_a_list_follow_each_other_with_the_choices_of_the_reader(
    trained_root: Path, serve: Serve, tab: OpenTab
) -> None:
    served = serve(trained_root)
    query = "source=ph@1&of=experiment:1&versus=experiment:2&kind=disagreement&label=subdural"
    with served.client() as client:
        rows = client.get(f"/worklist.csv?{query}").text.splitlines()[1:4]
    ids = [row.split(",")[1] for row in rows]
    page: Any = tab(served).open(f"/worklist?{query}")
    page.locator("a.open").first.click()
    wait_for_slice(page, ids[0])
    page.wait_for_selector("#list-bar button")
    assert page.locator("#list-bar button").first.is_disabled()
    page.locator("#probabilities th", has_text="B: CNN").wait_for()
    assert page.locator("#probabilities th").all_inner_texts()[2:4] == ["A: CNN", "B: CNN"], "as in the list: no TTA"
    assert (
        page.locator("#probabilities tbody tr").nth(4).inner_text().split("\t")[2]
        == f"{float(rows[0].split(',')[7]):.3f}"
    )
    page.keyboard.press("3")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("n")
    wait_for_slice(page, ids[1])
    assert query_of(page)["window"] == "subdural"
    page.wait_for_selector("#list-bar button")
    assert (
        page.locator("#list-bar")
        .inner_text()
        .replace("\n", " ")
        .startswith(f"Worklist 2 of {len(_ids(served, query))}")
    )
    page.get_by_role("button", name="Next", exact=True).click()
    wait_for_slice(page, ids[2])
    page.wait_for_selector("#list-bar button")
    page.keyboard.press("p")
    wait_for_slice(page, ids[1])
    page.wait_for_selector("#list-bar button")
    page.get_by_role("link", name="Worklist").last.click()
    page.wait_for_url("**/worklist?*page=1*")


def test_a_slice_is_reviewed_by_keyboard(trained_copy: Path, serve: Serve, tab: OpenTab) -> None:
    served = serve(trained_copy)
    page: Any = tab(served).open("/studies?open=first")
    page.wait_for_url("**/studies/*/*")
    page.wait_for_selector(".stage[data-shown]")
    shown = page.locator("#count").inner_text()
    page.keyboard.press("m")
    page.keyboard.press("ArrowDown")
    for text in ("", "subdural", "M. P.", "next to n, p and 5"):
        page.keyboard.type(text)
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#reviews li")
    review = page.locator("#reviews li").inner_text()
    assert "artefact · subdural · next to n, p and 5 · (M. P.)" in review
    page.wait_for_function("() => document.activeElement.textContent === 'Save review'")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowDown")
    page.wait_for_function("(before) => document.querySelector('#count').textContent !== before", arg=shown)


def test_a_study_opens_with_the_best_predictions_or_those_of_the_last_choice(
    trained_root: Path, serve: Serve, tab: OpenTab
) -> None:
    served = serve(trained_root)
    opened = tab(served)
    page: Any = opened.open("/studies?open=first")
    page.wait_for_url("**/studies/*/*")
    path = page.evaluate("location.pathname")
    with served.client() as client:
        best, other = [one["of"] for one in client.get(f"/api{path}").json()["predictors"]][:2]
    wait_for_query(page, "of", best)
    page.keyboard.press("5")
    page.go_back()
    wait_for_query(page, "window", "brain")
    assert query_of(page)["of"] == best
    page.locator("#first").select_option(other)
    page.goto(f"{served.url}{path}")
    wait_for_query(page, "of", other)
    page.locator("#first").select_option("")
    page.goto(f"{served.url}{path}")
    page.wait_for_selector(".stage[data-shown]")
    assert "of" not in query_of(page)
    assert page.locator(".pane h2").inner_text() == "Image"
    page.goto(f"{served.url}{path}?of={quote(best)}")
    page.wait_for_selector(".stage[data-shown]")
    assert query_of(page)["of"] == best


def _ids(served: Any, query: str) -> list[str]:
    with served.client() as client:
        return [row.split(",")[1] for row in client.get(f"/worklist.csv?{query}").text.splitlines()[1:]]
