"""Text of strangers, e.g. from an archive, never controls the terminal or a spreadsheet."""

import csv
import io
import json
import shlex
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from conftest import Program
from test_golden import CASES, golden_root, phantom_paths  # noqa: F401  # a fixture

from ichx.phantom.dicom_files import PhantomFiles
from ichx.text import UNSAFE, csv_text, escape

EVIL = "\x1b]0;X\x07\x9b2J\r\u202egnp.exe"
SHOWN = r"\x1b]0;X\x07\x9b2J\r\u202egnp.exe"


@pytest.fixture
def poisoned(golden_root: Path, tmp_path: Path) -> Path:  # noqa: F811
    """Return a workspace whose store has control characters in all texts that are not chosen by ichx."""
    root = Path(shutil.copytree(golden_root, tmp_path / "workspace"))
    log = root / "experiments" / "1" / "fold-0" / "run.log"
    log.write_text(log.read_text() + EVIL)
    with closing(sqlite3.connect(root / "db" / "ichx.db")) as store, store:
        store.execute("UPDATE experiment SET name = name || ?", (EVIL,))
        store.execute("UPDATE tag SET tag = tag || ?", (EVIL,))
        store.execute("UPDATE note SET text = text || ?", (EVIL,))
        store.execute(
            "UPDATE run SET error = ?, host = host || ?, command = command || ?, device = device || ?", (EVIL,) * 4
        )
        store.execute("UPDATE dataset_version SET source = source || ?", (EVIL,))
    return root


def test_no_command_prints_control_characters(poisoned: Path, phantom: PhantomFiles, ichx: Program) -> None:
    files = phantom_paths(phantom)
    shown = set()
    for name, lines in CASES.items():
        if name in {"demo", "data phantom", "submit send", "tune", "store adopt", "store move", "store rebuild"}:
            continue
        line = next(line for line in lines if f"{line} ".startswith(f"{name} ")).format(**files)
        for options in ("", " --json", " --csv", " --md"):
            if options in {" --csv", " --md"} and name not in {"exp list", "exp history", "store sql"}:
                continue
            done = ichx(*shlex.split(line + options), cwd=poisoned)
            for text in (done.out, done.err):
                assert UNSAFE.search(text) is None, (name, options, text)
            if SHOWN in done.out + done.err:
                shown.add(name)
    assert shown >= {"exp list", "exp show", "exp tags", "exp diff", "ensemble", "data show"}, shown
    log = ichx("exp", "log", 1, "--fold", 0, cwd=poisoned).out
    assert log.endswith(SHOWN.replace(r"\r", "\n"))  # a carriage return ends a line of a log
    found = json.loads(ichx("exp", "show", 3, "--json", cwd=poisoned).out)
    assert found["experiment"]["name"].endswith(EVIL)


def test_arguments_are_escaped(trained_root: Path, ichx: Program) -> None:
    for arguments in (
        ("exp", "show", EVIL),
        (EVIL,),
        (f"--{EVIL}",),
        ("exp", "list", f"--{EVIL}"),
        ("data", "show", EVIL),
        ("run", 1, "--weights", EVIL),
        ("exp", "list", "--where", EVIL),
    ):
        for options in ((), ("--json",)):
            done = ichx(*arguments, *options, cwd=trained_root)
            assert done.code != 0
            assert UNSAFE.search(done.out + done.err) is None, arguments
            assert "x1b" in done.err or "u001b" in done.err


@pytest.mark.parametrize("name", ["a\nb", "a\tb", f"a{EVIL}", " ", "x" * 201, "\udc80"])
def test_names_without_control_characters(name: str, trained_copy: Path, ichx: Program) -> None:
    before = ichx("exp", "list", "--json", cwd=trained_copy).out
    for command in (
        ("exp", "name", 1, name),
        ("exp", "tag", 1, name),
        ("exp", "clone", 1, "--name", name),
        ("exp", "new", "--plugin", "tiny_resnet", "--name", name),
    ):
        done = ichx(*command, cwd=trained_copy)
        assert (done.code, done.out, repr(name)[:50] in done.err) == (1, "", True), command
    assert ichx("exp", "list", "--json", cwd=trained_copy).out == before


def test_imported_names_have_no_line_breaks(trained_copy: Path, ichx: Program) -> None:
    with closing(sqlite3.connect(trained_copy / "db" / "ichx.db")) as store, store:
        store.execute("UPDATE experiment SET name = ?", ("a\nerror: b" + EVIL,))
    assert ichx("exp", "export", 1, "one.zip", cwd=trained_copy).code == 0
    assert ichx("exp", "import", "one.zip", "--again", cwd=trained_copy).code == 0
    newest = json.loads(ichx("exp", "list", "--json", cwd=trained_copy).out)[0]
    assert newest["name"] == r"a\nerror: b" + SHOWN


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+1+1", "'+1+1"),
        ("-1+1", "'-1+1"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\t=1", "'\t=1"),
        ("\n=1", "'\n=1"),
        ("-0.5", "-0.5"),
        ("+1e-5", "+1e-5"),
        ("-", "-"),
        ("a=b", "a=b"),
        ("", ""),
        ("=\x1b", r"'=\x1b"),
    ],
)
def test_formulas(text: str, shown: str) -> None:
    assert csv_text(text) == shown


def test_formulas_in_csv(trained_copy: Path, ichx: Program) -> None:
    assert ichx("exp", "name", 1, "=1+1", cwd=trained_copy).code == 0
    (row,) = [
        r for r in csv.DictReader(io.StringIO(ichx("exp", "list", "--csv", cwd=trained_copy).out)) if r["number"] == "1"
    ]
    assert row["name"] == "'=1+1"
    found = ichx(
        "store", "sql", "select name as '=1+1', -0.5 as x from experiment where number = 1", "--csv", cwd=trained_copy
    )
    assert list(csv.reader(io.StringIO(found.out))) == [["'=1+1", "x"], ["'=1+1", "-0.5"]]


def test_escape() -> None:
    assert escape("ä…中\t\n") == "ä…中\t\n"
    assert escape("ä\t\n", lines=True) == r"ä\t\n"
    assert escape(EVIL) == SHOWN
    assert escape(escape(EVIL)) == SHOWN


def test_an_output_that_cannot_take_the_text(trained_root: Path, ichx_process: Program) -> None:
    done = ichx_process("exp", "list", cwd=trained_root, PYTHONIOENCODING="ascii")
    assert done.code == 0, done.err
    assert r"\xb1" in done.out


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_json_in_an_encoding_without_its_letters(encoding: str, trained_copy: Path, ichx_process: Program) -> None:
    name = "Größe – ≥ 40 HU"
    assert ichx_process("exp", "name", 1, name, cwd=trained_copy).code == 0
    done = ichx_process("exp", "show", 1, "--json", cwd=trained_copy, PYTHONIOENCODING=encoding)
    assert done.code == 0, done.err
    assert json.loads(done.out)["experiment"]["name"] == name
    done = ichx_process("exp", "show", name, "--json", cwd=trained_copy, PYTHONIOENCODING=encoding)
    error = json.loads(done.err.splitlines()[-1])["error"]
    assert (error["code"], name in error["problem"]) == ("usage", True)
