"""`ichx exp list`, names, tags, notes, archive and trash, `ichx gc`, history and logs."""

import csv
import io
import json
import os
import re
import shutil
import time
from pathlib import Path

import pytest
from conftest import Program

from ichx.cli.exp_show import sparkline
from ichx.store import open_store
from ichx.store.testing import run_draft
from ichx.workspace import open_workspace


@pytest.fixture
def six(dataset_copy: Path, ichx: Program) -> Path:
    """Return a workspace with the reference's six experiments, not run."""
    assert ichx("exp", "new", "--reference", cwd=dataset_copy).code == 0
    return dataset_copy


def numbers(ichx: Program, root: Path, *options: object) -> list[int]:
    done = ichx("exp", "list", *options, "--json", cwd=root)
    assert done.code == 0, done.err
    return [e["number"] for e in json.loads(done.out)]


def test_lists_are_filtered_sorted_and_limited(six: Path, ichx: Program) -> None:
    assert numbers(ichx, six) == [6, 5, 4, 3, 2, 1]
    assert numbers(ichx, six, "--where", 'plugin == "resnext50" and size >= 378') == [6]
    assert numbers(ichx, six, "--where", "batch == 64", "--sort", "number") == [2, 6]
    assert numbers(ichx, six, "--sort", "-input.size", "--limit", 2) == [6, 5]
    assert numbers(ichx, six, "--since", "1h", "--state", "new", "--limit", 1) == [6]
    assert numbers(ichx, six, "--since", "2020-01-01", "--all") == [6, 5, 4, 3, 2, 1]
    for options, code, value in (
        (("--where", "size >"), "invalid_input", "size >"),
        (("--columns", ","), "invalid_input", "','"),
        (("--since", "soon"), "usage", "'soon'"),
        (("--state", "runing"), "invalid_input", "'runing'"),
    ):
        ichx("exp", "list", *options, "--json", cwd=six).check_error(code, value)
    assert numbers(ichx, six, "--where", "size > 1000") == []
    assert ichx("exp", "list", "--csv", "--md", cwd=six).code == 2


def test_columns_are_saved(six: Path, ichx: Program) -> None:
    rows = list(
        csv.reader(io.StringIO(ichx("exp", "list", "--columns", "number,batch,stage.full.lr", "--csv", cwd=six).out))
    )
    assert rows[:2] == [["number", "batch", "stage.full.lr", "marks"], ["6", "64", "8e-06", "partial (0 of 2 folds)"]]
    again = ichx("exp", "list", "--md", cwd=six).out.splitlines()
    assert again[0] == "| number | batch | stage.full.lr | marks |"
    assert len(again) == 8
    assert "8e-06" in ichx("exp", "list", cwd=six).out
    assert "OOF score" in ichx("exp", "list", "--columns", "default", cwd=six).out


def test_saved_columns_belong_to_the_user(
    six: Path, tmp_path: Path, ichx: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    def heads() -> str:
        return ichx("exp", "list", "--csv", cwd=six).out.splitlines()[0]

    default = heads()
    before = json.loads(ichx("store", "sql", "select * from setting order by name", "--json", cwd=six).out)
    for user, columns in (("one", "number,batch"), ("two", "name,score"), ("three", "number,host,device")):
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / user))
        assert heads() == default
        assert ichx("exp", "list", "--columns", columns, cwd=six).code == 0
        assert heads() == f"{columns},marks"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "one"))
    assert heads() == "number,batch,marks"
    assert json.loads(ichx("store", "sql", "select * from setting order by name", "--json", cwd=six).out) == before
    (tmp_path / "one" / "ichx" / "preferences.json").write_text('{"exp list columns": ["nonsense", 3, [1], "name"]}')
    assert heads() == "name,marks"
    (tmp_path / "one" / "ichx" / "preferences.json").write_text("{")
    assert heads() == default


