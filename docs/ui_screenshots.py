"""The pictures of `ichx ui` in `docs/images`, one of each page, for `make_screenshots.py`."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ichx.project import open_project
from ichx.store import JobChange, JobDraft

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

WIDTH = 1280
STUDIES = "/studies?source=phantom@1"
RICHEST_STUDY = """() => {
  const labels = (row) => [...row.querySelectorAll("td.number")].slice(2, 7);
  const marked = (row) => labels(row).filter((cell) => cell.textContent.trim()).length;
  const rows = [...document.querySelectorAll("table.studies tbody tr")];
  return rows.sort((a, b) => marked(b) - marked(a))[0].querySelector("a").getAttribute("href");
}"""
"""Returns the URL of the study with the most labels."""
RICHEST_SLICE = """async () => {
  const study = await (await fetch("/api" + location.pathname)).json();
  const slices = study.series.flatMap((one) => one.slices);
  const marked = (slice) => Object.values(slice.labels).reduce((sum, one) => sum + one, 0);
  return slices.sort((a, b) => marked(b) - marked(a))[0].id;
}"""
"""Returns the id of the slice with the most labels."""


@dataclass(frozen=True)
class Picture:
    """A page to show."""

    path: str
    height: int
    dark: bool = False
    ready: str = "main h1"
    """A selector of what must be there."""
    act: "Callable[[Page], object] | None" = None
    """What a user does before the picture is taken."""


def choose_experiments(page: "Page") -> None:
    """Select two experiments."""
    for number in (1, 2):
        page.locator(f"tr[data-experiment='{number}'] .pick input").check()


def open_study(page: "Page", query: str) -> None:
    """Open the slice with the most labels of the study with the most labels."""
    base = page.url.partition("/studies")[0]
    page.goto(base + page.evaluate(RICHEST_STUDY))
    page.wait_for_selector(".stage[data-shown]")
    page.goto(f"{page.url.partition('?')[0]}?slice={page.evaluate(RICHEST_SLICE)}&{query}")
    page.wait_for_selector(".stage[data-shown]")
    page.wait_for_selector("#probabilities th:nth-child(3)")
    for legend in page.locator(".overlay-legend").all():
        legend.locator(".swatch").wait_for()


def add_review(page: "Page") -> None:
    """Review the slice that is shown."""
    page.locator("#reviews select[name=label]").select_option("subdural")
    page.locator("#reviews input[name=reader]").fill("R. Reader")
    page.locator("#reviews textarea").fill("acute on chronic? read again")
    page.locator("#reviews button").last.click()
    page.wait_for_selector("#reviews li")
    page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0); }")


def scroll_to_scores(page: "Page") -> None:
    """Show the page of a comparison from the scores on."""
    page.locator("#scores").evaluate("one => one.scrollIntoView()")


def decode_images(page: "Page") -> None:
    """Wait for the thumbnails that are visible."""
    for image in page.locator("main img").all()[:12]:
        image.evaluate("one => one.decode()")


PICTURES = {
    "ui_experiments.webp": Picture(
        "/experiments?columns=name,plugin,window_kind,folds_done,state,score,score_tta,tags",
        560,
        act=choose_experiments,
    ),
    "ui_experiment.webp": Picture("/experiments/1", 900, ready=".plots .plot canvas"),
    "ui_compare.webp": Picture("/compare?exp=1&exp=2", 1000, ready=".disagreements", act=scroll_to_scores),
    "ui_studies.webp": Picture(STUDIES, 560, ready="table.studies"),
    "ui_viewer.webp": Picture(
        STUDIES,
        950,
        ready="table.studies",
        act=lambda page: (open_study(page, "of=experiment:5&overlay=mask"), add_review(page)),
    ),
    "ui_viewer_dark.webp": Picture(
        STUDIES,
        950,
        dark=True,
        ready="table.studies",
        act=lambda page: open_study(page, "of=experiment:1&of=experiment:2&overlay=heat"),
    ),
    "ui_worklist.webp": Picture(
        "/worklist?source=phantom@1&kind=disagreement&of=experiment:5&versus=experiment:1",
        760,
        ready="table.worklist",
        act=decode_images,
    ),
    "ui_data.webp": Picture("/data/phantom@1", 1000, ready="section[aria-labelledby=folds] table"),
    "ui_ensembles.webp": Picture("/ensembles/2", 900, ready="#choices, [aria-labelledby=choices] table"),
    "ui_tuning.webp": Picture("/tuning/3", 900, ready="main svg"),
    "ui_jobs.webp": Picture("/jobs", 420, ready="#jobs"),
}
"""By file name. The first two of `README.md` are the experiments and the viewer."""
PHONE = "ui_phone.webp"


def prepare_workspace(workspace: Path, run: Callable[..., None]) -> None:
    """Add tags, an Optuna study, and jobs as a cluster would have them, to a demo."""
    run("exp", "tag", "5", "best")
    run("exp", "tag", "1", "paper", "baseline")
    run("tune", "3", "--trials", "10", "--length", "0.5", "--subset", "0.5", "--search", "stage.full.lr=log:1e-3..2e-2",
        "--search", "stage.balanced.lr=log:1e-3..2e-2", "--search", "optimizer.weight_decay=0,0.001,0.1")  # fmt: skip
    add_jobs(workspace)


def add_jobs(workspace: Path) -> None:
    """Record jobs as a cluster would have them."""
    with open_project(workspace) as project:
        drafts = [
            JobDraft(
                submission="run-1-a41c", position=fold, engine="slurm", kind="fold", name=f"train fold {fold}",
                log=f"experiments/1/fold-{fold}/run.log", experiment=1, fold=fold,
            )
            for fold in range(3)
        ]  # fmt: skip
        first, second, third = (job.id for job in project.store.add_jobs(drafts))
        changes = {
            first: JobChange("done", exit_code=0, seconds=5212),
            second: JobChange("running", seconds=1490),
            third: JobChange("failed", exit_code=1, reason="NODE_FAIL", seconds=260),
        }
        project.store.update_jobs(changes)


@contextmanager
def server(workspace: Path) -> Iterator[str]:
    """Serve a workspace; yield the URL with the token."""
    command = [sys.executable, "-m", "ichx", "ui", "--no-browser", "--port", "0"]
    with subprocess.Popen(
        command, cwd=workspace, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            found = re.search(r"http://\S+", process.stdout.readline())
            if found is None:
                raise SystemExit("ichx ui printed no URL")
            yield found.group()
        finally:
            process.terminate()


def take(page: "Page", base: str, picture: Picture) -> bytes:
    """Return the picture of a page as PNG."""
    page.goto(base + picture.path)
    page.wait_for_selector(picture.ready)
    if picture.act is not None:
        picture.act(page)
    page.evaluate("() => { document.querySelector('.workspace').textContent = '~/ichx-demo'; }")
    page.wait_for_timeout(1000)  # for drawings that follow the layout
    return page.screenshot()


def save(png: Path, path: Path) -> None:
    """Write a screenshot as a smaller file."""
    with Image.open(png) as image:
        image.convert("RGB").save(path, quality=82, method=6)


def write_ui(images: Path, workspace: Path, browser: "Browser", scratch: Path) -> list[str]:
    """Write the pictures of all pages; return their names."""
    with server(workspace) as url:
        base = url.partition("/?")[0]
        for name, picture in PICTURES.items():
            size: Any = {"width": WIDTH, "height": picture.height}
            page = browser.new_page(viewport=size, color_scheme="dark" if picture.dark else "light")
            page.goto(url)
            (scratch / "ui.png").write_bytes(take(page, base, picture))
            save(scratch / "ui.png", images / name)
            page.close()
        write_phone(images / PHONE, url, browser, scratch)
    return [*PICTURES, PHONE]


def write_phone(path: Path, url: str, browser: "Browser", scratch: Path) -> None:
    """Write three pages on a phone as one picture."""
    context = browser.new_context(
        viewport={"width": 390, "height": 800}, is_mobile=True, has_touch=True, color_scheme="dark"
    )
    page, base = context.new_page(), url.partition("/?")[0]
    page.goto(url)
    whole = Image.new("RGB", (3 * 390 + 40, 800), "white")
    for column, name in enumerate(("ui_experiments.webp", "ui_viewer.webp", "ui_worklist.webp")):
        picture = PICTURES[name]
        act = decode_images if name == "ui_worklist.webp" else None
        if name == "ui_viewer.webp":
            act = lambda page: open_study(page, "of=experiment:5&overlay=mask")  # noqa: E731
        (scratch / "ui.png").write_bytes(take(page, base, Picture(picture.path, 800, ready=picture.ready, act=act)))
        with Image.open(scratch / "ui.png") as image:
            whole.paste(image.convert("RGB"), (column * 410, 0))
    whole.save(path, quality=82, method=6)
    context.close()
