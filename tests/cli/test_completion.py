"""Shell completion of commands, experiments, plugins and tags."""

from pathlib import Path

from conftest import Program


def completions(ichx_process: Program, typed: str, root: Path) -> list[str]:
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    done = ichx_process(cwd=root, _ICHX_COMPLETE="complete_bash", **words)
    assert done.code == 0, done.err
    return done.out.split()


def test_commands_and_subcommands(ichx_process: Program, tmp_path: Path) -> None:
    assert completions(ichx_process, "ichx e", tmp_path) == ["exp", "ensemble", "evaluate", "export", "engine"]
    assert completions(ichx_process, "ichx exp n", tmp_path) == ["new", "name", "note"]


def test_experiments_plugins_and_tags(dataset_copy: Path, ichx: Program, ichx_process: Program) -> None:
    for command in ("exp new --reference", "exp tag 3 best"):
        assert ichx(*command.split(), cwd=dataset_copy).code == 0
    for typed, expected in (
        ("ichx exp show ", ["6", "5", "4", "3", "2", "1", "last"]),
        ("ichx exp tag 6 b", ["best"]),
    ):
        assert completions(ichx_process, typed, dataset_copy)[: len(expected)] == expected
    plugins = completions(ichx_process, "ichx exp new --plugin resnext5", dataset_copy)
    assert "resnext50" in plugins


def test_subcommands_of_a_command_with_an_argument(ichx_process: Program, trained_root: Path) -> None:
    for typed, expected in (
        ("ichx tune s", ["show", "space"]),
        ("ichx tune ", ["3", "2", "1", "last", "show", "space"]),
        ("ichx tune show ", ["3", "2", "1", "last"]),
        ("ichx tune 1 s", []),
        ("ichx tune 1 --tri", ["--trials"]),
        ("ichx tune show 1 --stu", ["--study"]),
    ):
        assert completions(ichx_process, typed, trained_root) == expected, typed
