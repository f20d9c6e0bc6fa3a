"""`ichx store` from the command line."""

import json
from pathlib import Path

from conftest import Program


def test_a_missing_prediction_is_named_and_exits_1(trained_copy: Path, ichx: Program) -> None:
    done = ichx("store", "check", cwd=trained_copy)
    assert (done.code, "WRONG" in done.out) == (0, False)
    gone = trained_copy / "experiments" / "1" / "fold-0" / "oof-hflip.parquet"
    gone.unlink()
    done = ichx("store", "check", cwd=trained_copy)
    assert done.code == 1
    assert "experiments/1/fold-0/oof-hflip.parquet is gone; `ichx run 1` makes it again" in done.out
    found = json.loads(ichx("store", "check", "--json", cwd=trained_copy).out)
    assert [len(checked["problems"]) for checked in found] == [0, 0, 0, 0, 1, 0]


def test_weights_that_are_not_whole_are_named(trained_copy: Path, ichx: Program) -> None:
    folder = trained_copy / "experiments" / "1"
    weights = [folder / f"fold-{fold}" / "weights.safetensors" for fold in (0, 1)]
    whole = weights[0].read_bytes()
    for content, told in (
        (whole[:-1], f"has {len(whole) - 1:,} bytes instead of {len(whole):,}"),
        (whole + b"x", f"has {len(whole) + 1:,} bytes"),
        (whole[:100], "is incomplete"),
        (b"", "is incomplete"),
        (whole[:8] + b"\xff" + whole[9:], "has a damaged header"),
        ((2).to_bytes(8, "little") + b"[]", "has a damaged header"),
    ):
        weights[0].write_bytes(content)
        done = ichx("store", "check", cwd=trained_copy)
        assert done.code == 1
        assert f"Experiment 1, fold 0: experiments/1/fold-0/weights.safetensors {told}" in done.out
        assert done.out.count("weights.safetensors") == 1
    weights[0].write_bytes(whole)
    weights[1].unlink()  # as an import without weights
    assert ichx("store", "check", cwd=trained_copy).code == 0


def test_a_backup_opens_in_the_stores_place(trained_copy: Path, ichx: Program, ichx_process: Program) -> None:
    done = ichx("store", "backup", cwd=trained_copy)
    assert done.code == 0, done.err
    (copy,) = (trained_copy / "db").glob("backup-*.db")
    before = ichx("exp", "list", "--json", cwd=trained_copy).out
    (trained_copy / "db" / "ichx.db").write_bytes(b"not a database at all, but long enough to be read as one" * 20)
    damaged = ichx("exp", "list", cwd=trained_copy)
    assert (damaged.code, "Traceback" in damaged.err) == (1, False)
    assert ichx_process("exp", "list", "--json", cwd=trained_copy, ICHX_STORE=f"sqlite:///{copy}").out == before


def test_questions_and_the_schema(trained_copy: Path, ichx: Program) -> None:
    query = "select plugin, count(*) as n from experiment group by plugin order by plugin"
    assert json.loads(ichx("store", "sql", query, "--json", cwd=trained_copy).out)[0] == {
        "plugin": "tiny_byobnet",
        "n": 1,
    }
    assert ichx("store", "sql", query, "--csv", cwd=trained_copy).out.splitlines()[:2] == ["plugin,n", "tiny_byobnet,1"]
    refused = ichx("store", "sql", "delete from experiment", cwd=trained_copy)
    assert (refused.code, "only reading is allowed" in refused.err) == (1, True)
    assert "weighted log loss over all OOF slices" in ichx("store", "schema", "experiment", cwd=trained_copy).out
    assert "no table 'exp'" in ichx("store", "schema", "exp", cwd=trained_copy).err
    assert "0005" in ichx("store", "upgrade", cwd=trained_copy).err
