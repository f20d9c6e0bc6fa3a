"""The page of an experiment in a real browser, with curves by uPlot that grow while a run records epochs."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from running_programs import TIMEOUT_SECONDS, start_ichx, wait_until
from simulated_run import new_one, open_copy, record, start
from web_site import Serve, Tab

if TYPE_CHECKING:
    from playwright.sync_api import Page

Tabs = Callable[..., Tab]
READY = ".plot[data-metric=loss] canvas"


def wait_for(page: "Page", selector: str, text: str) -> None:
    """Wait until the first element has `text` in it."""
    page.locator(selector).filter(has_text=text).first.wait_for(state="attached")


def test_epochs_appear_in_two_tabs_while_they_are_recorded(dataset_copy: Path, serve: Serve, tab: Tabs) -> None:
    served = serve(dataset_copy)
    with open_copy(dataset_copy) as store:
        number = new_one(store)
        pages = [tab(served).open(f"/experiments/{number}") for _ in range(2)]
        for page in pages:
            page.wait_for_selector("#no-curves:not([hidden])")
        run = start(store, number)
        log = dataset_copy / "experiments" / str(number) / "fold-0" / "run.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        for index in range(4):
            record(store, run, index)
            with log.open("a") as handle:
                handle.write(f"epoch {index} <b>ends</b>\n")
            for page in pages:
                wait_for(page, "[data-value=epochs]", f"{index + 1}/9")
                page.wait_for_selector(READY)
        for page in pages:
            wait_for(page, "#log-text", "epoch 3 <b>ends</b>")
            assert page.locator("#live").inner_text() == "live"
            assert page.locator("#state").inner_text() == "running"
            assert page.locator(".plots .plot canvas").count() == 5
        store.finish_run(run.id, "stopped")
        for page in pages:
            wait_for(page, "#state", "stopped")
            wait_for(page, "#all-runs summary", "All runs (1)")
            wait_for(page, "#all-files th", "fold-0/run.log")


def test_a_training_is_followed_to_its_end(dataset_copy: Path, serve: Serve, tab: Tabs) -> None:
    served = serve(dataset_copy)
    with open_copy(dataset_copy) as store:
        number = new_one(store)
        page = tab(served).open(f"/experiments/{number}")
        page.wait_for_selector("#no-curves:not([hidden])")
        process = start_ichx("run", number, "--device", "cpu", cwd=dataset_copy)
        try:
            wait_until(lambda: len(store.history(number, 0)) > 0, process)
            page.wait_for_selector(READY, timeout=TIMEOUT_SECONDS * 1000)
            wait_until(lambda: store.experiment(number).state == "done")
            page.locator("#live").filter(has_text="complete").wait_for(timeout=TIMEOUT_SECONDS * 1000)
        finally:
            process.terminate()
            process.communicate()
        scores = [record.values["score"] for record in store.history(number, 1)]
        wait_for(page, "#folds-done", "2 of 2")
    page.get_by_text("Values of validation score").click()
    shown = page.locator("figure", has=page.locator(".plot[data-metric=score]")).locator("tbody td:nth-child(3)")
    shown.first.wait_for()
    assert shown.all_inner_texts() == [str(float(f"{score:.5g}")) for score in scores]
    assert page.locator("#log-text").inner_text()


def test_an_open_page_reports_a_store_that_is_away_and_continues(dataset_copy: Path, serve: Serve, tab: Tabs) -> None:
    served = serve(dataset_copy)
    with open_copy(dataset_copy) as store:
        number = new_one(store)
        run = start(store, number)
        record(store, run, 0)
    page = tab(served, allow_errors=True).open(f"/experiments/{number}")
    page.wait_for_selector(READY)
    database, away = dataset_copy / "db", dataset_copy / "away"
    database.rename(away)
    page.locator("#problem").filter(has_text="ichx.db").wait_for()
    assert page.locator(READY).count() == 1  # what it has stays
    away.rename(database)
    page.locator("#problem").wait_for(state="hidden")
    with open_copy(dataset_copy) as store:
        record(store, run, 1)
    wait_for(page, "[data-value=epochs]", "2/9")


def test_controls_are_in_the_url_and_the_back_button_works(trained_root: Path, serve: Serve, tab: Tabs) -> None:
    page = tab(serve(trained_root)).open("/experiments/1")
    page.wait_for_selector(READY)
    assert page.locator("#live").inner_text() == "complete"
    page.get_by_label("logarithmic axis").check()
    page.get_by_label("smoothing").fill("0.6")
    page.get_by_label("fold 1", exact=True).uncheck()
    assert {"log=1", "smooth=0.6", "without=1"} <= set(page.url.partition("?")[2].split("&"))
    page.reload()
    page.wait_for_selector(READY)
    assert page.get_by_label("logarithmic axis").is_checked()
    assert page.locator("output").inner_text() == "0.60"
    assert not page.get_by_label("fold 1", exact=True).is_checked()
    page.get_by_text("Values of training loss").click()
    assert page.locator("th", has_text="fold 1").count() == 0
    page.goto(page.url.partition("?")[0] + "?recipe=all")
    assert page.locator("tr.same").first.is_visible()
    page.go_back()
    page.wait_for_selector(READY)
    assert page.get_by_label("logarithmic axis").is_checked()


def test_keyboard_and_screen_reader_get_the_values(trained_root: Path, serve: Serve, tab: Tabs) -> None:
    served = serve(trained_root)
    score = served.site.project.store.history(1, 0)[0].values["score"]
    page = tab(served).open("/experiments/1")
    page.wait_for_selector(READY)
    page.locator(".plot[data-metric=score]").focus()
    page.keyboard.press("Home")
    readout = page.locator("figure", has=page.locator(".plot[data-metric=score]")).locator(".readout")
    wait_for(page, ".readout", "epoch 1 (balanced)")
    assert f"fold 0: {float(f'{score:.5g}')}" in readout.inner_text()
    page.keyboard.press("End")
    wait_for(page, ".readout", "epoch 6 (full)")
    page.get_by_text("Values of validation score").click()
    table = page.locator("figure", has=page.locator(".plot[data-metric=score]")).locator("table")
    table.locator("td").first.wait_for()
    assert table.locator("tbody tr").count() == 6
    assert table.locator("tbody td").first.inner_text() == str(float(f"{score:.5g}"))
    page.get_by_text("More curves").click()
    page.wait_for_selector(".plot[data-metric=score_any] canvas")
    page.get_by_text("Intervals by fold and label").click()
    page.wait_for_selector("#score-tables table")


def test_stages_are_bands_and_lines_have_the_colours_of_the_folds(trained_root: Path, serve: Serve, tab: Tabs) -> None:
    for scheme in ("light", "dark"):
        page = tab(serve(trained_root), color_scheme=scheme).open("/experiments/1")
        page.wait_for_selector(READY)
        page.wait_for_timeout(300)
        colours = page.evaluate("""() => {
            const canvas = document.querySelector('.plot[data-metric=loss] canvas');
            const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height), seen = new Set();
            for (let i = 0; i < data.length; i += 4) if (data[i + 3] === 255) {
                seen.add('#' + [...data.subarray(i, i + 3)].map((v) => v.toString(16).padStart(2, '0')).join(''));
            }
            const style = getComputedStyle(document.documentElement);
            return ['--panel', '--paper', '--series-0', '--series-1']
                .map((name) => seen.has(style.getPropertyValue(name).trim()));
        }""")
        assert colours == [True] * 4


def test_a_phone_shows_all_without_scrolling_sideways(trained_root: Path, serve: Serve, tab: Tabs) -> None:
    page = tab(serve(trained_root), viewport={"width": 360, "height": 740}, is_mobile=True, has_touch=True).open(
        "/experiments/1?scores=1&subgroups=1&recipe=all"
    )
    page.wait_for_selector(READY)
    page.wait_for_selector("#score-tables table")
    page.wait_for_selector("#subgroup-tables table")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.locator(READY).bounding_box()["width"] <= 360  # type: ignore[index]


def test_a_report_with_scripts_runs_in_the_sandbox(trained_copy: Path, serve: Serve, tab: Tabs) -> None:
    script = (
        "document.title = [origin, (() => { try { return document.cookie; } catch { return 'refused'; } })()].join()"
    )
    report = f"<!DOCTYPE html><title>x</title><p>report</p><script>{script}</script>"
    (trained_copy / "experiments" / "1" / "report.html").write_text(report)
    page = tab(serve(trained_copy)).open("/experiments/1/report")
    assert page.title() == "null,refused"


def test_injected_text_stays_text(dataset_copy: Path, serve: Serve, tab: Tabs) -> None:
    text = '"><img src=x onerror=document.title=1></script><script>document.title=1</script>'
    with open_copy(dataset_copy) as store:
        number = new_one(store, name=text)
        store.add_note(number, text)
        run = start(store, number)
        record(store, run, 0, **{"score_<img src=x onerror=document.title=1>": 0.5})
        store.finish_run(run.id, "failed", error=text)
    log = dataset_copy / "experiments" / str(number) / "fold-0" / "run.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(text)
    page = tab(serve(dataset_copy)).open(f"/experiments/{number}")
    page.wait_for_selector(READY)
    page.get_by_text("More curves").click()
    wait_for(page, "#log-text", "<img")
    assert page.locator("#errors li").inner_text().endswith(text)
    assert page.locator("main img").count() == 0
    assert page.title().startswith(f"{number}: ")


def test_the_page_reconnects_after_the_server_was_away(dataset_copy: Path, serve: Serve, tab: Tabs) -> None:
    served = serve(dataset_copy)
    with open_copy(dataset_copy) as store:
        number = new_one(store)
        run = start(store, number)
        record(store, run, 0)
        opened = tab(served, allow_errors=True)
        page = opened.open(f"/experiments/{number}")
        page.wait_for_selector(READY)
        page.context.set_offline(True)
        page.evaluate("1")
        record(store, run, 1)
        page.context.set_offline(False)
        wait_for(page, "[data-value=epochs]", "2/9")
        page.get_by_text("Values of training loss").click()
        page.locator("figure table td").first.wait_for()
        assert page.locator("figure table tbody tr").count() == 2


def test_name_tags_and_notes_are_edited_on_the_page(trained_copy: Path, serve: Serve, tab: Tabs) -> None:
    page = tab(serve(trained_copy)).open("/experiments/1")
    page.get_by_role("button", name="Edit name, tags and notes").click()
    page.get_by_label("New tag").fill("read me")
    page.get_by_role("button", name="Add tag").click()
    wait_for(page, "#edit-tags li", "read me")
    page.get_by_label("New note").fill("subdural <b>better</b>")
    page.get_by_role("button", name="Add note").click()
    wait_for(page, "#edit-notes dd", "subdural <b>better</b>")
    page.get_by_role("button", name="Close").click()
    wait_for(page, "#annotations .tag", "read me")
    wait_for(page, ".notes li", "subdural <b>better</b>")
    read_only = tab(serve(trained_copy, read_only=True)).open("/experiments/1")
    wait_for(read_only, "#live", "complete")
    assert read_only.get_by_role("button", name="Edit name, tags and notes").count() == 0
