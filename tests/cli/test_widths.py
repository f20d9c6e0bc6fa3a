"""Tables fit the terminal; values that they shorten are complete in JSON and CSV."""

import io
import json
import shlex
import shutil
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest
from conftest import Outcome, Program
from dicom_files import write_ct
from rich.cells import cell_len
from rich.console import Console

from ichx.cli import bars, launch_view, output
from ichx.cli.live import LiveView
from ichx.cli.tables import build_table, print_table
from ichx.datasets.add import AddRequest, add_dataset
from ichx.experiments.callbacks import FoldPlan
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.jobs.launch_report import Unit, UnitProgress
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import EpochRecord, ScoreDraft, open_store
from ichx.workspace import open_workspace

LONG = "wide-windows-and-a-name-that-lists-all-of-the-values-that-were-changed-in-the-recipe"


def lines(text: str) -> list[str]:
    """Return the printed lines; all must fit 80 columns."""
    found = text.splitlines()
    assert too_long(found, 80) == []
    return found


def too_long(found: list[str], width: int) -> list[str]:
    """Return the lines that do not fit, except those with a path, which no line break can shorten."""
    return [line for line in found if cell_len(line) > width and not any(word.count("/") > 3 for word in line.split())]


def rows(text: str) -> list[list[str]]:
    """Return the cells of a table's rows."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines(text) if line.startswith("│")]


@pytest.fixture
def long_names(trained_copy: Path, ichx: Program) -> Path:
    with open_store(open_workspace(trained_copy)) as store:
        store.rename(2, LONG)
    return trained_copy


@pytest.fixture
def ichx_at(ichx: Program, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Return `ichx_at(width, *arguments, cwd)`: `ichx` with an output of this width."""

    def run(width: int, *arguments: object, cwd: Path) -> Outcome:
        for console in (output.console, output.err):
            monkeypatch.setattr(console, "_width", width)
        return ichx(*arguments, cwd=cwd)

    return run


def test_experiments(long_names: Path, ichx_at: Program) -> None:
    done = ichx_at(80, "exp", "list", cwd=long_names)
    found = rows(done.out)
    assert [row[0] for row in found] == ["3", "2", "1"], "no row wraps"
    start, _, end = found[1][1].partition("…")
    assert LONG.startswith(start)
    assert LONG.endswith(end)
    assert abs(len(start) - len(end)) <= 1 < len(end)
    assert all(row[3:5] == ["2/2", "done"] and " ± " in row[5] for row in found)
    assert LONG in ichx_at(80, "exp", "list", "--csv", cwd=long_names).out
    assert LONG in [e["name"] for e in json.loads(ichx_at(200, "exp", "list", "--json", cwd=long_names).out)]
    assert LONG in ichx_at(200, "exp", "list", cwd=long_names).out


def test_marks_wrap_between_words(long_names: Path, ichx: Program, ichx_at: Program) -> None:
    assert ichx("exp", "clone", 2, "--name", LONG, cwd=long_names).code == 0
    with open_store(open_workspace(long_names)) as store:
        store.set_scores(4, ScoreDraft(score=0.05842, spread=0.00123), ScoreDraft())
    (first, *_) = rows(ichx_at(80, "exp", "list", cwd=long_names).out)
    assert (first[3], first[5]) == ("0/2", "0.05842 ± 0.00123"), "the column of folds has the mark"
    assert ichx("exp", "list", "--columns", "number,name,dataset,state,score", cwd=long_names).code == 0
    found = rows(ichx_at(72, "exp", "list", cwd=long_names).out)
    first = [row[4] for row in found[: next(i for i, row in enumerate(found) if row[0] == "3")]]
    assert len(first) == 2, "too wide for one line"
    assert " ".join(first) == "0.05842 ± 0.00123 [partial (0 of 2 folds)]"


def test_plugins(tmp_path: Path, ichx_at: Program) -> None:
    plugins = load_registry().plugins
    found = rows(ichx_at(80, "plugin", "list", cwd=tmp_path).out)
    assert [row[0] for row in found] == list(plugins), "no name is cut and no row wraps"
    wide = ichx_at(400, "plugin", "list", cwd=tmp_path).out
    for plugin in plugins.values():
        assert plugin.weights_licence in wide
        assert plugin.summary in wide


