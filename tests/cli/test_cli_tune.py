"""`ichx tune show` and `ichx tune`: tables, JSON, CSV, next steps and invalid options."""

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

pytestmark = pytest.mark.slow


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


def test_show(tuned: Path, ichx: Program) -> None:
    done = ichx("tune", "show", 1, cwd=tuned)
    assert done.code == 0, done.err
    found = json.loads(ichx("tune", "show", 1, "--json", cwd=tuned).out)
    best = found["best"]
    assert "fold 0 [selected]" in done.out
    rows = [line.split("│")[1:-1] for line in done.out.splitlines() if line.startswith("│")]
    assert [cell.strip() for cell in rows[0]][:3] == [str(best["experiment"]), f"{best['score']:.5f}", "done"]
    assert any(row[2].strip() == "baseline" for row in rows)
    learned = next(row for row in rows if row[0].strip() == "stage.balanced.lr")
    assert learned[1].strip().endswith("%")
    for value in (
        "experiment 1, fold 0: 25 trials: 18 done, 6 pruned, 1 failed",
        "24 of 138 epochs, about 4 min 00 s",
        "0.09000 [selected], over minutes",
        str(tuned / "experiments/9/t.log"),
        "no memory",
        f"`ichx exp promote {best['experiment']}`",
    ):
        assert value in done.err


def test_show_fits_80_columns(tuned: Path) -> None:
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


def test_named_studies(tuned: Path, ichx: Program) -> None:
    done = ichx("tune", "show", 1, "--study", "wide", cwd=tuned)
    for value in ("study wide of experiment 1, fold 0", "50 %", "25 %", "5 trials", "other studies of experiment 1"):
        assert value in done.err
    assert json.loads(ichx("tune", "show", 1, "--study", "wide", "--json", cwd=tuned).out)["importances"] is None
    wrong = ichx("tune", "show", 1, "--study", "wied", "--json", cwd=tuned)
    wrong.check_error("not_found", "'wied'")
    assert "'wide'" in wrong.error["remedy"]


def test_all_trials_as_csv(tuned: Path, ichx: Program) -> None:
    rows = list(csv.DictReader(io.StringIO(ichx("tune", "show", 1, "--csv", cwd=tuned).out)))
    assert [row["trial"] for row in rows] == [str(i) for i in range(1, 26)]
    assert (rows[0]["baseline"], rows[0]["stage.balanced.lr"], rows[0]["state"]) == ("yes", "0.004", "done")
    assert rows[24]["exceeded"] == "minutes"


def test_promoted_trials_have_both_scores(tuned: Path, ichx: Program) -> None:
    workspace = open_workspace(tuned)
    best = json.loads(ichx("tune", "show", 1, "--json", cwd=tuned).out)["best"]
    with open_store(workspace) as store:
        values = {"stage.balanced.lr": best["values"]["stage.balanced.lr"]}
        number = register(store, store.experiment(1), "experiment-1", 9, values, of=best["experiment"], score=0.0998)
    before = ichx("tune", "show", 1, cwd=tuned)
    assert "fold 0 [selected]" in before.out
    assert f"`ichx run {number}`" in before.err
    assert ichx("run", number, cwd=tuned).code == 0
    after = ichx("tune", "show", 1, cwd=tuned)
    (promoted,) = json.loads(ichx("tune", "show", 1, "--json", cwd=tuned).out)["promoted"]
    row = next(line for line in after.out.splitlines() if "0.09980" in line)
    for key in ("score", "parent_score"):
        assert f"{promoted[key]:.5f}" in row
    assert f"{promoted['parent_score'] - promoted['score']:+.5f}" in row
    assert "Next:" in before.err
    assert "Next:" not in after.err


def test_a_trial_names_its_study(tuned: Path, ichx: Program) -> None:
    number = json.loads(ichx("tune", "show", 1, "--study", "wide", "--json", cwd=tuned).out)["trials"][2]["experiment"]
    done = ichx("tune", "show", number, "--json", cwd=tuned)
    done.check_error("not_found", "experiment-1-wide")
    assert "`ichx tune show 1 --study wide`" in done.error["remedy"]


def test_trial_numbers_start_at_one(tuned: Path, ichx: Program) -> None:
    found = json.loads(ichx("tune", "show", 1, "--json", cwd=tuned).out)
    assert [t["trial"] for t in found["trials"]] == list(range(1, 26))
    best = found["best"]
    assert found["trials"][best["trial"] - 1] == best
    assert f"experiment-1, trial {best['trial']}:" in ichx("exp", "show", best["experiment"], cwd=tuned).out


def test_invalid_options_are_reported_before_any_trial(tuned: Path, ichx: Program) -> None:
    before = json.loads(ichx("tune", "show", 1, "--json", cwd=tuned).out)
    for options in (("--study", "a/b"), ("--device", "gpu"), ("--timeout", "soon"), ("--sampler", "grid")):
        ichx("tune", 1, *options, "--json", cwd=tuned).check_error("usage", options[1])
    ichx("tune", 1, "--space", "a.toml", "--search", "batch=8,16", "--json", cwd=tuned).check_error("usage", "--space")
    ichx("tune", "show", 1, "--json", "--csv", cwd=tuned).check_error("usage", "--csv")
    assert json.loads(ichx("tune", "show", 1, "--json", cwd=tuned).out) == before


def test_without_a_study(trained_copy: Path, ichx: Program) -> None:
    done = ichx("tune", "show", 1, "--json", cwd=trained_copy)
    done.check_error("not_found", "1")
    assert "`ichx tune 1`" in done.error["remedy"]


def test_tune_is_a_command_with_subcommands(ichx: Program, trained_copy: Path) -> None:
    page = ichx("tune", "--help", cwd=trained_copy).out
    assert "Usage: ichx tune [OPTIONS]" in page
    assert "--trials" in page
    assert "show" in page
    assert "Usage: ichx tune show [OPTIONS]" in ichx("tune", "show", "--help", cwd=trained_copy).out
    unknown = ichx("tune", 77, "--trials", 3, "--json", cwd=trained_copy)
    unknown.check_error("not_found", "77")
    assert ichx("tune", "--trials", 3, 77, "--json", cwd=trained_copy).err == unknown.err
    for wrong in (("tune",), ("tune", "shwo"), ("tune", 1, "show"), ("tune", "show")):
        assert ichx(*wrong, cwd=trained_copy).code == 2, wrong


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


def test_a_backup_has_the_studies(tuned: Path, ichx: Program) -> None:
    done = ichx("store", "backup", "copy.db", cwd=tuned)
    assert done.code == 0, done.err
    (tuned / "db" / "tuning.db").unlink()
    ichx("tune", "show", 1, "--json", cwd=tuned).check_error("not_found", "1")
    (tuned / "copy.tuning.db").rename(tuned / "db" / "tuning.db")
    assert ichx("tune", "show", 1, cwd=tuned).code == 0
