"""What a run writes down about where it ran, and how it is repeated from that."""

import json
from pathlib import Path

import pytest
from conftest import Program

from ichx.evaluation.predictions import read_predictions
from ichx.experiments import provenance
from ichx.store import open_store
from ichx.workspace import open_workspace

pytestmark = pytest.mark.slow


def test_a_run_records_code_machine_and_seed(trained_root: Path) -> None:
    with open_store(open_workspace(trained_root)) as store:
        run = store.runs(1, 0)[0]
    assert run.provenance is not None
    assert run.provenance["seed"] == 0
    assert run.provenance["cores"] >= 1
    assert run.provenance["cpu"]
    assert {"python", "torch", "timm"} <= run.libraries.keys()
    assert run.command.startswith("ichx")


def test_uncommitted_changes_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "rev-parse": "abc123\n",
        "diff": "-old\n+new\n",
        "ls-files": "scratch.py\n",
        "describe": "abc123-dirty\n",
    }
    monkeypatch.setattr(provenance, "_git", lambda *words: answers[words[0]])
    draft = provenance.run_draft(1, 0, "cpu", 5, tmp_path / "fold-0")
    assert draft.provenance is not None
    assert draft.code_version.endswith("+abc123-dirty")
    assert {"commit": "abc123", "dirty": True, "untracked": ["scratch.py"], "diff": "code.diff", "seed": 5}.items() <= (
        draft.provenance.items()
    )
    assert (tmp_path / "fold-0" / "code.diff").read_text() == "-old\n+new\n"
    answers |= {"diff": "", "ls-files": ""}
    clean = provenance.run_draft(1, 0, "cpu", 5, tmp_path / "fold-0").provenance
    assert clean is not None
    assert clean["dirty"] is False
    assert not (tmp_path / "fold-0" / "code.diff").exists()


def test_the_printed_commands_repeat_the_experiment(trained_copy: Path, ichx: Program, ichx_process: Program) -> None:
    found = json.loads(ichx("exp", "repro", 2, "--json", cwd=trained_copy).out)
    assert found["differences"] == []
    for command in found["commands"]:
        words = command.split(" > ")[0].split()[1:]
        done = ichx_process(*words, cwd=trained_copy)
        assert done.code == 0, done.err
        if " > " in command:
            (trained_copy / command.split(" > ")[1]).write_text(done.out)
    homes = [trained_copy / "experiments" / number / "fold-1" for number in ("2", "4")]
    one, other = (read_predictions(home / "oof-identity.parquet") for home in homes)
    assert (one.logits == other.logits).all()


def test_differences_of_the_environment_are_listed(trained_copy: Path, ichx: Program) -> None:
    import sqlite3

    connection = sqlite3.connect(trained_copy / "db" / "ichx.db")
    connection.execute("""UPDATE run SET libraries = '{"torch": "2.5.0"}', provenance = '{"cpu": "abacus"}'""")
    connection.commit()
    connection.close()
    done = ichx("exp", "repro", 1, cwd=trained_copy)
    assert "2.5.0" in done.out
    assert "abacus" in done.out
    assert "exp new --from experiment-1.toml --dataset ph" in done.out
    ichx("exp", "clone", 1, cwd=trained_copy)
    assert "has not run yet" in ichx("exp", "repro", "last", cwd=trained_copy).err
