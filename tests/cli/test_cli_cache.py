"""`ichx data cache`: built, listed, verified and repaired caches."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Program, clean_environment
from dicom_files import head, write_ct
from full_disk import run_with_limit
from permissions import permissions_enforced

from ichx.cache.hu_cache import Cache
from ichx.files import DRAFT_PATTERN


def caches(root: Path) -> list[Path]:
    return sorted((root / "cache").iterdir()) if (root / "cache").is_dir() else []


def test_caches_are_built_once_and_listed(ichx: Program, dataset_copy: Path) -> None:
    done = ichx("data", "cache", "ph", "--size", 32, "--size", 48, "--centre", "series", "--json", cwd=dataset_copy)
    assert done.code == 0, done.err
    listed = json.loads(done.out)["caches"]
    assert [(c["spec"]["size"], c["spec"]["centre"], c["complete"], c["current"]) for c in listed] == [
        (32, "series", True, True),
        (48, "series", True, True),
    ]
    assert [Path(c["folder"]) for c in listed] == caches(dataset_copy)
    n = listed[0]["n"]
    assert f"{2 * n} of {2 * n}" in done.err
    again = ichx("data", "cache", "ph", "--size", 32, "--centre", "series", cwd=dataset_copy)
    assert again.code == 0
    assert f"{n} of {n}" not in again.err
    assert json.loads(ichx("data", "cache", "ph-test", "--json", cwd=dataset_copy).out)["caches"] == []


def test_the_cache_for_an_experiment_is_the_one_that_its_run_reads(ichx: Program, dataset_copy: Path) -> None:
    settings = ("--set", "input.centre=series", "--set", "input.resize=area")
    ichx("exp", "new", "--plugin", "tiny_resnet", "--size", 48, *settings, cwd=dataset_copy)
    assert ichx("data", "cache", "ph", "--for", 1, cwd=dataset_copy).code == 0
    assert ichx("data", "cache", "ph-test", "--for", 1, cwd=dataset_copy).code == 0
    built = {folder: (folder / "cache.json").stat().st_mtime_ns for folder in caches(dataset_copy)}
    assert len(built) == 2
    ran = ichx("run", "1", "--fold", 0, "--device", "cpu", cwd=dataset_copy)
    assert ran.code == 0, ran.err
    assert {folder: (folder / "cache.json").stat().st_mtime_ns for folder in caches(dataset_copy)} == built
    ichx("data", "cache", "ph", "--for", 7, "--json", cwd=dataset_copy).check_error("not_found", "7")


def test_parts_are_built_by_separate_commands(ichx: Program, dataset_copy: Path) -> None:
    done = ichx("data", "cache", "ph", "--size", 32, "--part", "2/2", "--json", cwd=dataset_copy)
    assert done.code == 0, done.err
    (cache,) = json.loads(done.out)["caches"]
    assert (cache["complete"], cache["shards"], cache["of_shards"]) == (False, 0, 1)  # the only shard is in part 1
    (cache,) = json.loads(ichx("data", "cache", "ph", "--size", 32, "--part", "1/2", "--json", cwd=dataset_copy).out)[
        "caches"
    ]
    assert (cache["complete"], cache["shards"]) == (True, 1)
    refused = ichx("data", "cache", "ph", "--size", 32, "--part", "3/2", "--json", cwd=dataset_copy)
    refused.check_error("invalid_input", "'3/2'")
    ichx("data", "cache", "ph", "--part", "1/2", "--json", cwd=dataset_copy).check_error("usage", "--part")


@pytest.mark.parametrize("state", ["complete", "incomplete"])
def test_a_read_only_cache(ichx: Program, dataset_copy: Path, state: str) -> None:
    assert ichx("data", "cache", "ph", "--size", 32, cwd=dataset_copy).code == 0
    (folder,) = caches(dataset_copy)
    if state == "incomplete":
        (folder / "cache.json").unlink()
        (folder / "00000.shard").unlink()
    folder.chmod(0o555)
    with permissions_enforced():
        done = ichx("data", "cache", "ph", "--size", 32, "--json", cwd=dataset_copy)
    folder.chmod(0o755)
    if state == "complete":
        assert done.code == 0, done.err
    else:
        done.check_error("storage", str(folder), "1 shard")


def test_damage_is_reported_and_only_that_is_rebuilt(ichx: Program, dataset_copy: Path) -> None:
    ichx("data", "cache", "ph", "--size", 32, "--size", 48, cwd=dataset_copy)
    assert ichx("data", "cache", "ph", "--verify", cwd=dataset_copy).code == 0
    small, large = caches(dataset_copy)
    shard = large / "00000.shard"
    intact = shard.read_bytes()
    damaged = intact[:100] + bytes([intact[100] ^ 255]) + intact[101:]
    shard.write_bytes(damaged)
    done = ichx("data", "cache", "ph", "--verify", cwd=dataset_copy)
    assert done.code == 1
    assert str(shard) in done.err
    assert "--size 48 --centre slice --resize bilinear" in done.err
    assert "0 of 1" in done.out
    shard.write_bytes(damaged)
    done = ichx("data", "cache", "ph", "--verify", "--json", cwd=dataset_copy)
    assert (done.code, done.err.strip()) == (1, "verifying shards: 2 of 2")
    found = json.loads(done.out)
    assert [list(cache["damaged"]) for cache in found["verified"]] == [[], ["00000.shard"]]
    assert [cache["complete"] for cache in found["caches"]] == [True, False]
    unchanged = (small / "00000.shard").stat().st_mtime_ns
    assert ichx("data", "cache", "ph", "--size", 32, "--size", 48, cwd=dataset_copy).code == 0
    assert shard.read_bytes() == intact
    assert (small / "00000.shard").stat().st_mtime_ns == unchanged
    assert ichx("data", "cache", "ph", "--verify", cwd=dataset_copy).code == 0


def test_caches_of_another_version_are_reported(ichx: Program, tmp_path: Path) -> None:
    ichx("init", tmp_path / "w", cwd=tmp_path)
    write_ct(tmp_path / "files" / "0.dcm")
    assert ichx("data", "add", "d", tmp_path / "files", cwd=tmp_path / "w").code == 0
    assert "warning" not in ichx("data", "cache", "d", "--size", 32, cwd=tmp_path / "w").err
    [folder] = (tmp_path / "w" / "cache").iterdir()
    for file in ("cache.json", "build.json"):
        (folder / file).write_text('{"format": 1}')
    done = ichx("data", "cache", "d", cwd=tmp_path / "w")
    assert done.code == 0
    assert re.search(f"warning: .*{folder}", done.err)


@pytest.mark.parametrize("problem", ["missing", "changed", "unwritable", "full"])
def test_builds_that_fail(ichx: Program, tmp_path: Path, problem: str) -> None:
    ichx("init", tmp_path / "w", cwd=tmp_path)
    root = tmp_path / "w"
    for index in range(3):
        write_ct(tmp_path / "files" / f"{index}.dcm", head(index), PatientID=str(index))
    assert ichx("data", "add", "d", tmp_path / "files", cwd=root).code == 0
    file = tmp_path / "files" / "1.dcm"
    if problem == "missing":
        file.unlink()
    elif problem == "changed":
        file.write_bytes(file.read_bytes() + b"\0\0")
    elif problem == "unwritable":
        (root / "cache").write_text("no folder")
    if problem == "full":
        done = run_with_limit(600, "-m", "ichx", "data", "cache", "d", "--size", 1024, "--json", cwd=root)
    else:
        done = ichx("data", "cache", "d", "--size", 256, "--json", cwd=root)
    file = "1.dcm" if problem in ("missing", "changed") else str(root / "cache")
    done.check_error("changed_data" if file == "1.dcm" else "storage", file)
    assert not list(root.rglob(DRAFT_PATTERN))


def test_killed_builds_resume_to_the_same_bytes(ichx: Program, tmp_path: Path) -> None:
    """Kill a build several times; the caches are valid after each kill, and equal an uninterrupted build in the end."""
    ichx("init", tmp_path / "w", cwd=tmp_path)
    root = tmp_path / "w"
    first = write_ct(tmp_path / "files" / "0000.dcm", head(side=128)).read_bytes()
    for index in range(1, 1500):
        other = first.replace(b"ID_0000", b"ID_%04d" % index)[:-20_000] + index.to_bytes(2, "little") * 10_000
        (tmp_path / "files" / f"{index:04}.dcm").write_bytes(other)
    assert ichx("data", "add", "d", tmp_path / "files", cwd=root).code == 0
    command = [sys.executable, "-m", "ichx", "data", "cache", "d", "--size", "96", "--size", "128", "--processes", "2"]
    environment = clean_environment()
    kills = 0
    for count in range(0, 12, 3):
        build = subprocess.Popen(
            command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
        )
        while build.poll() is None and len(list(root.glob("cache/*/[0-9]*.shard"))) < count:
            time.sleep(0.005)
        if build.poll() is None:
            os.killpg(build.pid, signal.SIGKILL)
            kills += 1
        build.communicate(timeout=900)
        assert ichx("data", "cache", "d", "--verify", cwd=root).code == 0
    assert kills  # later builds may finish first
    assert ichx("data", "cache", "d", "--size", 96, "--size", 128, cwd=root).code == 0
    assert ichx("data", "cache", "d", "--verify", cwd=root).code == 0
    resumed = {path.relative_to(root): path.read_bytes() for path in root.glob("cache/*/*")}
    for folder in caches(root):
        cache = Cache(folder)
        assert cache.valid.all()
        assert len({cache.read(row).tobytes() for row in range(cache.n)}) == 1500
        for path in folder.iterdir():
            path.unlink()
    assert ichx("data", "cache", "d", "--size", 96, "--size", 128, "--processes", 1, cwd=root).code == 0
    assert {path.relative_to(root): path.read_bytes() for path in root.glob("cache/*/*")} == resumed
