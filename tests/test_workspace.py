"""The workspace: finding, creating, settings, and its privacy key."""

import errno
import os
import stat
from pathlib import Path

import pytest
from running_programs import race

from ichx.errors import InvalidInputError, NotFoundError, StorageError
from ichx.workspace import find_workspace, init_workspace, open_workspace


def test_it_is_found_from_a_subfolder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    created = init_workspace(tmp_path / "work")
    deep = created.root / "notes" / "more"
    deep.mkdir(parents=True)
    assert find_workspace(deep) == created
    monkeypatch.chdir(deep)
    assert find_workspace() == created
    assert created.experiment_dir(6) == tmp_path / "work" / "experiments" / "6"
    assert created.ensemble_dir(2) == tmp_path / "work" / "ensembles" / "2"


def test_the_nearest_one_is_used(tmp_path: Path) -> None:
    init_workspace(tmp_path)
    inner = init_workspace(tmp_path / "inner")
    assert find_workspace(tmp_path / "inner" / "db") == inner


def test_a_folder_with_db_and_experiments_is_a_workspace(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    with pytest.raises(NotFoundError, match=str(tmp_path)):
        find_workspace(tmp_path)
    (tmp_path / "experiments").mkdir()
    assert find_workspace(tmp_path).root == tmp_path.resolve()


def test_environment_variables_override(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = init_workspace(tmp_path / "first"), init_workspace(tmp_path / "second")
    monkeypatch.setenv("ICHX_WORKSPACE", str(second.root))
    assert find_workspace(first.root) == second
    monkeypatch.setenv("ICHX_WORKSPACE", str(tmp_path / "no where"))
    with pytest.raises(NotFoundError, match=str(tmp_path / "no where")) as caught:
        find_workspace(first.root)
    assert f"`ichx init '{tmp_path / 'no where'}'`" in caught.value.remedy
    monkeypatch.delenv("ICHX_WORKSPACE")
    monkeypatch.setenv("ICHX_STORE", "postgresql://host/db")
    assert find_workspace(first.root).store_url == "postgresql://host/db"


def test_home_and_variables_in_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    created = init_workspace(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("ICHX_TEST_SCRATCH", "/scratch/17")
    settings = tmp_path / "ichx.toml"
    settings.write_text('cache = "~/caches"\ntensorboard = "${ICHX_TEST_SCRATCH}/tb"\n')
    opened = open_workspace(created.root)
    assert (opened.cache_dir, opened.tensorboard) == (Path("/home/me/caches"), Path("/scratch/17/tb"))
    settings.write_text('cache = "$ICHX_TEST_SCRATCH/ichx"\nstore = "postgresql://me:pa$word@host/db"\n')
    opened = open_workspace(created.root)
    assert (opened.cache_dir, opened.store_url) == (Path("/scratch/17/ichx"), "postgresql://me:pa$word@host/db")
    for text, missing in (("$ICHX_TEST_UNSET/ichx", "ICHX_TEST_UNSET"), ("~nobody-of-this-name/x", "~nobody-of-this")):
        settings.write_text(f'cache = "{text}"\n')
        with pytest.raises(InvalidInputError, match=missing):
            open_workspace(created.root)


def test_the_folder_for_copies_of_caches_is_that_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login node need not have the variables of a compute node."""
    init_workspace(tmp_path)
    assert open_workspace(tmp_path).local_cache_dir() is None
    (tmp_path / "ichx.toml").write_text('cache_local = "$ICHX_TEST_SCRATCH/ichx"\n')
    opened = open_workspace(tmp_path)
    with pytest.raises(InvalidInputError, match="ICHX_TEST_SCRATCH"):
        opened.local_cache_dir()
    monkeypatch.setenv("ICHX_TEST_SCRATCH", "/scratch/17")
    assert opened.local_cache_dir() == Path("/scratch/17/ichx")
    monkeypatch.setenv("ICHX_CACHE_LOCAL", "/other")
    assert open_workspace(tmp_path).local_cache_dir() == Path("/other")
    monkeypatch.setenv("ICHX_CACHE_LOCAL", "")
    assert open_workspace(tmp_path).local_cache_dir() is None


def test_init_keeps_existing_files(tmp_path: Path) -> None:
    created = init_workspace(tmp_path)
    (tmp_path / "ichx.toml").write_text('cache = "/big/disk"\n')
    (created.experiments_dir / "mine.toml").write_text("x")
    assert init_workspace(tmp_path).cache_dir == Path("/big/disk")
    assert (created.experiments_dir / "mine.toml").read_text() == "x"


def test_settings_and_their_defaults(tmp_path: Path) -> None:
    defaults = init_workspace(tmp_path)
    assert defaults.cache_dir == tmp_path / "cache"
    assert defaults.store_url == str(tmp_path / "db" / "ichx.db")
    (tmp_path / "ichx.toml").write_text('cache = "elsewhere"\nstore = "sqlite:///other.db"\ntensorboard = true\n')
    changed = open_workspace(tmp_path)
    assert (changed.cache_dir, changed.store_url) == (tmp_path / "elsewhere", "sqlite:///other.db")
    assert changed.tensorboard == tmp_path / "tensorboard"


@pytest.mark.parametrize(
    ("text", "problem", "remedy"),
    [
        ("cache = ", "ichx.toml", ""),
        ('cash = "x"', "'cash'", "'cache'"),
        ("cache = 3", "`cache` .*3", "directory"),
        ("mlflow = true", "`mlflow` .*True", "server"),
    ],
)
def test_invalid_settings_are_reported(tmp_path: Path, text: str, problem: str, remedy: str) -> None:
    init_workspace(tmp_path)
    (tmp_path / "ichx.toml").write_text(text)
    with pytest.raises(InvalidInputError, match=problem) as caught:
        open_workspace(tmp_path)
    assert remedy in caught.value.remedy


def test_an_unreadable_folder_of_experiments_does_not_count_as_used(tmp_path: Path) -> None:
    """Otherwise the search for an unused number does not end."""
    workspace = init_workspace(tmp_path)
    (workspace.experiments_dir / "1").symlink_to("1")
    assert workspace.is_used("experiment", 1), "it may contain something"
    assert not workspace.is_used("experiment", 2)
    (workspace.experiments_dir / "1").unlink()
    workspace.experiments_dir.rmdir()
    workspace.experiments_dir.symlink_to(workspace.experiments_dir)
    with pytest.raises(StorageError, match="experiments"):
        workspace.is_used("experiment", 1)


def test_a_place_that_is_not_writable_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=str(tmp_path / "file")):
        init_workspace(tmp_path / "file")


def test_the_privacy_key_is_unique_and_private(tmp_path: Path) -> None:
    workspace = init_workspace(tmp_path)
    key = workspace.privacy_key()
    assert len(key) == 32
    assert workspace.privacy_key() == key
    assert init_workspace(tmp_path / "other").privacy_key() != key
    assert stat.S_IMODE((tmp_path / "db" / "privacy.key").stat().st_mode) == 0o600
    assert [path.name for path in (tmp_path / "db").iterdir()] == ["privacy.key"]


def test_concurrent_processes_get_the_same_key(tmp_path: Path) -> None:
    init_workspace(tmp_path)
    script = (
        "import sys; from pathlib import Path; from ichx.workspace import open_workspace; sys.stdin.readline();"
        "print(open_workspace(Path(sys.argv[1])).privacy_key().hex())"
    )
    keys = set(race(script, tmp_path))
    assert len(keys) == 1
    assert len(keys.pop()) == 64


def test_a_key_on_a_disk_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As exFAT, SMB and many network file systems."""

    def link(source: Path, target: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(source), None, str(target))

    monkeypatch.setattr(os, "link", link)
    created = init_workspace(tmp_path)
    key = created.privacy_key()
    assert len(key) == 32
    assert created.privacy_key() == open_workspace(tmp_path).privacy_key() == key
    path = tmp_path / "db" / "privacy.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {file.name for file in path.parent.glob("privacy*")} == {"privacy.key", "privacy.lock"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_settings_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    init_workspace(tmp_path)
    (tmp_path / "ichx.toml").write_bytes('cache = "/größe"\r\n'.encode(encoding))
    assert open_workspace(tmp_path).cache_dir == Path("/größe")
