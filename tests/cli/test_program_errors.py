"""Errors of the program: exit codes, JSON errors, suggestions, tracebacks."""

import io
import json
import re
from pathlib import Path

import pytest
from conftest import Program

from ichx.cli import output, synonyms
from ichx.cli.commands import COMMANDS
from ichx.cli.reference import commands
from ichx.workspace import init_workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return init_workspace(tmp_path / "workspace").root


@pytest.mark.parametrize(
    "arguments",
    [(), ("exp",), ("exp", "lits"), ("ensembel",), ("run",), ("run", "six"), ("exp", "list", "--nothing")],
    ids=" ".join,
)
def test_usage_errors_exit_with_2(arguments: tuple[str, ...], ichx: Program, workspace: Path) -> None:
    done = ichx(*arguments, cwd=workspace)
    assert done.code == 2
    assert "Usage: ichx" in done.out + done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        (("exp", "list", "--nothing"), ("--nothing",)),
        (("exp", "show"), ("NUMBER",)),
        (("exp", "show", "six"), ("'six'",)),
        (("exp", "new", "--sigmoid", "--linear"), ("--sigmoid", "--linear")),
        (("exp", "new", "--reference", "--size", "64"), ("--reference", "--dataset", "--folds")),
        (("exp", "list", "--since", "soon"), ("--since", "'soon'")),
        (("ensemble", "--top", "2", "--members", "1,2"), ("--top", "--members")),
        (("ensemble", "--members", "1;2"), ("--members", "'1;2'")),
        (("ensemble", "--members", ""), ("--members", "''")),
        (("ensemble", "--method", "median"), ("median", "convex", "per-label")),
        (("tune", "1", "--device", "gpu"), ("--device", "'gpu'")),
        (("tune", "1", "--study", "a/b"), ("--study", "'a/b'")),
        (("tune", "1", "--timeout", "soon"), ("--timeout", "'soon'")),
        (("exp", "lits"), ("'lits'", "'list'")),
        (("ensembel",), ("'ensembel'", "'ensemble'")),
    ],
    ids=lambda value: " ".join(value),
)
def test_usage_errors_are_json_with_json(
    arguments: tuple[str, ...], values: tuple[str, ...], ichx: Program, workspace: Path
) -> None:
    done = ichx(*arguments, "--json", cwd=workspace)
    assert (done.code, done.out) == (2, "")
    assert json.loads(done.err) == {"error": done.error}
    assert list(done.error) == ["code", "problem", "remedy"]
    assert done.error["code"] == "usage"
    for value in values:
        assert value in done.error["problem"]
    assert "--help" in done.error["remedy"]


