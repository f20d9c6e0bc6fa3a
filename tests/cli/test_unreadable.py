"""Files and folders that cannot be read: every command ends with a typed error, or does without them."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Outcome, Program, clean_environment
from permissions import permissions_enforced
from test_golden import CASES, golden_root, phantom_paths  # noqa: F401  # a fixture

import ichx
from ichx.cli.reference import help_text
from ichx.phantom.dicom_files import PhantomFiles
from ichx.workspace import init_workspace

LINES = {name: lines[0] for name, lines in CASES.items()} | {
    "exp log": "exp log 1",
    "exp promote": "exp promote 6",
    "run": "run 1 --fold 0 --device cpu",
}
OUTSIDE = {
    "init",
    "demo",
    "data phantom",
    "plugin list",
    "plugin show",
    "submit send",
    "submit check",
    "submit score",
    "tune",
}
"""Commands that need no workspace; `tune` starts other processes, which the test cannot restrict."""


def lock(path: Path) -> None:
    path.chmod(0)


def loop(path: Path) -> None:
    path.rename(path.with_name(f"{path.name}.old"))
    path.symlink_to(path.name)


def swap(path: Path) -> None:
    """Put a folder in the place of a file, and a file in the place of a folder."""
    was_folder = path.is_dir()
    path.rename(path.with_name(f"{path.name}.old"))
    path.write_text("") if was_folder else path.mkdir()


TARGETS = (
    "ichx.toml",
    "db",
    "db/ichx.db",
    "db/privacy.key",
    "db/tuning.db",
    "experiments",
    "experiments/1",
    "experiments/1/fold-0",
    "experiments/1/fold-0/*",
    "datasets",
    "datasets/ph/v1",
    "datasets/ph/v1/*",
    "cache",
    "cache/*",
    "cache/*/*",
)
COMMANDS = sorted(LINES.keys() - OUTSIDE)
PAIRS = [(target, damage) for damage in (lock, loop, swap) for target in TARGETS]
"""Damages that one or two commands meet each: all commands with all of them take an hour."""


@pytest.fixture
def restored(tmp_path: Path) -> Iterator[None]:
    """Let pytest delete the folder of the test."""
    yield
    for folder, names, _ in os.walk(tmp_path):
        for name in names:
            Path(folder, name).chmod(0o755)


@pytest.mark.slow
@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(
    ("target", "damage", "commands"),
    [
        (".", lock, COMMANDS),
        *[(*pair, COMMANDS[number :: len(PAIRS)]) for number, pair in enumerate(PAIRS)],
    ],
)
def test_commands(
    target: str,
    damage: Callable[[Path], None],
    commands: list[str],
    golden_root: Path,  # noqa: F811
    phantom: PhantomFiles,
    tmp_path: Path,
    ichx: Program,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = Path(shutil.copytree(golden_root, tmp_path / "workspace"))
    files = phantom_paths(phantom)
    found = [root] if target == "." else sorted(root.glob(target))
    assert found
    for path in found:
        damage(path)
    monkeypatch.setenv("ICHX_WORKSPACE", str(root))
    codes = {}
    for name in commands:
        line = LINES[name]
        silent = "`--json`" not in help_text(name)
        with permissions_enforced():
            done = ichx(*shlex.split(line.format(**files)), *[] if silent else ["--json"], cwd=tmp_path)
        assert "Traceback" not in done.err, (name, done.err)
        assert done.code in (0, 1), (name, done.err)
        if done.code == 1 and not silent and not done.out:
            codes[name] = done.error["code"]
    assert set(codes.values()) <= {
        "storage",
        "store",
        "changed_data",
        "corrupt_file",
        "not_found",
        "not_ready",
        "conflict",
    }, codes
    if target == ".":
        assert set(codes.values()) == {"storage"}


@pytest.mark.usefixtures("restored")
def test_the_error_names_path_reason_and_remedy(tmp_path: Path, ichx: Program) -> None:
    root = init_workspace(tmp_path / "workspace").root
    (root / "ichx.toml").chmod(0)
    with permissions_enforced():
        done = ichx("exp", "list", "--json", cwd=root)
        plain = ichx("exp", "list", cwd=root)
    done.check_error("storage", str(root / "ichx.toml"), "Permission denied")
    assert (plain.code, plain.out) == (1, "")
    assert plain.err.splitlines() == [f"error: {done.error['problem']}", f"       {done.error['remedy']}"]


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("~nobody-of-this-name/x", "invalid_input"),
        ("x" * 300, "storage"),
        ("loop", "not_found"),
        ("loop/x", "not_found"),
    ],
)
def test_unusable_workspaces(
    place: str, code: str, tmp_path: Path, ichx: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    monkeypatch.setenv("ICHX_WORKSPACE", place)
    ichx("exp", "list", "--json", cwd=tmp_path).check_error(code, place)
    monkeypatch.delenv("ICHX_WORKSPACE")
    done = ichx("init", place, cwd=tmp_path)
    assert (done.code, done.out, place in done.err) == (1, "", True)


def test_init_reports_a_workspace_that_exists(tmp_path: Path, ichx: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    first, second = (ichx("init", "~/w", cwd=tmp_path).err.splitlines()[0] for _ in range(2))
    assert first != second
    assert str(tmp_path / "w") in second


@pytest.mark.parametrize("arguments", ["exp list", "demo new"])  # the latter imports torch, whose libraries abort there
def test_a_deleted_working_directory(arguments: str, tmp_path: Path) -> None:
    command = f"mkdir gone; cd gone; rmdir ../gone; '{sys.executable}' -m ichx {arguments} --json"
    path = str(Path(ichx.__file__).parents[1])
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=clean_environment(PYTHONPATH=path), capture_output=True, text=True
    )
    Outcome(done.returncode, done.stdout, done.stderr).check_error("not_found")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("arguments", "output", "code"),
    [
        ("plugin list", ">/dev/full", 1),
        ("plugin list --json", ">/dev/full", 1),
        ("plugin show tiny_resnet --toml", ">/dev/full", 1),
        ("plugin list", ">&-", 0),
        ("plugin show nobody", "2>&- >&-", 1),
    ],
)
def test_unusable_output(arguments: str, output: str, code: int, tmp_path: Path) -> None:
    command = f"'{sys.executable}' -m ichx {arguments} {output}"
    done = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, env=clean_environment(), capture_output=True, text=True
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert ("No space left" in done.stderr) == ("full" in output)
