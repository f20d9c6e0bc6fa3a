"""The program: help, version, JSON on standard output, and the libraries that it does not import."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from conftest import Program, clean_environment

from ichx.cli.app import app
from ichx.cli.commands import COMMANDS, PANELS
from ichx.cli.reference import commands, parameters
from ichx.workspace import init_workspace


def command_paths() -> list[tuple[str, ...]]:
    """Return the words of every command, without groups."""
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


SILENT = {
    ("init",),
    ("ui",),
    ("data", "phantom"),
    ("data", "series-rules"),  # TOML
    ("tune", "space"),  # TOML
    *(("store", name) for name in ("backup", "upgrade")),
    *(("exp", name) for name in ("log", "name", "archive", "rm", "restore")),
    *(("ensemble", name) for name in ("name", "rm")),
}
"""Commands that print no data for programs."""


@pytest.mark.parametrize("path", command_paths(), ids=" ".join)
def test_help_ends_with_an_example_and_has_json(path: tuple[str, ...], ichx: Program, tmp_path: Path) -> None:
    done = ichx(*path, "--help", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    description = re.split(r"[╭┌+]", done.out)[0].strip().splitlines()
    assert re.match(" *Example: +`?ichx " + " ".join(path) + r"\b", description[-1])
    assert ("--json" in done.out) != (path in SILENT)


def help_rows(text: str) -> dict[str, list[tuple[str, str]]]:
    """Return by panel the names and descriptions of the commands in a help page; a wrapped line has no name."""
    panels: dict[str, list[tuple[str, str]]] = {}
    for line in text.splitlines():
        if title := re.match(r"╭─ (\w+) ─", line):
            panels[title[1]] = []
        elif row := re.match(r"│ (\S*) +(.*?) *│$", line):
            panels[next(reversed(panels))].append((row[1], row[2]))
    return panels


@pytest.mark.parametrize("group", [(), ("data",), ("plugin",), ("exp",), ("submit",), ("store",)], ids=" ".join)
def test_help_lists_each_command_on_one_line(
    group: tuple[str, ...], ichx: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    done = ichx(*group, "--help", cwd=tmp_path)
    panels = help_rows(done.out)
    del panels["Options"]
    if not group:
        assert {panel: [name for name, _ in rows] for panel, rows in panels.items()} == {
            panel: list(names) for panel, names in PANELS.items()
        }
    names = [path[len(group)] for path in command_paths() if path[: len(group)] == group]
    listed = [row for rows in panels.values() for row in rows]
    assert [name for name, _ in listed] == list(dict.fromkeys(names))
    assert [line for line in done.out.splitlines() if len(line) > 80] == []
    for _, text in listed:
        assert re.match(r"[A-Z].*\.$", text)


@pytest.mark.parametrize("path", [(), *command_paths()], ids=" ".join)
def test_help_is_not_cut_at_80_columns(
    path: tuple[str, ...], ichx: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80)
    done = ichx(*path, "-h", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert [line for line in done.out.splitlines() if "…" in line or len(line) > 80] == []


def test_every_parameter_has_a_one_line_help() -> None:
    for _, name, function in commands():
        for row in parameters(function):
            assert re.match(r"[A-Z`a-z].*[.)]$", row.help), (name, row)
            assert len(row.help) <= 90, (name, row)


def test_version(ichx: Program, tmp_path: Path) -> None:
    from ichx import __version__

    assert ichx("--version", cwd=tmp_path).out == f"ichx {__version__}\n"


def test_a_closed_pipe_is_not_an_error(trained_root: Path) -> None:
    line = f"'{sys.executable}' -m ichx plugin list --json | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", line], cwd=trained_root, env=clean_environment(), capture_output=True, text=True
    )
    first, _code = done.stdout.splitlines()
    assert first == "["
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_is_written_at_the_end_has_an_error_too(trained_root: Path) -> None:
    line = f"'{sys.executable}' -m ichx tune space 1 > /dev/full"
    done = subprocess.run(
        ["bash", "-c", line], cwd=trained_root, env=clean_environment(), capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "No space left" in done.stderr
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
def test_standard_output_is_json_only(arguments: tuple[str, ...], ichx: Program, trained_root: Path) -> None:
    done = ichx(*arguments, "--json", cwd=trained_root)
    assert done.code == 0, done.err
    assert json.loads(done.out)


def test_json_of_commands_that_change_something(ichx: Program, trained_copy: Path) -> None:
    made = json.loads(ichx("exp", "new", "--plugin", "tiny_resnet", "--name", "mine", "--json", cwd=trained_copy).out)
    assert [(e["number"], e["name"], e["dataset"]) for e in made] == [(4, "mine", "ph")]
    blended = ichx("ensemble", "--top", 4, "--tta", "hflip", "--method", "convex", "--json", cwd=trained_copy)
    report = json.loads(blended.out)
    assert sum(member["weight"] for member in report["ensemble"]["members"]) == pytest.approx(1)
    assert re.search("warning: (?=.*3).*4", blended.err)


def test_no_colour_without_a_terminal(ichx: Program, trained_root: Path) -> None:
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
        ("jobs",),
        ("jobs", "77"),
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
def test_reading_commands_import_nothing_heavy(arguments: tuple[str, ...], trained_copy: Path) -> None:
    """`init` creates the store, which needs alembic."""
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, *arguments],
        cwd=trained_copy,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=900,
    )
    code = 1 if "77" in arguments else 0
    allowed = "['alembic']" if arguments[0] == "init" else "[]"
    assert done.stderr.splitlines()[-1] in {f"HEAVY {code} []", f"HEAVY {code} {allowed}"}, done.stderr


def test_missing_options_import_no_pydantic(trained_root: Path) -> None:
    code = LIGHT.replace('"torch"', '"pydantic"')
    done = subprocess.run(
        [sys.executable, "-c", code, "exp", "list"],
        cwd=trained_root,
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    assert done.stderr.splitlines()[-1] == "HEAVY 0 []", done.stderr


def test_heavy_imports_are_detected(trained_copy: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, "data", "show", "ph"],
        cwd=trained_copy,
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    assert "'pandas'" in done.stderr.splitlines()[-1]
