"""The program: exit codes, errors in two lines, JSON alone on standard output, help, and what it does not import."""

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from conftest import Program, clean_environment

from ichx.cli.app import app
from ichx.cli.commands import COMMANDS
from ichx.cli.interrupts import imports_end_at_once
from ichx.workspace import init_workspace


def command_paths() -> list[tuple[str, ...]]:
    """Return every command as it is typed, groups left out."""
    found = []
    group = typer.main.get_command(app)
    context = typer.Context(group)
    for name in COMMANDS:
        command = group.get_command(context, name)  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        itself = inner is None or getattr(command, "invoke_without_command", False)
        found += [(name,)] * itself + [(name, sub) for sub in inner or ()]
    return found


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return init_workspace(tmp_path / "workspace").root


@pytest.mark.parametrize("path", command_paths(), ids=" ".join)
def test_every_help_ends_in_a_command_line(path: tuple[str, ...], ichx: Program, tmp_path: Path) -> None:
    done = ichx(*path, "--help", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "Example:" in done.out
    assert re.search(r"Example: +`?ichx " + " ".join(path), done.out)
    text = " ".join(done.out.split())
    assert "--json" in text or path in {
        ("init",),
        ("data", "phantom"),
        ("report",),
        ("tune", "space"),  # TOML
        *(("store", silent) for silent in ("backup", "upgrade")),
        *(("exp", silent) for silent in ("log", "name", "archive", "rm", "restore")),
    }, "every command that shows something speaks JSON"


def test_help_lists_every_command(ichx: Program, tmp_path: Path) -> None:
    done = ichx("--help", cwd=tmp_path)
    assert done.code == 0
    for name in COMMANDS:
        assert re.search(rf"^\W*{name} +\w", done.out, re.MULTILINE), name


def test_version(ichx: Program, tmp_path: Path) -> None:
    from ichx import __version__

    assert ichx("--version", cwd=tmp_path).out == f"ichx {__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [(), ("exp",), ("exp", "lits"), ("ensembel",), ("run",), ("run", "six"), ("exp", "list", "--nothing")],
    ids=" ".join,
)
def test_wrong_usage_is_2(arguments: tuple[str, ...], ichx: Program, workspace: Path) -> None:
    done = ichx(*arguments, cwd=workspace)
    assert done.code == 2
    assert "Usage: ichx" in done.out + done.err
    assert "Traceback" not in done.err


def test_sigmoid_and_linear_exclude_each_other(ichx: Program, workspace: Path) -> None:
    done = ichx("exp", "new", "--plugin", "resnext50", "--sigmoid", "--linear", cwd=workspace)
    assert done.code == 2
    assert "give one of --sigmoid and --linear" in done.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--top", 2, "--members", "1,2"), "give one of --top and --members"),
        (("--members", "1;2"), "give experiments' numbers, such as 1,2"),
        (("--members", ""), "give experiments' numbers, such as 1,2"),
    ],
)
def test_members_are_numbers_and_no_top(
    arguments: tuple[object, ...], told: str, ichx: Program, workspace: Path
) -> None:
    done = ichx("ensemble", *arguments, cwd=workspace)
    assert done.code == 2
    assert told in done.err


def test_an_error_is_two_lines_and_debug_shows_the_traceback(ichx_process: Program, workspace: Path) -> None:
    done = ichx_process("exp", "show", 6, cwd=workspace)
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines() == [
        "error: no experiment has the number 6",
        "       there is none yet: `ichx exp new` makes one; `ichx exp list` shows all",
    ]
    debug = ichx_process("--debug", "exp", "show", 6, cwd=workspace)
    assert debug.code == 1
    assert "Traceback" in debug.err
    assert "no experiment has the number 6" in debug.err


def test_unknown_names_get_the_nearest(ichx: Program, dataset_root: Path) -> None:
    for arguments, told in (
        (("plugin", "show", "resnext5"), "'resnext50'"),
        (("data", "show", "pth"), "'ph'"),
        (("exp", "new", "--plugin", "tiny_resnext"), "'tiny_resnet'"),
        (("exp", "new", "--plugin", "tiny_resnet", "--set", "stage.ful.lr=1"), "'stage.full.lr'"),
        (("exp", "new", "--plugin", "tiny_resnet", "--dataset", "phh"), "'ph'"),
        (("exp", "list", "--dataset", "phh"), "'ph'"),
        (("ensemble", "--dataset", "phh"), "'ph'"),
    ):
        done = ichx(*arguments, cwd=dataset_root)
        assert (done.code, done.out) == (1, ""), arguments
        assert told in done.err, arguments


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(("ensembel",), "Did you mean 'ensemble'?"), (("exp", "lits"), "Did you mean 'list'?")],
    ids=["top", "group"],
)
def test_unknown_commands_get_the_nearest(arguments: tuple[str, ...], told: str, ichx: Program, tmp_path: Path) -> None:
    done = ichx(*arguments, cwd=tmp_path)
    assert done.code == 2
    assert told in done.err


def test_the_shell_completes_commands_of_both_levels(ichx_process: Program, tmp_path: Path) -> None:
    for typed, wanted in (
        ("ichx e", ["exp", "evaluate", "export", "ensemble"]),
        ("ichx exp n", ["new", "name", "note"]),
    ):
        words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
        done = ichx_process(cwd=tmp_path, _ICHX_COMPLETE="complete_bash", **words)
        assert (done.code, done.out.split()) == (0, wanted)


