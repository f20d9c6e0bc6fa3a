"""Finding experiments and keeping order among them, from the command line."""

import csv
import io
import json
import os
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


def test_a_list_is_narrowed_ordered_and_cut(six: Path, ichx: Program) -> None:
    assert numbers(ichx, six) == [6, 5, 4, 3, 2, 1]
    assert numbers(ichx, six, "--where", 'plugin == "resnext50" and size >= 378') == [6]
    assert numbers(ichx, six, "--where", "batch == 64", "--sort", "number") == [2, 6]
    assert numbers(ichx, six, "--sort", "-input.size", "--limit", 2) == [6, 5]
    assert numbers(ichx, six, "--since", "1h", "--state", "new", "--limit", 1) == [6]
    assert numbers(ichx, six, "--since", "2020-01-01", "--all") == [6, 5, 4, 3, 2, 1]
    for wrong, told in (
        (("--where", "sice > 1"), "'size'"),
        (("--where", "size >"), "'size >'"),
        (("--sort", "scoer"), "'score'"),
        (("--columns", "number,scoer"), "'score'"),
        (("--columns", ","), "names nothing"),
        (("--since", "soon"), "'soon' is no time"),
        (("--state", "runing"), "'runing'"),
    ):
        done = ichx("exp", "list", *wrong, cwd=six)
        assert done.code == 1, wrong
        assert told in done.err
        assert "Traceback" not in done.err
    assert "no experiment is like that" in ichx("exp", "list", "--where", "size > 1000", cwd=six).err
    assert ichx("exp", "list", "--csv", "--md", cwd=six).code == 2


def test_chosen_columns_are_remembered(six: Path, ichx: Program) -> None:
    rows = list(
        csv.reader(io.StringIO(ichx("exp", "list", "--columns", "number,batch,stage.full.lr", "--csv", cwd=six).out))
    )
    assert rows[:2] == [["number", "batch", "stage.full.lr", "marks"], ["6", "64", "8e-06", "partial (0 of 2 folds)"]]
    again = ichx("exp", "list", "--md", cwd=six).out.splitlines()
    assert again[0] == "| number | batch | stage.full.lr | marks |"
    assert len(again) == 8
    assert "8e-06" in ichx("exp", "list", cwd=six).out
    assert "OOF score" in ichx("exp", "list", "--columns", "default", cwd=six).out


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
    for wrong, told in (
        (("tag", 6, "a,b"), "'a,b' is no tag"),
        (("note", 6, " "), "the note is empty"),
        (("name", 6, ""), "between 1 and 200"),
        (("tag", 9, "x"), "no experiment 9"),
    ):
        done = ichx("exp", *wrong, cwd=six)
        assert done.code == 1, wrong
        assert told in done.err
    assert ichx("exp", "show", "six", cwd=six).code == 2


def test_a_clone_differs_in_what_was_set_and_remembers_its_model(six: Path, ichx: Program) -> None:
    made = json.loads(ichx("exp", "clone", 6, "--set", "stage.full.lr=5e-6", "--json", cwd=six).out)
    assert (made["number"], made["parent"], made["plugin"]) == (7, 6, "resnext50")
    found = json.loads(ichx("exp", "diff", 6, 7, "--json", cwd=six).out)
    assert found["values"] == {"stage.full.lr": {"6": 8e-6, "7": 5e-6}}
    several = ichx("exp", "diff", 2, 6, 7, cwd=six).out
    assert "stage.full.lr" in several
    assert "stage.balanced.lr" not in several
    assert numbers(ichx, six, "--parent", 6) == [7]
    assert "made from  experiment 6" in ichx("exp", "show", 7, cwd=six).out
    assert "'lr'" in ichx("exp", "clone", 6, "--set", "lr=1", cwd=six).err


def test_the_archive_and_the_trash(six: Path, ichx: Program) -> None:
    assert ichx("exp", "archive", 3, 4, cwd=six).code == 0
    assert numbers(ichx, six) == [6, 5, 2, 1]
    assert numbers(ichx, six, "--archived") == [6, 5, 4, 3, 2, 1]
    assert ichx("exp", "archive", 4, "--undo", cwd=six).code == 0
    assert ichx("exp", "rm", 1, 2, cwd=six).code == 0
    assert numbers(ichx, six) == [6, 5, 4]
    assert numbers(ichx, six, "--trash") == [2, 1]
    refused = ichx("run", 1, "--no-pretrained", cwd=six)
    assert refused.code == 1
    assert "ichx exp restore 1" in refused.err
    assert ichx("exp", "restore", 2, cwd=six).code == 0
    assert numbers(ichx, six) == [6, 5, 4, 2]


