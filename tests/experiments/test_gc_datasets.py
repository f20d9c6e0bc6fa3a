"""Folders of versions that the store does not know, as a killed `ichx data add` leaves them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dicom_files import write_ct

from ichx.datasets.add import AddRequest, add_dataset
from ichx.experiments.gc import delete, find_garbage
from ichx.project import Project
from ichx.store import open_store
from ichx.workspace import init_workspace

KILLED = """
import os, sys
from pathlib import Path
from ichx.datasets import {module}
from ichx.datasets.add import AddRequest, add_dataset
from ichx.project import Project
from ichx.store import open_store
from ichx.workspace import open_workspace

workspace = open_workspace(Path(sys.argv[1]))
with open_store(workspace) as store:
    {kill}
    add_dataset(Project(workspace, store), AddRequest("killed", Path(sys.argv[2])))
"""
"""Adds a dataset and dies: before the catalog is written, or before the version is in the store."""


@pytest.mark.parametrize(
    ("module", "kill", "left"),
    [
        ("prepared_version", "prepared_version.write_catalog = lambda *_: os._exit(9)", ".v1."),
        ("new_version", "type(store).add_version = lambda *_: os._exit(9)", "v1"),
    ],
)
def test_a_killed_addition_is_repeated_and_its_folder_collected(
    tmp_path: Path, module: str, kill: str, left: str
) -> None:
    write_ct(tmp_path / "files" / "a.dcm", SOPInstanceUID="1.2.3")
    workspace = init_workspace(tmp_path / "workspace")
    script = KILLED.format(module=module, kill=kill)
    done = subprocess.run([sys.executable, "-c", script, str(workspace.root), str(tmp_path / "files")], check=False)
    assert done.returncode == 9
    (orphan,) = (workspace.datasets_dir / "killed").iterdir()
    assert orphan.name.startswith(left)
    with open_store(workspace) as store:
        project = Project(workspace, store)
        assert store.datasets() == []
        version = add_dataset(project, AddRequest("killed", tmp_path / "files")).version
        assert version.number == 1
        assert find_garbage(project) == []  # another process may be adding it
        for path in (*orphan.iterdir(), orphan):
            os.utime(path, (time.time() - 2 * 24 * 3600,) * 2)
        (found,) = find_garbage(project)
        assert found.path == orphan
        delete(project, found)
        assert not orphan.exists()
        assert (workspace.root / version.path).is_dir()
        assert find_garbage(project) == []
