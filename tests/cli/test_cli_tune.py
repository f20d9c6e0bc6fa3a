"""`ichx tune show`, and that it stands under a command of its own."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Program, clean_environment
from optuna.trial import TrialState
from optuna_studies import fill, frozen, new_study, register, storage
from test_program import LIGHT

from ichx.store import open_store
from ichx.workspace import open_workspace


@pytest.fixture
def tuned(trained_copy: Path) -> Path:
    """Return a workspace in which experiment 1 has two studies."""
    workspace = open_workspace(trained_copy)
    with open_store(workspace) as store, storage(workspace) as made:
        parent = store.experiment(1)
        study = new_study(made, parent)
        fill(store, parent, study, 24)
        values = {"stage.balanced.lr": 1e-2, "model.dropout": 0.1, "batch": "16"}
        limited = register(store, parent, study.study_name, 24, values)
        study.add_trial(frozen(values, TrialState.COMPLETE, 0.09, [("minutes", 5.0)], experiment=limited))
        fill(store, parent, new_study(made, parent, "wide", subset=0.5, length=0.25), 5)
    return trained_copy


def test_a_study_is_shown_with_its_marks(tuned: Path, ichx: Program) -> None:
    done = ichx("tune", "show", 1, cwd=tuned)
    assert done.code == 0, done.err
    found = json.loads(ichx("tune", "show", 1, "--json", cwd=tuned).out)
    best = found["best"]
    assert "scores of fold 0 [selected]" in done.out
    rows = [line.split("│")[1:-1] for line in done.out.splitlines() if line.startswith("│")]
    assert [cell.strip() for cell in rows[0]][:3] == [str(best["experiment"]), f"{best['score']:.5f}", "done"]
    assert any(row[2].strip() == "as it is" for row in rows), "the baseline is among them"
    learned = next(row for row in rows if row[0].strip() == "stage.balanced.lr")
    assert learned[1].strip().endswith("%")
    assert "experiment 1, fold 0: 25 trials: 18 done, 6 pruned, 1 failed" in done.err
    assert "ending 6 trials early spared 24 of 138 epochs, about 4 min 00 s" in done.err
    assert "1 done trial over a limit, the best one experiment" in done.err
    assert "0.09000 [selected], over minutes" in done.err
    log = tuned / "experiments/9/t.log"
    assert f"warning: trial 2 failed: exit code 1: no memory; its log: {log}" in done.err
    assert f"next: `ichx exp promote {best['experiment']}`" in done.err


def test_what_is_shown_fits_a_narrow_terminal(tuned: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ichx", "tune", "show", "1"],
        cwd=tuned,
        env=clean_environment(COLUMNS="80"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert max(len(line) for line in done.stdout.splitlines()) <= 80
    assert "lr" in done.stdout


def test_studies_have_names(tuned: Path, ichx: Program) -> None:
    done = ichx("tune", "show", 1, "--study", "wide", cwd=tuned)
    assert "study wide of experiment 1, fold 0, 50 % of the patients, 25 % of the epochs: 5 trials" in done.err
    assert "3 done trials: what matters is told from 8 on" in done.err
    assert "other studies of experiment 1: the first" in done.err
    wrong = ichx("tune", "show", 1, "--study", "wied", cwd=tuned)
    assert (wrong.code, wrong.out) == (1, "")
    assert "'wide'" in wrong.err


def test_all_trials_as_csv(tuned: Path, ichx: Program) -> None:
    rows = list(csv.DictReader(io.StringIO(ichx("tune", "show", 1, "--csv", cwd=tuned).out)))
    assert [row["trial"] for row in rows] == [str(i) for i in range(1, 26)]
    assert (rows[0]["baseline"], rows[0]["stage.balanced.lr"], rows[0]["state"]) == ("yes", "0.004", "done")
    assert rows[24]["exceeded"] == "minutes"


def test_promoted_ones_are_shown_with_both_scores(tuned: Path, ichx: Program) -> None:
    workspace = open_workspace(tuned)
    best = json.loads(ichx("tune", "show", 1, "--json", cwd=tuned).out)["best"]
    with open_store(workspace) as store:
        values = {"stage.balanced.lr": best["values"]["stage.balanced.lr"]}
        number = register(store, store.experiment(1), "experiment-1", 9, values, of=best["experiment"], score=0.0998)
    before = ichx("tune", "show", 1, cwd=tuned)
    assert "fold 0 chose them [selected]" in before.out
    assert f"next: `ichx run {number}` runs the folds that did not choose it" in before.err
    assert ichx("run", number, cwd=tuned).code == 0
    after = ichx("tune", "show", 1, cwd=tuned)
    (promoted,) = json.loads(ichx("tune", "show", 1, "--json", cwd=tuned).out)["promoted"]
    row = next(line for line in after.out.splitlines() if "0.09980" in line)
    for key in ("score", "parent_score"):
        assert f"{promoted[key]:.5f}" in row
    assert f"{promoted['parent_score'] - promoted['score']:+.5f}" in row
    assert "next:" not in after.err


def test_a_trial_says_whose_study_it_is_of(tuned: Path, ichx: Program) -> None:
    number = json.loads(ichx("tune", "show", 1, "--study", "wide", "--json", cwd=tuned).out)["trials"][2]["experiment"]
    done = ichx("tune", "show", number, cwd=tuned)
    assert (done.code, done.out) == (1, "")
    assert "it is a trial of experiment-1-wide\n       `ichx tune show 1 --study wide` shows that\n" in done.err


def test_trials_are_counted_from_one_everywhere(tuned: Path, ichx: Program) -> None:
    found = json.loads(ichx("tune", "show", 1, "--json", cwd=tuned).out)
    assert [t["trial"] for t in found["trials"]] == list(range(1, 26))
    best = found["best"]
    assert found["trials"][best["trial"] - 1] == best
    told = ichx("exp", "show", best["experiment"], cwd=tuned).out
    assert f"experiment-1, trial {best['trial']}:" in told


def test_what_cannot_be_asked_for_is_told_before_any_trial(tuned: Path, ichx: Program) -> None:
    for option, value, told in (
        ("--study", "a/b", "give letters"),
        ("--device", "gpu", "is no device"),
        ("--timeout", "soon", "is no duration"),
    ):
        done = ichx("tune", 1, option, value, cwd=tuned)
        assert done.code == 2
        assert told in done.err
    assert ichx("tune", "show", 1, "--json", "--csv", cwd=tuned).code == 2


def test_without_a_study_there_is_a_remedy(trained_copy: Path, ichx: Program) -> None:
    done = ichx("tune", "show", 1, cwd=trained_copy)
    assert (done.code, done.out) == (1, "")
    assert done.err == "error: experiment 1 has no study\n       `ichx tune 1` makes one\n"


def test_tune_is_a_command_and_has_one_under_it(ichx: Program, trained_copy: Path) -> None:
    told = ichx("tune", "--help", cwd=trained_copy).out
    assert "Usage: ichx tune [OPTIONS]" in told
    assert "--trials" in told
    assert "show" in told
    assert "Usage: ichx tune show [OPTIONS]" in ichx("tune", "show", "--help", cwd=trained_copy).out
    unknown = ichx("tune", 77, "--trials", 3, cwd=trained_copy)
    assert (unknown.code, unknown.err.splitlines()[0]) == (1, "error: There is no experiment 77.")
    assert ichx("tune", "--trials", 3, 77, cwd=trained_copy).err == unknown.err
    for wrong in (("tune",), ("tune", "shwo"), ("tune", 1, "show"), ("tune", "show")):
        assert ichx(*wrong, cwd=trained_copy).code == 2, wrong


def test_the_shell_completes_what_stands_under_tune(ichx_process: Program, trained_root: Path) -> None:
    for typed, wanted in (
        ("ichx tune s", ["show", "space"]),
        ("ichx tune ", ["3", "2", "1", "last", "show", "space"]),
        ("ichx tune show ", ["3", "2", "1", "last"]),
        ("ichx tune 1 s", []),
        ("ichx tune 1 --tri", ["--trials"]),
        ("ichx tune show 1 --stu", ["--study"]),
    ):
        words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
        done = ichx_process(cwd=trained_root, _ICHX_COMPLETE="complete_bash", **words)
        assert (done.code, done.out.split()) == (0, wanted), typed


def test_show_imports_no_torch(tuned: Path) -> None:
    code = LIGHT.replace('("torch", "timm", "pandas", "alembic")', '("torch", "timm")')
    done = subprocess.run(
        [sys.executable, "-c", code, "tune", "show", "1"],
        cwd=tuned,
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    assert done.stderr.splitlines()[-1] == "HEAVY 0 []", done.stderr


def test_a_backup_has_the_studies_too(tuned: Path, ichx: Program) -> None:
    done = ichx("store", "backup", "copy.db", cwd=tuned)
    assert done.code == 0, done.err
    (tuned / "db" / "tuning.db").unlink()
    assert "has no study" in ichx("tune", "show", 1, cwd=tuned).err
    (tuned / "copy.tuning.db").rename(tuned / "db" / "tuning.db")
    assert ichx("tune", "show", 1, cwd=tuned).code == 0