def test_gc_names_everything_first_and_deletes_only_when_told(trained_copy: Path, ichx: Program) -> None:
    experiments = trained_copy / "experiments"
    assert "there is nothing to delete" in ichx("gc", cwd=trained_copy).err
    (experiments / "2" / "fold-0" / "checkpoint-000-00001.pt").write_bytes(b"x" * 1000)
    (experiments / "77").mkdir()
    (experiments / "77" / "left.txt").write_text("left")
    for name, age in (("gone", 2 * 24 * 3600), ("new", 0)):  # the second one is perhaps being added
        left = trained_copy / "datasets" / name / "left.txt"
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
    dry = ichx("gc", "--dry-run", cwd=trained_copy)
    assert "4 things" in dry.out
    assert "nothing is deleted" in ichx("gc", cwd=trained_copy).err, "without a terminal nobody is asked"
    assert sorted(path for path in experiments.rglob("*")) == before
    assert ichx("gc", "--yes", cwd=trained_copy).code == 0
    assert sorted(path.name for path in experiments.iterdir()) == ["1", "2"]
    assert "there is nothing to delete" in ichx("gc", cwd=trained_copy).err
    assert numbers(ichx, trained_copy, "--trash") == []
    assert ichx("ensemble", "--members", "1,2", cwd=trained_copy).code == 0


def test_a_cache_is_garbage_when_no_experiment_reads_it_any_more(trained_copy: Path, ichx: Program) -> None:
    (cache,) = [path for path in (trained_copy / "cache").iterdir() if path.name.startswith("ph-32")]
    ichx("exp", "rm", 1, 2, 3, cwd=trained_copy)
    kinds = {g["kind"] for g in json.loads(ichx("gc", "--json", cwd=trained_copy).out)}
    assert kinds == {"experiment in the trash"}, "something may still be writing to a fresh cache"
    yesterday = time.time() - 2 * 24 * 3600
    for path in cache.iterdir():
        os.utime(path, (yesterday, yesterday))
    found = json.loads(ichx("gc", "--json", cwd=trained_copy).out)
    assert [Path(g["path"]) for g in found if g["kind"] == "unused cache"] == [cache]
    ichx("exp", "restore", 1, cwd=trained_copy)
    kinds = {g["kind"] for g in json.loads(ichx("gc", "--json", cwd=trained_copy).out)}
    assert "unused cache" not in kinds


def test_caches_of_a_dataset_whose_catalog_is_gone_are_kept(trained_copy: Path, ichx: Program) -> None:
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
    assert "no fold 7" in ichx("exp", "history", 1, "--fold", 7, cwd=trained_copy).err


def test_sparklines() -> None:
    assert sparkline([0.0, 1.0, 2.0, float("nan"), 7.0]) == "▁▂▃ █"
    assert sparkline([3.0, 3.0]) == "▄▄"
    assert sparkline([float("nan")]) == " "
    long = sparkline([float(value) for value in range(1000)])
    assert (len(long), long[0], long[-1]) == (40, "▁", "█")
    assert list(long) == sorted(long)


def test_watching_nothing(six: Path, ichx: Program) -> None:
    assert "nothing runs" in ichx("exp", "watch", "--once", cwd=six).out
    assert json.loads(ichx("exp", "watch", "--json", cwd=six).out) == []


def test_the_trash_says_what_gc_will_not_delete(trained_copy: Path, ichx: Program) -> None:
    ichx("ensemble", "--members", "1,2", cwd=trained_copy)
    kept = "experiment 1 stays on disk all the same, for ensemble 1 was made of it"
    assert ichx("exp", "rm", 1, cwd=trained_copy).err.splitlines() == [
        "experiment 1 is in the trash; `ichx exp restore 1` takes it out",
        kept,
    ]
    assert ichx("exp", "rm", 1, 3, cwd=trained_copy).err.splitlines() == [
        "experiments 1, 3 are in the trash; `ichx exp restore 1 3` takes them out, `ichx gc` deletes for good",
        kept,
    ]


def test_a_followed_log_goes_on_with_the_next_fold(
    trained_copy: Path, ichx: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = trained_copy / "experiments" / "1"
    (folder / "fold-0" / "run.log").write_text("of fold 0\n", encoding="utf-8")
    (folder / "fold-1" / "run.log").write_text("the first, ä\n", encoding="utf-8")
    looks = 0

    def meanwhile(_seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            with (folder / "fold-1" / "run.log").open("a", encoding="utf-8") as log:
                log.write("the second\n")
            with open_store(open_workspace(trained_copy)) as store:
                store.start_run(run_draft(1, 0))
        elif looks == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr("ichx.cli.exp_show.time.sleep", meanwhile)
    done = ichx("exp", "log", 1, "-f", cwd=trained_copy)
    assert (done.code, done.out) == (130, "the first, ä\nthe second\nof fold 0\n")
    looks = 1
    done = ichx("exp", "log", 1, "-f", "--fold", 1, cwd=trained_copy)
    assert done.out == "the first, ä\nthe second\n", "a fold that was asked for is kept to"