@pytest.mark.parametrize(
    ("arguments", "suggestions"),
    [
        (("create",), ("`ichx exp new`", "`ichx init`")),
        (("train", "6"), ("`ichx run`",)),
        (("LIST",), ("`ichx exp list`", "`ichx data list`")),
        (("delete", "6"), ("`ichx exp rm`", "`ichx data rm`")),
        (("models",), ("`ichx plugin list`",)),
        (("exp", "delete", "6"), ("`ichx exp rm`",)),
        (("exp", "train", "6"), ("`ichx run`",)),
        (("data", "delete"), ("`ichx data rm`",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_words_with_the_meaning_of_a_command(
    arguments: tuple[str, ...], suggestions: tuple[str, ...], ichx: Program, workspace: Path
) -> None:
    done = ichx(*arguments, "--json", cwd=workspace)
    done.check_error("usage", repr(arguments[-1 if len(arguments) == 1 or arguments[-1] == "delete" else -2]))
    assert re.findall("`[^`]*`", done.error["problem"])[: len(suggestions)] == list(suggestions)
    if arguments[0] in {"exp", "data"}:
        assert done.error["problem"].count("`ichx") == len(suggestions)


def test_suggested_commands_exist() -> None:
    known = {name for _, name, _ in commands()} | set(COMMANDS)
    for word in synonyms._WORDS:
        assert set(synonyms.commands_for(word)) <= known, word
        assert synonyms.commands_for(f"{word}s".upper()) != []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("predict", "1", "x", "--tta", "foo"),
            "Invalid value for '--tta': 'foo' is not one of 'none', 'hflip', 'all'.",
        ),
        (("tune", "1", "--sampler", "x"), "Invalid value for '--sampler': 'x' is not one of 'tpe', 'gp', 'random'."),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_wrong_choice(arguments: tuple[str, ...], message: str, ichx: Program, workspace: Path) -> None:
    assert ichx(*arguments, "--json", cwd=workspace).error["problem"] == message


@pytest.mark.parametrize(
    "arguments", [("exp", "list", "--limit", "x"), ("exp", "list", "--limit", "0"), ("tune", "1", "--subset", "x")]
)
def test_a_wrong_number(arguments: tuple[str, ...], ichx: Program, workspace: Path) -> None:
    problem = ichx(*arguments, "--json", cwd=workspace).error["problem"]
    assert arguments[-2] in problem
    assert "Input should be" not in problem
    assert "parse" not in problem


def test_a_long_error_wraps_within_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    monkeypatch.setattr(output, "err", output.EscapingConsole(file=written, width=40, soft_wrap=False))
    output.print_error("The problem " + "is long " * 9, "Do this or that [or that] " * 3)
    output.warn("The warning " + "is long " * 9)
    lines = written.getvalue().splitlines()
    assert max(map(len, lines)) <= 40
    assert lines[0].startswith("error: The problem is long")
    assert [line[:7] for line in lines[1:]].count(" " * 7) == len(lines) - 2
    assert "[or that]" in written.getvalue()
    assert "warning: The warning" in written.getvalue()


def test_a_command_in_a_message_stays_on_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copied line break would run half of the command."""
    written = io.StringIO()
    monkeypatch.setattr(output, "err", output.EscapingConsole(file=written, width=40, soft_wrap=False))
    long = f"`ichx data add more /data/{'a' * 30}/{'b' * 30} --labels 'the labels.csv'`"
    output.print_error(
        "The problem with a \x1b" + " `" + "is long " * 9, f"The remedy is easy: `ichx exp list --all`, {long}."
    )
    output.warn(f"Did you mean this? {long} does it.")
    output.info(f"  indented and long enough: {long}; then `ichx run 1`.")
    output.info("[bold] markup")
    lines = written.getvalue().splitlines()
    assert [line.strip().rstrip(".;") for line in lines if long in line] == [long] * 3
    assert [line for line in lines if len(line) > 40 and long not in line] == []
    assert "       `ichx exp list --all`," in lines
    assert "  indented and long enough:" in lines
    assert lines[-2:] == ["then `ichx run 1`.", "[bold] markup"]
    assert "\\x1b" in lines[0]


def test_an_error_is_a_problem_and_an_indented_remedy(ichx: Program, workspace: Path) -> None:
    done = ichx("exp", "show", 6, cwd=workspace)
    assert (done.code, done.out) == (1, "")
    problem, *remedy = done.err.splitlines()
    assert problem.startswith("error: ")
    assert "6" in problem
    assert remedy
    assert all(line.startswith("       ") for line in remedy)


def test_an_error_is_json_with_json(ichx: Program, workspace: Path) -> None:
    plain = ichx("exp", "show", 6, cwd=workspace)
    for arguments in (("exp", "show", 6, "--json"), ("exp", "show", "--json", 6)):
        done = ichx(*arguments, cwd=workspace)
        assert (done.code, done.out) == (1, "")
        assert json.loads(done.err) == {"error": done.error}
        assert list(done.error) == ["code", "problem", "remedy"]
        assert done.error["code"] == "not_found"
        assert plain.err.startswith(f"error: {done.error['problem']}\n")
    assert ichx("exp", "note", 6, "--", "--json", cwd=workspace).err == plain.err


def test_the_json_error_is_the_last_line_of_standard_error(
    ichx: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broken plugin causes a warning before the error."""
    metadata = tmp_path / "broken-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[ichx.plugins]\nbroken = absent_module:PLUGINS\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    done = ichx("plugin", "show", "nobody", "--json", cwd=tmp_path)
    assert (done.code, done.out) == (1, "")
    warning, error = done.err.splitlines()
    assert warning.startswith("warning: ")
    assert "absent_module" in warning
    assert json.loads(error) == {"error": done.error}


def test_debug_shows_the_traceback(ichx_process: Program, workspace: Path) -> None:
    done = ichx_process("--debug", "exp", "show", 6, "--json", cwd=workspace)
    assert (done.code, done.out) == (1, "")
    assert "Traceback" in done.err
    assert "ichx.errors" in done.err


def test_a_bug_is_reported_with_its_traceback(ichx: Program, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("by 17")

    monkeypatch.setattr("ichx.cli.exp_list.print_json", fail)
    done = ichx("exp", "list", "--json", cwd=workspace)
    assert (done.code, done.out) == (1, "")
    assert "Traceback" in done.err
    assert (done.error["code"], "by 17" in done.error["problem"]) == ("internal", True)
    monkeypatch.setattr("ichx.cli.exp_list.info", fail)
    with pytest.raises(ZeroDivisionError):
        ichx("exp", "list", cwd=workspace)


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (("plugin", "show", "resnext5"), "'resnext50'"),
        (("data", "show", "pth"), "'ph'"),
        (("exp", "new", "--plugin", "tiny_resnext"), "'tiny_resnet'"),
        (("exp", "new", "--plugin", "tiny_resnet", "--set", "stage.ful.lr=1"), "'stage.full.lr'"),
        (("exp", "new", "--plugin", "tiny_resnet", "--dataset", "phh"), "'ph'"),
        (("exp", "list", "--dataset", "phh"), "'ph'"),
        (("exp", "list", "--where", "sice > 1"), "'size'"),
        (("exp", "list", "--sort", "scoer"), "'score'"),
        (("exp", "list", "--columns", "number,scoer"), "'score'"),
        (("ensemble", "--dataset", "phh"), "'ph'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_unknown_names_get_suggestions(
    arguments: tuple[str, ...], suggestion: str, ichx: Program, dataset_root: Path
) -> None:
    done = ichx(*arguments, "--json", cwd=dataset_root)
    assert (done.code, done.out) == (1, "")
    assert suggestion in done.error["problem"] + done.error["remedy"]
