"""Lists fit 80 columns, a row a line; what is cut there is whole in JSON and CSV."""

import io
import json
from datetime import datetime
from pathlib import Path

import pytest
from conftest import Program
from rich.cells import cell_len
from rich.console import Console

from ichx.cli import live, render
from ichx.cli.live import LiveView
from ichx.cli.render import sheet
from ichx.plugins import load_registry
from ichx.store import EpochRecord, ScoreDraft, open_store
from ichx.training.events import FoldPlan
from ichx.workspace import open_workspace

LONG = "wide-windows-and-a-name-that-says-all-of-what-was-changed-since-the-last-one"


def lines(text: str) -> list[str]:
    """Return the lines of what is printed, all of which fit."""
    found = text.splitlines()
    assert [line for line in found if cell_len(line) > 80] == []
    return found


def rows(text: str) -> list[list[str]]:
    """Return the cells of a table's rows."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines(text) if line.startswith("│")]


@pytest.fixture
def long_names(trained_copy: Path, ichx: Program) -> Path:
    with open_store(open_workspace(trained_copy)) as store:
        store.rename(2, LONG)
    return trained_copy


def test_experiments(long_names: Path, ichx_process: Program) -> None:
    done = ichx_process("exp", "list", cwd=long_names, COLUMNS="80")
    found = rows(done.out)
    assert [row[0] for row in found] == ["3", "2", "1"], "no row is folded"
    assert found[1][1].endswith("…")
    assert LONG.startswith(found[1][1][:-1])
    assert all(row[3:5] == ["2/2", "done"] and " ± " in row[5] for row in found)
    assert LONG in ichx_process("exp", "list", "--csv", cwd=long_names, COLUMNS="80").out
    assert LONG in [e["name"] for e in json.loads(ichx_process("exp", "list", "--json", cwd=long_names).out)]
    assert LONG in ichx_process("exp", "list", cwd=long_names, COLUMNS="200").out


def test_marks_fold_between_words_and_stay_whole(long_names: Path, ichx: Program, ichx_process: Program) -> None:
    assert ichx("exp", "clone", 2, "--name", LONG, cwd=long_names).code == 0
    with open_store(open_workspace(long_names)) as store:
        store.set_scores(4, ScoreDraft(score=0.05842, spread=0.00123), ScoreDraft())
    found = rows(ichx_process("exp", "list", cwd=long_names, COLUMNS="80").out)
    first = [row[5] for row in found[: next(i for i, row in enumerate(found) if row[0] == "3")]]
    assert len(first) == 2, "it is too wide for one line"
    assert " ".join(first) == "0.05842 ± 0.00123 [partial (0 of 2 folds)]"


def test_plugins(tmp_path: Path, ichx_process: Program) -> None:
    plugins = load_registry().plugins
    found = rows(ichx_process("plugin", "list", cwd=tmp_path, COLUMNS="80").out)
    assert [row[0] for row in found] == list(plugins), "every name is whole, no row is folded"
    wide = ichx_process("plugin", "list", cwd=tmp_path, COLUMNS="200").out
    for plugin in plugins.values():
        assert plugin.weights_licence in wide
        assert plugin.summary in wide


def test_datasets(phantom: object, tmp_path: Path, ichx: Program, ichx_process: Program) -> None:
    folder = phantom.train  # type: ignore[attr-defined]
    labels = phantom.train_labels  # type: ignore[attr-defined]
    root = tmp_path / "workspace"
    assert ichx("init", root, cwd=tmp_path).code == 0
    assert ichx("data", "add", LONG, folder, "--labels", labels, cwd=root).code == 0
    test = phantom.test  # type: ignore[attr-defined]
    assert ichx("data", "add", "t", test, "--test-of", LONG, cwd=root).code == 0
    found = rows(ichx_process("data", "list", cwd=root, COLUMNS="80").out)
    assert len(found) == 2
    assert any(LONG.startswith(row[0][:-1]) and row[0].endswith("…") for row in found)
    assert LONG in ichx_process("data", "list", "--json", cwd=root).out


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_what_is_dropped_and_cut(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(render, "console", Console(file=written, width=width))
    made = sheet(
        "",
        ("number", "name", "date", "licence"),
        [(1, "n" * 50, datetime(2026, 1, 2), "l" * 60), (2, "short", None, None)],
        drop=("licence", "date"),
        cut={"name": 12},
    )
    render.console.print(made)
    text = written.getvalue()
    assert all(cell_len(line) <= width for line in text.splitlines())
    assert sum(line.startswith("│") for line in text.splitlines()) == 2
    assert ("licence" in text, "date" in text) == (width >= 120, width >= 60)
    assert ("n" * 50 in text) == (width == 200)


def test_epoch_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(render, "err", Console(file=written, width=80, force_terminal=True, color_system=None))
    monkeypatch.setattr(live, "err", render.err)
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    view = LiveView()
    view.fold_started(FoldPlan(6, "n", 0, 5, "cuda:0, bf16", "random weights", 602_000, 150_000, 40, 0, False))
    now[0] += 5_000
    values = {"loss": 0.123456, "score": 0.234567, "lr": 1e-5, "images_per_second": 1234.5, "seconds": 3_599.0}
    view.epoch_ended(EpochRecord("rebalanced", 1, 12, values))
    (line,) = [line for line in lines(written.getvalue()) if "score" in line]
    assert line == "  rebalanced 12: loss 0.1235, score 0.23457, 59 min 59 s, 54 h 10 min to go"
