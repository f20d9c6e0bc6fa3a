"""A workspace is found, made, configured, and keeps one privacy key."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import clean_environment

from ichx.errors import IchxError
from ichx.workspace import find_workspace, init_workspace, open_workspace


def test_it_is_found_from_below(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = init_workspace(tmp_path / "work")
    deep = made.root / "notes" / "more"
    deep.mkdir(parents=True)
    assert find_workspace(deep) == made
    monkeypatch.chdir(deep)
    assert find_workspace() == made
    assert made.experiment_dir(6) == tmp_path / "work" / "experiments" / "6"


def test_the_nearest_one_counts(tmp_path: Path) -> None:
    init_workspace(tmp_path)
    inner = init_workspace(tmp_path / "inner")
    assert find_workspace(tmp_path / "inner" / "db") == inner


def test_a_checkout_with_both_folders_is_one(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    with pytest.raises(IchxError, match="no workspace at"):
        find_workspace(tmp_path)
    (tmp_path / "experiments").mkdir()
    assert find_workspace(tmp_path).root == tmp_path.resolve()


def test_the_environment_overrides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = init_workspace(tmp_path / "here"), init_workspace(tmp_path / "there")
    monkeypatch.setenv("ICHX_WORKSPACE", str(there.root))
    assert find_workspace(here.root) == there
    monkeypatch.setenv("ICHX_WORKSPACE", str(tmp_path / "nowhere"))
    with pytest.raises(IchxError, match="which is no workspace") as caught:
        find_workspace(here.root)
    assert "ichx init" in caught.value.remedy
    monkeypatch.delenv("ICHX_WORKSPACE")
    monkeypatch.setenv("ICHX_STORE", "postgresql://host/db")
    assert find_workspace(here.root).store_url == "postgresql://host/db"


def test_init_again_keeps_what_is_there(tmp_path: Path) -> None:
    made = init_workspace(tmp_path)
    (tmp_path / "ichx.toml").write_text('cache = "/big/disk"\n')
    (made.experiments_dir / "mine.toml").write_text("x")
    again = init_workspace(tmp_path)
    assert again.cache_dir == Path("/big/disk")
    assert (made.experiments_dir / "mine.toml").read_text() == "x"


def test_settings(tmp_path: Path) -> None:
    fresh = init_workspace(tmp_path)
    assert fresh.cache_dir == tmp_path / "cache"
    assert fresh.store_url == f"sqlite:///{tmp_path / 'db' / 'ichx.db'}"
    (tmp_path / "ichx.toml").write_text('cache = "elsewhere"\nstore = "sqlite:///other.db"\n')
    set_up = open_workspace(tmp_path)
    assert (set_up.cache_dir, set_up.store_url) == (tmp_path / "elsewhere", "sqlite:///other.db")


@pytest.mark.parametrize(
    ("text", "problem", "remedy"),
    [
        ("cache = ", "is not valid TOML", "mend"),
        ('cash = "x"', "sets 'cash', which is no setting", "'cache'"),
        ("cache = 3", "cache must be a text in quotes", "directory"),
    ],
)
def test_bad_settings_are_told(tmp_path: Path, text: str, problem: str, remedy: str) -> None:
    init_workspace(tmp_path)
    (tmp_path / "ichx.toml").write_text(text)
    with pytest.raises(IchxError, match=problem) as caught:
        open_workspace(tmp_path)
    assert remedy in caught.value.remedy


def test_a_place_where_none_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(IchxError, match="cannot make a workspace at"):
        init_workspace(tmp_path / "file")


def test_the_privacy_key_is_one_and_private(tmp_path: Path) -> None:
    workspace = init_workspace(tmp_path)
    key = workspace.privacy_key()
    assert len(key) == 32
    assert workspace.privacy_key() == key
    assert init_workspace(tmp_path / "other").privacy_key() != key
    assert stat.S_IMODE((tmp_path / "db" / "privacy.key").stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "db").iterdir()] == ["privacy.key"]


def test_processes_that_race_for_the_key_get_the_same(tmp_path: Path) -> None:
    init_workspace(tmp_path)
    script = (
        "import sys; from pathlib import Path; from ichx.workspace import open_workspace; sys.stdin.readline();"
        "print(open_workspace(Path(sys.argv[1])).privacy_key().hex())"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )
        for _ in range(4)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    keys = {racer.communicate(timeout=60)[0].strip() for racer in racers}
    assert len(keys) == 1
    assert len(keys.pop()) == 64