def test_datasets(phantom: object, tmp_path: Path, ichx: Program, ichx_at: Program) -> None:
    folder = phantom.train  # type: ignore[attr-defined]
    labels = phantom.train_labels  # type: ignore[attr-defined]
    root = tmp_path / "workspace"
    assert ichx("init", root, cwd=tmp_path).code == 0
    assert ichx("data", "add", LONG, folder, "--labels", labels, cwd=root).code == 0
    test = phantom.test  # type: ignore[attr-defined]
    assert ichx("data", "add", "t", test, "--test-of", LONG, cwd=root).code == 0
    found = rows(ichx_at(80, "data", "list", cwd=root).out)
    assert len(found) == 2
    ((start, end),) = [row[0].split("…") for row in found if "…" in row[0]]
    assert LONG.startswith(start)
    assert LONG.endswith(end)
    assert abs(len(start) - len(end)) <= 1 < len(end)
    assert LONG in ichx_at(200, "data", "list", "--json", cwd=root).out


def test_predicted_studies_with_long_uids(trained_root: Path, tmp_path: Path, ichx_at: Program) -> None:
    """UIDs of up to 64 characters are shortened in the middle; CSV has them complete."""
    uid = f"1.2.840.113619.2.{'7' * 40}.{{:06d}}".format
    assert len(uid(1)) == 64
    for number in range(4):
        write_ct(
            tmp_path / f"new/{number}.dcm",
            SOPInstanceUID=uid(number),
            SeriesInstanceUID=uid(number // 2),
            StudyInstanceUID=uid(number // 2),
            ImagePositionPatient=[0, 0, 5.0 * number],
        )
        write_ct(
            tmp_path / f"new/{number}b.dcm", SOPInstanceUID=uid(90 + number), SeriesInstanceUID=uid(number // 2 + 9)
        )
    done = ichx_at(80, "predict", 2, tmp_path / "new", "--fold", 0, "--out", tmp_path / "out.csv", cwd=trained_root)
    assert done.code == 0, done.err
    found = rows(done.out)
    assert len(found) == 4, "no row wraps"
    for row in found:
        assert row[-1][:4] == "1.2."
        assert int(row[-1][-4:]) < 100
    slices = pd.read_csv(tmp_path / "out.csv")
    assert set(slices["slice_id"].map(len)) == {64}


@pytest.fixture(scope="module")
def crowded(trained_root: Path, phantom: object, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the trained workspace with long names, many folds, notes, tags and a trash, which make tables wide."""
    root = Path(shutil.copytree(trained_root, tmp_path_factory.mktemp("crowded") / "workspace"))
    workspace = open_workspace(root)
    with open_store(workspace) as store:
        files = phantom.train, phantom.train_labels  # type: ignore[attr-defined]
        add_dataset(Project(workspace, store), AddRequest("eight", files[0], labels=files[1], folds=8))
        settings = ("stage.full.milestones=[1, 2, 3]", "stage.full.gamma=0.123456789012345678", "stage.full.epochs=4")
        reference = new_experiment(
            store, load_registry(), ExperimentRequest(plugin="resnext101_wsl", dataset="ph", settings=settings)
        )
        trashed = new_experiment(
            store, load_registry(), ExperimentRequest(plugin="tiny_resnet", dataset="ph", name=LONG)
        )
        store.rename(2, LONG)
        store.change_tags(1, add=["best", "to-be-shown-in-the-paper"], remove=[])
        store.add_note(1, "epidural is weak below 5 mm, " * 6)
        store.trash([trashed.number])
    assert (reference.number, trashed.number) == (4, 5)
    (root / "experiments" / "5").mkdir()
    return root


TABLES = (
    "audit 1",
    "data cache ph --size 32",
    "data check ph",
    "data folds eight",
    "data list",
    "data show eight",
    "data show ph-test",
    "ensemble --members 1,2 --method stack",
    "ensemble --members 1,2,3",
    "exp diff 1 2",
    "exp diff 1 2 3",
    "exp diff 1 4",
    "exp history 1",
    "exp list",
    "exp list --columns number,name,plugin,input.size,input.windows,stage.full.lr,tags,score,score_tta,created",
    "exp list --columns default",
    "exp note 1",
    "exp repro 1",
    "exp show 1",
    "exp tags",
    "exp watch --once",
    "gc --dry-run",
    "plugin list",
    "plugin show resnext101_wsl",
    "scores 1",
    "scores 1 --label any",
    "scores 1 --label any --label intraparenchymal --label intraventricular --label subarachnoid",
    "scores 2 --tta hflip --pooling noisy_or",
    "store check",
    "store schema",
    "store sql 'select * from experiment'",
    "store sql 'select number, name, plugin from experiment'",
)
"""Commands that print a table, except `predict`, `evaluate` and `run`."""

DROPPING = {"data list": "added", "plugin list": "batch", "data cache ph --size 32": "folder"}
"""Commands that drop columns, with one dropped column each."""


@pytest.mark.parametrize("command", TABLES)
def test_every_table_fits_without_breaking_words(
    command: str, crowded: Path, ichx_at: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    for console in (output.console, output.err):
        monkeypatch.setattr(console, "soft_wrap", False)  # as on a terminal

    def words(width: int) -> list[str]:
        done = ichx_at(width, *shlex.split(command), cwd=crowded)
        assert done.code == 0, done.err
        assert too_long((done.out + done.err).splitlines(), width) == []
        return [word for word in done.out.split() if not set(word) & set("━─│┃")]

    narrow, wide = words(80), words(400)
    cut = [word.split("…") for word in narrow if "…" in word and word != "…"]
    lost = {w for w in wide if w not in narrow and not any(w.startswith(a) and w.endswith(b) for a, b in cut)}
    if command in DROPPING:
        assert DROPPING[command] in lost
    else:
        # without words that vary from call to call and words that are too long for a line
        missing = {
            w for w in lost if len(w) < 60 and ":" not in w and not w.startswith("ensembles/") and not w.isdigit()
        }
        assert missing <= {"exp", "number"}


def test_wide_tables_are_split_or_become_paragraphs(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(**how: bool) -> str:
        written = io.StringIO()
        monkeypatch.setattr(output, "console", Console(file=written, width=40))
        heads = ("label", "this", "that", "these", "those")
        print_table("title", heads, [("subdural", *["0.12345\n0.1234-0.2345"] * 4), ("any", 1, 2, 3, 4)], **how)
        return written.getvalue()

    assert rows(shown(split=True))[:3] == [["subdural", "0.12345"], ["", "0.1234-0.2345"], ["any", "1"]]
    assert shown(split=True).count("subdural") == 4
    assert shown().splitlines()[:3] == ["title", "label subdural", "  this   0.12345 0.1234-0.2345"]


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_columns_are_dropped_and_cut(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(output, "console", Console(file=written, width=width))
    made = build_table(
        "",
        ("number", "name", "date", "licence"),
        [(1, "n" * 50, datetime(2026, 1, 2), "l" * 60), (2, "short", None, None)],
        drop=("licence", "date"),
        cut={"name": 12},
    )
    output.console.print(made)
    text = written.getvalue()
    assert all(cell_len(line) <= width for line in text.splitlines())
    assert sum(line.startswith("│") for line in text.splitlines()) == 2
    assert ("licence" in text, "date" in text) == (width >= 120, width >= 60)
    assert ("n" * 50 in text) == (width == 200)


def test_bars_of_jobs_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(output, "err", Console(file=written, width=80, force_terminal=True, color_system=None))
    monkeypatch.setattr(bars, "err", output.err)
    monkeypatch.setattr(launch_view, "info", lambda *_, **__: None)
    view = launch_view.LaunchView()
    view.planned(4, 2, "")
    for number in (29, 30):
        view.unit_started(Unit(number, 1), "cuda:0", "run.log")
        view.unit_progressed(Unit(number, 1), UnitProgress(3, 12, "full 2: loss 0.12345, score 0.23456, lr 1.0e-03"))
    output.err.print(view._bars.get_renderable())
    found = [line.split() for line in lines(written.getvalue()) if "fold" in line]
    assert [line[1] for line in found if line[0] == "exp"] == ["29,", "30,"]
    for line in found[-2:]:
        text = " ".join(line)
        assert "fold 1 " in text
        assert " 3/12 epochs " in text
        assert "full 2: loss 0.12345" in text


def test_epoch_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(output, "err", Console(file=written, width=80, force_terminal=True, color_system=None))
    monkeypatch.setattr(bars, "err", output.err)
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    view = LiveView()
    view.fold_started(FoldPlan(6, "n", 0, 5, "cuda:0, bf16", "random weights", 602_000, 150_000, 40, 0, False))
    now[0] += 5_000
    values = {"loss": 0.123456, "score": 0.234567, "lr": 1e-5, "images_per_second": 1234.5, "seconds": 3_599.0}
    view.epoch_ended(EpochRecord("rebalanced", 1, 12, values))
    (line,) = [line for line in lines(written.getvalue()) if "score" in line]
    assert line == "  rebalanced 12: loss 0.1235, score 0.23457, 59 min 59 s, 54 h 10 min to go"
    written.truncate(0)
    plan = FoldPlan(6, "n", 2, 5, "cuda:0, bf16", "random weights", 602_000, 150_000, 40, 39, False, folds_after=2)
    view.fold_started(plan)
    now[0] += 3_600
    view.epoch_ended(EpochRecord("full", 2, 2, values))
    assert "59 min 59 s, 80 h 00 min to go" in written.getvalue()  # 40 epochs of each fold that follows