def test_the_shell_completes_experiments_plugins_and_tags(dataset_copy: Path, ichx_process: Program) -> None:
    for command in ("exp new --reference", "exp tag 3 best"):
        assert ichx_process(*command.split(), cwd=dataset_copy).code == 0
    for typed, wanted in (
        ("ichx exp show ", ["6", "5", "4", "3", "2", "1", "last"]),
        ("ichx exp tag 6 b", ["best"]),
        ("ichx exp new --plugin resnext5", ["resnext50"]),
    ):
        words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
        done = ichx_process(cwd=dataset_copy, _ICHX_COMPLETE="complete_bash", **words)
        assert (done.code, done.out.split()[: len(wanted)]) == (0, wanted), done.err


def test_interrupted_is_130(workspace: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "ichx", "data", "phantom", str(tmp_path / "files"), "--patients", "500", "--size", "64"],
        cwd=workspace,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 120
    while not list(tmp_path.rglob("*.dcm")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert not (tmp_path / "files").exists(), "nothing half-written"


SWALLOWS = """
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(10)
except KeyboardInterrupt:
    pass  # as callbacks and some libraries do
raise ImportError("half of it is missing")
"""


@pytest.mark.parametrize("command", [("scores", 1), ("exp", "diff", 1, 2)])
def test_an_interruption_during_imports_is_not_lost(
    command: tuple[object, ...], trained_root: Path, tmp_path: Path, ichx_process: Program
) -> None:
    (tmp_path / "pandas.py").write_text(SWALLOWS, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = ichx_process(*command, cwd=trained_root, PYTHONPATH=path)
    assert (done.code, done.out, done.err) == (130, "", "interrupted\n")


def test_an_interruption_elsewhere_raises_as_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also during an import that work does in between."""
    (tmp_path / "interrupts_itself.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for begun in (lambda: os.kill(os.getpid(), signal.SIGINT), lambda: importlib.import_module("interrupts_itself")):
        with pytest.raises(KeyboardInterrupt), imports_end_at_once():
            begun()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with imports_end_at_once():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN, "as a shell starts background jobs"
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_reader_that_leaves_is_no_error(trained_root: Path) -> None:
    line = f"'{sys.executable}' -m ichx plugin list --json | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], cwd=trained_root, env=clean_environment(), capture_output=True, text=True
    )
    first, _code = done.stdout.splitlines()
    assert first == "["
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("plugin", "list"),
        ("plugin", "show", "resnext101_wsl"),
        ("exp", "list"),
        ("exp", "show", "1"),
        ("data", "list"),
        ("data", "show", "ph"),
        ("run", "1"),
    ],
    ids=" ".join,
)
def test_json_is_all_there_is_on_standard_output(arguments: tuple[str, ...], ichx: Program, trained_root: Path) -> None:
    done = ichx(*arguments, "--json", cwd=trained_root)
    assert done.code == 0, done.err
    assert json.loads(done.out)


def test_json_of_commands_that_change_something(ichx: Program, trained_copy: Path) -> None:
    made = json.loads(ichx("exp", "new", "--plugin", "tiny_resnet", "--name", "mine", "--json", cwd=trained_copy).out)
    assert [(e["number"], e["name"], e["dataset"]) for e in made] == [(4, "mine", "ph")]
    blended = ichx("ensemble", "--top", 4, "--tta", "hflip", "--json", cwd=trained_copy)
    report = json.loads(blended.out)
    assert sum(member["weight"] for member in report["ensemble"]["members"]) == pytest.approx(1)
    assert "warning: asked for 4 experiments, 3 are complete" in blended.err


def test_colour_is_for_terminals(ichx: Program, trained_root: Path) -> None:
    done = ichx("exp", "list", cwd=trained_root)
    assert "\x1b" not in done.out + done.err


LIGHT = """
import sys
sys.argv = ["ichx", *sys.argv[1:]]
from ichx.cli.app import main
code = 0
try:
    main()
except SystemExit as end:
    code = end.code or 0
heavy = [name for name in ("torch", "timm", "pandas", "alembic") if name in sys.modules]
print("HEAVY", code, heavy, file=sys.stderr)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("run", "--help"),
        ("ensemble", "--help"),
        ("predict", "--help"),
        ("evaluate", "--help"),
        ("export", "--help"),
        ("init", "elsewhere"),
        ("plugin", "list"),
        ("plugin", "show", "resnext50", "--toml"),
        ("exp", "list"),
        ("exp", "show", "1"),
        ("exp", "new", "--plugin", "resnext50", "--size", "378", "--sigmoid"),
        ("exp", "new", "--reference"),
        ("data", "list"),
        ("run", "77"),
        ("predict", "77", "files"),
        ("evaluate", "77", "--dataset", "ph"),
        ("export", "77"),
        ("tune", "--help"),
        ("tune", "77"),
        ("tune", "show", "77"),
    ],
    ids=" ".join,
)
def test_a_command_that_only_reads_imports_nothing_heavy(arguments: tuple[str, ...], trained_copy: Path) -> None:
    """The store is up to date, but that of `init`, which is made."""
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, *arguments],
        cwd=trained_copy,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    code = 1 if "77" in arguments else 0
    allowed = "['alembic']" if arguments[0] == "init" else "[]"
    assert done.stderr.splitlines()[-1] in {f"HEAVY {code} []", f"HEAVY {code} {allowed}"}, done.stderr


def test_options_that_are_not_given_import_no_converter(trained_root: Path) -> None:
    code = LIGHT.replace('"torch"', '"pydantic"')
    done = subprocess.run(
        [sys.executable, "-c", code, "exp", "list"],
        cwd=trained_root,
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    assert done.stderr.splitlines()[-1] == "HEAVY 0 []", done.stderr


def test_the_check_of_imports_can_fail(trained_copy: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, "data", "show", "ph"],
        cwd=trained_copy,
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    assert "'pandas'" in done.stderr.splitlines()[-1]
