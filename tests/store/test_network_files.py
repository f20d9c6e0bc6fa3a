"""SQLite stores on network file systems: recognized, read, not written unless that is allowed."""

from pathlib import Path

import pytest
from conftest import Program

from ichx import mounts
from ichx.errors import StoreError
from ichx.mounts import find_network_mount
from ichx.store import Store, open_store
from ichx.store.network_files import ALLOW
from ichx.store.testing import experiment_draft, run_draft, version_draft
from ichx.workspace import init_workspace, open_workspace

MOUNTS = [
    "22 1 0:21 / / rw - ext4 /dev/sda1 rw",
    "30 22 0:40 / /home rw,relatime shared:1 - nfs4 server:/home rw",
    "31 30 0:41 / /home/me/local\\040disk rw - xfs /dev/sdb1 rw",
    "32 22 0:42 / /mnt/share rw - cifs //server/share rw",
    "33 22 0:43 / /net rw - autofs /etc/auto.net rw",
    "34 33 0:44 / /net rw - lustre mds@tcp:/fs rw",
    "35 22 0:45 / /data/k\u00fche rw - fuse.sshfs host:/k rw",
]


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("/home/me/db/ichx.db", "nfs4"),
        ("/home/me/local disk/ichx.db", None),
        ("/mnt/share/ichx.db", "cifs"),
        ("/net/ichx.db", "lustre"),
        ("/data/k\u00fche/ichx.db", "fuse.sshfs"),
        ("/var/ichx.db", None),
        ("/homes/ichx.db", None),
    ],
)
def test_network_file_systems_are_recognized(file: str, kind: str | None) -> None:
    assert find_network_mount(Path(file), MOUNTS) == kind


@pytest.fixture(params=["nfs4", "beegfs", "gpfs", "ceph", "fuse.sshfs"])
def network(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Mount a network file system at `tmp_path/home`; return its kind."""
    home = str(tmp_path / "home").replace(" ", "\\040")
    mountinfo = tmp_path / "mountinfo"
    mountinfo.write_text(f"1 0 0:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:2 / {home} rw - {request.param} server:/home rw\n")
    monkeypatch.setattr(mounts, "MOUNTS", mountinfo)
    return str(request.param)


def test_a_store_on_a_network_file_system_is_only_read(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ichx: Program
) -> None:
    root = tmp_path / "home" / "workspace"
    with pytest.raises(StoreError, match=network) as caught, open_store(init_workspace(root)):
        pass
    assert str(root / "db" / "ichx.db") in caught.value.problem
    assert ALLOW in caught.value.remedy
    assert "PostgreSQL" in caught.value.remedy
    assert not (root / "db" / "ichx.db").exists()
    monkeypatch.setenv(ALLOW, "1")
    with open_store(open_workspace(root)) as store:
        store.add_experiments([experiment_draft(store.add_version(version_draft()))])
        run = store.start_run(run_draft())
    before = (root / "db" / "ichx.db").read_bytes()
    monkeypatch.delenv(ALLOW)
    with open_store(open_workspace(root)) as store:
        assert store.experiments(limit=1)[0].number == 1
        assert store.network_file_system() == network
        assert store.check_file()[-1].problems[0].count(network) == 1
        with pytest.raises(StoreError, match=network):
            store.add_note(1, "text")
        with pytest.raises(StoreError, match=network):
            store.heartbeat(run.id)
    monkeypatch.delenv("ICHX_STORE", raising=False)
    assert ichx("exp", "list", cwd=root).code == 0
    for command in (("run", 1), ("exp", "note", 1, "text"), ("data", "add", "ph", tmp_path), ("tune", 1)):
        ichx(*command, "--json", cwd=root).check_error("store", network)
    assert (root / "db" / "ichx.db").read_bytes() == before


@pytest.mark.parametrize("network", ["nfs"], indirect=True)
def test_its_records_are_moved_to_a_local_disk(
    network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ichx: Program
) -> None:
    root, local = tmp_path / "home" / "workspace", tmp_path / "local.db"
    monkeypatch.setenv(ALLOW, "1")
    with open_store(init_workspace(root)) as store:
        store.add_experiments([experiment_draft(store.add_version(version_draft()))])
    monkeypatch.delenv(ALLOW)
    assert ichx("store", "move", local, cwd=root).code == 0
    monkeypatch.setenv("ICHX_STORE", str(local))
    assert ichx("exp", "note", 1, "text", cwd=root).code == 0
    with Store(str(local)) as moved:
        assert [note.text for note in moved.notes(1)] == ["text"]
