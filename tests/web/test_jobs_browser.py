"""Cancelling a job in a real browser, after a confirmation."""

from collections.abc import Callable
from pathlib import Path

from file_engine import FileEngine
from simulated_run import new_one, open_copy
from test_jobs_http import queue, submit  # noqa: F401
from web_site import Serve, Tab


def test_a_job_is_cancelled_after_a_confirmation(
    dataset_copy: Path,
    queue: FileEngine,  # noqa: F811
    serve: Serve,
    tab: Callable[..., Tab],
) -> None:
    with open_copy(dataset_copy) as store:
        number = new_one(store)
    name = "<img src=x onerror=document.title=1>"
    submission = submit(dataset_copy, queue, number, name)
    page = tab(serve(dataset_copy)).open("/jobs")
    assert page.locator("#cancel").is_disabled()
    page.locator(".pick").check()
    page.locator("#cancel").click()
    assert name in page.locator("#confirm-jobs").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("#confirm").is_hidden()
    with open_copy(dataset_copy) as store:
        (record,) = store.jobs()
    assert (record.state, record.handle is not None) == ("queued", True)
    page.goto(page.url.replace("/jobs", f"/jobs/{submission}/0"))
    page.locator("#log-text").filter(has_text="There is no log yet").wait_for()
    page.locator("#cancel").click()
    with page.expect_navigation():
        page.get_by_role("button", name="Cancel the jobs").click()
    assert record.handle is not None
    queue.wait(record.handle)
    with page.expect_navigation():
        page.locator("#refresh").click()
    page.locator("#job-state").filter(has_text="cancelled").wait_for()
    assert page.locator("main img").count() == 0
