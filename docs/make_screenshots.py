"""Create the screenshots in `docs/images` from a finished demo workspace: `python docs/make_screenshots.py ichx-demo`.

Runs the real commands in a pseudo-terminal and exports their output as SVG, and renders the report of experiment 1 and
the pages of `ichx ui` in headless chromium. The workspace is copied first.
"""

import io
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text
from ui_screenshots import prepare_workspace, write_ui

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, ViewportSize

IMAGES = Path(__file__).parent / "images"
COMMANDS = {
    "terminal_exp_list.svg": ("exp", "list"),
    "terminal_ensemble.svg": ("ensemble", "--top", "4", "--tta", "hflip", "--smooth"),
}
COLUMNS = 100
DESKTOP: "ViewportSize" = {"width": 1140, "height": 1480}
PHONE: "ViewportSize" = {"width": 460, "height": 1480}
ONLY_CARDS = "header, main > :not(#sample), #sample > h2, #sample > p { display: none }"
"""CSS that leaves the cards of random slices."""
MAX_BYTES = 300_000


def run(arguments: Sequence[str], workspace: Path) -> None:
    """Run `ichx ARGUMENTS` without showing its output."""
    command = [sys.executable, "-m", "ichx", *arguments]
    subprocess.run(command, cwd=workspace, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def terminal_output(arguments: tuple[str, ...], workspace: Path) -> str:
    """Return what `ichx ARGUMENTS` prints on a terminal of `COLUMNS` columns, with its escape sequences."""
    environment = os.environ | {
        "COLUMNS": str(COLUMNS),
        "LINES": "60",
        "TERM": "xterm-256color",
        "COLORTERM": "truecolor",
    }
    environment.pop("NO_COLOR", None)
    parent, child = pty.openpty()
    command = [sys.executable, "-m", "ichx", *arguments]
    with subprocess.Popen(
        command, cwd=workspace, env=environment, stdout=child, stderr=subprocess.DEVNULL, stdin=child
    ) as process:
        os.close(child)
        output = b""
        while chunk := _read(parent):
            output += chunk
    os.close(parent)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} exited with {process.returncode}:\n{output.decode()}")
    return output.decode().replace("\r\n", "\n")


def write_terminal(path: Path, arguments: tuple[str, ...], workspace: Path) -> None:
    """Write the prompt, the command and its output as an SVG that loads nothing from a network."""
    console = Console(width=COLUMNS, record=True, file=io.StringIO(), force_terminal=True)
    output = terminal_output(arguments, workspace).replace(f"{workspace}/", "").strip("\n")
    console.print(Text(f"$ ichx {' '.join(arguments)}", style="bold"))
    console.print(Text.from_ansi(output))
    svg = console.export_svg(title="ichx", theme=MONOKAI, unique_id=path.stem)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL).replace("Fira Code, monospace", "monospace")
    path.write_text(svg, encoding="utf-8")


@contextmanager
def chromium() -> "Iterator[Browser]":
    """Yield a headless browser."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        raise SystemExit("chromium is not installed (apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


def screenshot(page: "Page", scratch: Path) -> Image.Image:
    """Return the visible part of an open page."""
    path = scratch / "page.png"
    page.screenshot(path=path)
    with Image.open(path) as image:
        return image.convert("RGB")


def beside(pictures: Sequence[Image.Image]) -> Image.Image:
    """Return pictures from left to right, at three quarters of their size."""
    whole = Image.new("RGB", (sum(one.width for one in pictures), max(one.height for one in pictures)))
    left = 0
    for one in pictures:
        whole.paste(one, (left, 0))
        left += one.width
    return whole.resize((whole.width * 3 // 4, whole.height * 3 // 4), Image.Resampling.LANCZOS)


def write_report(path: Path, workspace: Path, browser: "Browser", scratch: Path) -> None:
    """Write the report of experiment 1, on a desktop and on a phone, as one picture."""
    run(("report", "1"), workspace)
    address = (workspace / "experiments" / "1" / "report.html").as_uri()
    desktop = browser.new_page(viewport=DESKTOP, color_scheme="light")
    desktop.goto(address)
    phone = browser.new_page(viewport=PHONE, color_scheme="dark")
    phone.goto(address)
    phone.add_style_tag(content=ONLY_CARDS)
    beside([screenshot(desktop, scratch), screenshot(phone, scratch)]).save(path, quality=85, method=6)


def main(demo: Path) -> None:
    """Write all screenshots; exit with an error if one is larger than `MAX_BYTES`."""
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        workspace = scratch / "ichx-demo"
        shutil.copytree(demo, workspace)
        for name, arguments in COMMANDS.items():
            write_terminal(IMAGES / name, arguments, workspace)
        prepare_workspace(workspace, lambda *arguments: run(arguments, workspace))
        with chromium() as browser:
            write_report(IMAGES / "report.webp", workspace, browser, scratch)
            pages = write_ui(IMAGES, workspace, browser, scratch)
    large = [name for name in (*COMMANDS, "report.webp", *pages) if (IMAGES / name).stat().st_size > MAX_BYTES]
    if large:
        raise SystemExit(f"over {MAX_BYTES:,} bytes: {', '.join(large)}")


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # the child has closed the terminal
        return b""


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