def test_columns_that_cannot_be_saved_apply_to_one_list(
    six: Path, tmp_path: Path, ichx: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    for columns, first in (("name,score", "name,score,marks"), ("default", "number,name,")):
        result = ichx("exp", "list", "--columns", columns, "--csv", cwd=six)
        assert (result.code, result.out.startswith(first)) == (0, True)
        assert str(tmp_path / "file") in result.err


def test_columns_that_version_0_1_saved_in_the_store_apply_until_others_are_chosen(six: Path, ichx: Program) -> None:
    with open_store(open_workspace(six)) as store:
        store.set_setting("exp list columns", ["number", "batch"])
    assert ichx("exp", "list", "--csv", cwd=six).out.startswith("number,batch,marks")
    assert "OOF score" in ichx("exp", "list", "--columns", "default", cwd=six).out
    assert ichx("exp", "list", "--csv", cwd=six).out.startswith("number,name,")


def test_names_tags_and_notes(six: Path, ichx: Program) -> None:
    assert ichx("exp", "name", 6, "wide", cwd=six).code == 0
    assert ichx("exp", "tag", "last", "best", "paper", cwd=six).out == "best, paper\n"
    assert ichx("exp", "tag", 6, "--remove", "paper", cwd=six).out == "best\n"
    assert numbers(ichx, six, "--tag", "best") == [6]
    assert json.loads(ichx("exp", "tags", "--json", cwd=six).out) == {"best": 1}
    assert "weak on epidural" in ichx("exp", "note", 6, "weak on epidural", cwd=six).out
    shown = ichx("exp", "show", "last", cwd=six).out
    assert "experiment 6: wide (new)" in shown
    assert "tags       best" in shown
    assert "weak on epidural" in shown
    for arguments, code, values in (
        (("tag", 6, "ok", "a,b"), "invalid_input", ["'a,b'"]),
        (("tag", 6, "ok", ""), "invalid_input", ["''"]),
        (("note", 6, " "), "invalid_input", []),
        (("tag", 9, "x"), "not_found", ["9"]),
    ):
        ichx("exp", *arguments, "--json", cwd=six).check_error(code, *values)
    assert ichx("exp", "name", 6, "", cwd=six).code == 1
    assert ichx("exp", "name", 6, "x" * 201, cwd=six).code == 1


def test_clone(six: Path, ichx: Program) -> None:
    made = json.loads(ichx("exp", "clone", 6, "--set", "stage.full.lr=5e-6", "--json", cwd=six).out)
    assert (made["number"], made["parent"], made["plugin"]) == (7, 6, "resnext50")
    found = json.loads(ichx("exp", "diff", 6, 7, "--json", cwd=six).out)
    assert found["values"] == {"stage.full.lr": {"6": 8e-6, "7": 5e-6}}
    several = ichx("exp", "diff", 2, 6, 7, cwd=six).out
    assert "stage.full.lr" in several
    assert "stage.balanced.lr" not in several
    assert numbers(ichx, six, "--parent", 6) == [7]
    assert re.search("parent +experiment 6", ichx("exp", "show", 7, cwd=six).out)
    ichx("exp", "clone", 6, "--set", "lr=1", "--json", cwd=six).check_error("invalid_input", "'lr'")


def test_archive_and_trash(six: Path, ichx: Program) -> None:
    assert ichx("exp", "archive", 3, 4, cwd=six).code == 0
    assert numbers(ichx, six) == [6, 5, 2, 1]
    assert numbers(ichx, six, "--archived") == [6, 5, 4, 3, 2, 1]
    assert ichx("exp", "archive", 4, "--undo", cwd=six).code == 0
    assert ichx("exp", "rm", 1, 2, cwd=six).code == 0
    assert numbers(ichx, six) == [6, 5, 4]
    assert numbers(ichx, six, "--trash") == [2, 1]
    refused = ichx("run", 1, "--no-pretrained", "--json", cwd=six)
    refused.check_error("conflict", "1")
    assert "`ichx exp restore 1`" in refused.error["remedy"]
    assert ichx("exp", "restore", 2, cwd=six).code == 0
    assert numbers(ichx, six) == [6, 5, 4, 2]


def test_gc_lists_first_and_deletes_with_yes(trained_copy: Path, ichx: Program) -> None:
    experiments = trained_copy / "experiments"
    assert json.loads(ichx("gc", "--json", cwd=trained_copy).out) == []
    (experiments / "2" / "fold-0" / "checkpoint-000-00001.pt").write_bytes(b"x" * 1000)
    for name, age in (
        ("datasets/gone", 2 * 24 * 3600),
        ("datasets/new", 0),  # a process may be adding it
        ("experiments/77", 2 * 24 * 3600),
        ("experiments/78", 0),
    ):
        left = trained_copy / name / "left.txt"
        left.parent.mkdir()
        left.write_text("left")
        os.utime(left, (time.time() - age, time.time() - age))
    ichx("exp", "rm", 3, cwd=trained_copy)
    found = json.loads(ichx("gc", "--json", cwd=trained_copy).out)
    assert [(g["kind"], Path(g["path"]).name) for g in found] == [
        ("experiment in the trash", "3"),
        ("old checkpoint", "checkpoint-000-00001.pt"),
        ("orphaned folder", "77"),
        ("orphaned folder", "gone"),
    ]
    assert found[1]["nbytes"] == 1000
    before = sorted(path for path in experiments.rglob("*"))
    assert "4 items" in ichx("gc", "--dry-run", cwd=trained_copy).out
    assert "`ichx gc --yes`" in ichx("gc", cwd=trained_copy).err, "without a terminal it does not ask"
    assert sorted(path for path in experiments.rglob("*")) == before
    assert ichx("gc", "--yes", cwd=trained_copy).code == 0
    assert sorted(path.name for path in experiments.iterdir()) == ["1", "2", "78"]
    assert json.loads(ichx("gc", "--json", cwd=trained_copy).out) == []
    assert numbers(ichx, trained_copy, "--trash") == []
    assert ichx("ensemble", "--members", "1,2", cwd=trained_copy).code == 0


def test_unused_caches_are_garbage(trained_copy: Path, ichx: Program) -> None:
    (cache,) = [path for path in (trained_copy / "cache").iterdir() if path.name.startswith("ph-32")]
    ichx("exp", "rm", 1, 2, 3, cwd=trained_copy)
    kinds = {g["kind"] for g in json.loads(ichx("gc", "--json", cwd=trained_copy).out)}
    assert kinds == {"experiment in the trash"}, "a process may still write to a new cache"
    yesterday = time.time() - 2 * 24 * 3600
    for path in cache.iterdir():
        os.utime(path, (yesterday, yesterday))
    found = json.loads(ichx("gc", "--json", cwd=trained_copy).out)
    assert [Path(g["path"]) for g in found if g["kind"] == "unused cache"] == [cache]
    ichx("exp", "restore", 1, cwd=trained_copy)
    kinds = {g["kind"] for g in json.loads(ichx("gc", "--json", cwd=trained_copy).out)}
    assert "unused cache" not in kinds


def test_caches_of_a_dataset_without_catalog_are_no_garbage(trained_copy: Path, ichx: Program) -> None:
    for path in (trained_copy / "cache").rglob("*"):
        os.utime(path, (0, 0))
    shutil.rmtree(trained_copy / "datasets" / "ph")
    done = ichx("gc", "--json", cwd=trained_copy)
    assert done.code == 0, done.err
    assert json.loads(done.out) == []


def test_history_and_curves(trained_copy: Path, ichx: Program) -> None:
    rows = list(csv.DictReader(io.StringIO(ichx("exp", "history", 1, "--csv", cwd=trained_copy).out)))
    assert [(row["fold"], row["stage"], row["epoch"]) for row in rows[:3]] == [
        ("0", "balanced", str(n)) for n in (1, 2, 3)
    ]
    assert len(rows) == 12
    with open_store(open_workspace(trained_copy)) as store:
        assert float(rows[0]["score"]) == store.history(1, 0)[0].values["score"]
    only = json.loads(ichx("exp", "history", 1, "--fold", 1, "--json", cwd=trained_copy).out)
    assert list(only) == ["1"]
    shown = ichx("exp", "show", 1, cwd=trained_copy).out
    assert "fold 0 score" in shown
    assert "weights.safetensors" in shown
    ichx("exp", "history", 1, "--fold", 7, "--json", cwd=trained_copy).check_error("not_found", "7")


def test_sparklines() -> None:
    assert sparkline([0.0, 1.0, 2.0, float("nan"), 7.0]) == "▁▂▃ █"
    assert sparkline([3.0, 3.0]) == "▄▄"
    assert sparkline([float("nan")]) == " "
    long = sparkline([float(value) for value in range(1000)])
    assert (len(long), long[0], long[-1]) == (40, "▁", "█")
    assert list(long) == sorted(long)


def test_watch_without_active_runs(six: Path, ichx: Program) -> None:
    assert ichx("exp", "watch", "--once", cwd=six).code == 0
    assert json.loads(ichx("exp", "watch", "--json", cwd=six).out) == []


def test_rm_names_experiments_that_gc_does_not_delete(trained_copy: Path, ichx: Program) -> None:
    ichx("ensemble", "--members", "1,2", cwd=trained_copy)
    moved, remaining = ichx("exp", "rm", 1, cwd=trained_copy).err.splitlines()
    assert "`ichx exp restore 1`" in moved
    assert "`ichx gc`" not in moved
    assert re.search("experiment 1 .*ensemble 1", remaining)
    moved, again = ichx("exp", "rm", 1, 3, cwd=trained_copy).err.splitlines()
    assert "`ichx exp restore 1 3`" in moved
    assert "`ichx gc`" in moved
    assert again == remaining


def test_a_followed_log_switches_to_the_next_fold(
    trained_copy: Path, ichx: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained_copy / "experiments" / "1"
    (folder / "fold-0" / "run.log").write_text("of fold 0\n", encoding="utf-8")
    (folder / "fold-1" / "run.log").write_text("the first, ä\n", encoding="utf-8")
    polls = 0

    def meanwhile(_seconds: float) -> None:
        nonlocal polls
        polls += 1
        if polls == 1:
            with (folder / "fold-1" / "run.log").open("a", encoding="utf-8") as log:
                log.write("the second\n")
            with open_store(open_workspace(trained_copy)) as store:
                store.start_run(run_draft(1, 0))
        elif polls == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr("ichx.cli.exp_show.time.sleep", meanwhile)
    done = ichx("exp", "log", 1, "-f", cwd=trained_copy)
    assert (done.code, done.out) == (130, "the first, ä\nthe second\nof fold 0\n")
    polls = 1
    done = ichx("exp", "log", 1, "-f", "--fold", 1, cwd=trained_copy)
    assert done.out == "the first, ä\nthe second\n", "with --fold, it does not switch"


@pytest.mark.parametrize("options", [(), ("--fold", 1)])
def test_a_followed_log_ends_with_its_experiment(
    trained_copy: Path, ichx: Program, monkeypatch: pytest.MonkeyPatch, options: tuple[object, ...]
) -> None:
    monkeypatch.setattr("ichx.cli.exp_show.POLL_SECONDS", 0.0)
    log = (trained_copy / "experiments" / "1" / "fold-1" / "run.log").read_text(encoding="utf-8")
    done = ichx("exp", "log", 1, "-f", *options, cwd=trained_copy)
    assert (done.code, done.out, "1" in done.err) == (0, log, True)

    with open_store(open_workspace(trained_copy)) as store:
        running = [store.start_run(run_draft(1, 1)).id]

    def end(_seconds: float) -> None:
        with open_store(open_workspace(trained_copy)) as store:
            while running:
                store.finish_run(running.pop(), "failed")

    monkeypatch.setattr("ichx.cli.exp_show.time.sleep", end)
    assert ichx("exp", "log", 1, "-f", *options, cwd=trained_copy).out == log
    assert not running
