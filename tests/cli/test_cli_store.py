"""`ichx store`: check, backup, sql, schema, upgrade."""

import json
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

from conftest import Program, clean_environment

from ichx.store import open_store
from ichx.workspace import init_workspace


def test_check_reports_a_missing_prediction(trained_copy: Path, ichx: Program) -> None:
    done = ichx("store", "check", cwd=trained_copy)
    assert (done.code, "WRONG" in done.out) == (0, False)
    gone = trained_copy / "experiments" / "1" / "fold-0" / "oof-hflip.parquet"
    gone.unlink()
    done = ichx("store", "check", cwd=trained_copy)
    assert done.code == 1
    assert re.search("experiments/1/fold-0/oof-hflip.parquet .*`ichx run 1`", done.out)
    found = json.loads(ichx("store", "check", "--json", cwd=trained_copy).out)
    assert [len(checked["problems"]) for checked in found] == [0, 0, 0, 0, 0, 0, 1, 0]


def test_check_reports_damaged_weights(trained_copy: Path, ichx: Program) -> None:
    folder = trained_copy / "experiments" / "1"
    weights = [folder / f"fold-{fold}" / "weights.safetensors" for fold in (0, 1)]
    intact = weights[0].read_bytes()
    for content, value in (
        (intact[:-1], f"{len(intact) - 1:,} .* {len(intact):,}"),
        (intact + b"x", f"{len(intact) + 1:,} bytes"),
        (intact[:100], ""),
        (b"", ""),
        (intact[:8] + b"\xff" + intact[9:], "header"),
        ((2).to_bytes(8, "little") + b"[]", "header"),
    ):
        weights[0].write_bytes(content)
        done = ichx("store", "check", cwd=trained_copy)
        assert done.code == 1
        assert re.search(f"xperiment 1, fold 0: .*experiments/1/fold-0/weights.safetensors.*{value}", done.out)
        assert done.out.count("weights.safetensors") == 1
    weights[0].write_bytes(intact)
    weights[1].unlink()  # as an import without weights
    assert ichx("store", "check", cwd=trained_copy).code == 0


def test_a_backup_opens_as_a_store(trained_copy: Path, ichx: Program, ichx_process: Program) -> None:
    done = ichx("store", "backup", cwd=trained_copy)
    assert done.code == 0, done.err
    (copy,) = (trained_copy / "db").glob("backup-*.db")
    before = ichx("exp", "list", "--json", cwd=trained_copy).out
    (trained_copy / "db" / "ichx.db").write_bytes(b"not a database at all, but long enough to be read as one" * 20)
    ichx("exp", "list", "--json", cwd=trained_copy).check_error("store")
    assert ichx_process("exp", "list", "--json", cwd=trained_copy, ICHX_STORE=str(copy)).out == before


def test_sql_schema_and_upgrade(trained_copy: Path, ichx: Program) -> None:
    query = "select plugin, count(*) as n from experiment group by plugin order by plugin"
    assert json.loads(ichx("store", "sql", query, "--json", cwd=trained_copy).out)[0] == {
        "plugin": "tiny_byobnet",
        "n": 1,
    }
    assert ichx("store", "sql", query, "--csv", cwd=trained_copy).out.splitlines()[:2] == ["plugin,n", "tiny_byobnet,1"]
    ichx("store", "sql", "delete from experiment", "--json", cwd=trained_copy).check_error("invalid_input")
    schema = json.loads(ichx("store", "schema", "experiment", "--json", cwd=trained_copy).out)
    assert "log loss" in schema["experiment"]["score"]
    ichx("store", "schema", "exp", "--json", cwd=trained_copy).check_error("not_found", "'exp'")
    assert "0010" in ichx("store", "upgrade", cwd=trained_copy).err


def test_check_goes_on_after_a_missing_table(tmp_path: Path, ichx: Program) -> None:
    workspace = init_workspace(tmp_path)
    open_store(workspace).close()
    connection = sqlite3.connect(tmp_path / "db" / "ichx.db")
    connection.execute("DROP TABLE experiment")
    connection.commit()
    connection.close()
    done = ichx("store", "check", "--json", cwd=tmp_path)
    assert done.code == 1
    problems = {check["what"]: check["problems"] for check in json.loads(done.out)}
    assert problems["tables, columns and indices"] == ["the table experiment is missing"]
    assert "experiment" in problems["files of recorded predictions"][0]
    assert len(problems) == 8
    ichx("exp", "list", "--json", cwd=tmp_path).check_error("store", "experiment")


def test_sql_shows_blank_cells_and_ends_at_its_limits(tmp_path: Path, ichx: Program) -> None:
    init_workspace(tmp_path)
    for blank in ("'   '", "''", "char(10)", "null", "x''"):
        assert ichx("store", "sql", f"select {blank} as a, 1 as b", cwd=tmp_path).code == 0
    endless = "with recursive r(n) as (select 1 union all select n + 1 from r) select count(*) from r"
    ichx("store", "sql", endless, "--timeout", "0.2s", "--json", cwd=tmp_path).check_error("resources", "0.2 s")
    listed = endless.replace("count(*)", "n")
    ichx("store", "sql", listed, "--memory", "20MB", "--json", cwd=tmp_path).check_error("resources", "20 MB")
    ichx("store", "sql", "select 1", "--timeout", "soon", "--json", cwd=tmp_path).check_error("usage", "soon")


def test_ctrl_c_ends_a_query(tmp_path: Path) -> None:
    open_store(init_workspace(tmp_path)).close()
    script = (
        "import sys; from ichx.store.maintenance import _Guard; add = _Guard.add\n"
        "def announce(guard, row):\n    print('running', flush=True); _Guard.add = add\n"
        "_Guard.add = announce\nfrom ichx.cli.app import main; main()"
    )
    endless = "with recursive r(n) as (select 1 union all select n + 1 from r) select n from r where n < 4"
    process = subprocess.Popen(
        [sys.executable, "-c", script, "store", "sql", endless],
        cwd=tmp_path,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=50)
    assert (process.returncode, "interrupted" in err) == (130, True)
