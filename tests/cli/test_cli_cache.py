"""The command `ichx data cache`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Program, clean_environment
from dicom_files import head, write_ct
from full_disk import run_with_limit

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
    assert f"32 px, centre series, bilinear: {n} slices, about" in done.err
    assert f"caching ph: {2 * n} of {2 * n}" in done.err
    again = ichx("data", "cache", "ph", "--size", 32, "--centre", "series", cwd=dataset_copy)
    assert f"32 px, centre series, bilinear: {n} slices, complete" in again.err
    assert "caching" not in again.err
    plain = ichx("data", "cache", "ph", cwd=dataset_copy)
    assert plain.out.count("complete") == 2
    assert ichx("data", "cache", "ph-test", cwd=dataset_copy).out.count("complete") == 0


def test_cache_for_an_experiment_is_the_one_that_it_reads(ichx: Program, dataset_copy: Path) -> None:
    settings = ("--set", "input.centre=series", "--set", "input.resize=area")
    ichx("exp", "new", "--plugin", "tiny_resnet", "--size", 48, *settings, cwd=dataset_copy)
    assert ichx("data", "cache", "ph", "--for", 1, cwd=dataset_copy).code == 0
    assert ichx("data", "cache", "ph-test", "--for", 1, cwd=dataset_copy).code == 0
    built = {folder: (folder / "cache.json").stat().st_mtime_ns for folder in caches(dataset_copy)}
    assert len(built) == 2
    ran = ichx("run", "1", "--fold", 0, "--device", "cpu", cwd=dataset_copy)
    assert ran.code == 0, ran.err
    assert {folder: (folder / "cache.json").stat().st_mtime_ns for folder in caches(dataset_copy)} == built
    wrong = ichx("data", "cache", "ph", "--for", 7, cwd=dataset_copy)
    assert (wrong.code, wrong.out) == (1, "")


def test_damage_is_reported_and_only_damaged_files_are_rebuilt(ichx: Program, dataset_copy: Path) -> None:
    ichx("data", "cache", "ph", "--size", 32, "--size", 48, cwd=dataset_copy)
    assert ichx("data", "cache", "ph", "--verify", cwd=dataset_copy).code == 0
    small, large = caches(dataset_copy)
    shard = large / "00000.shard"
    original = shard.read_bytes()
    shard.write_bytes(original[:100] + bytes([original[100] ^ 255]) + original[101:])
    done = ichx("data", "cache", "ph", "--verify", cwd=dataset_copy)
    assert done.code == 1
    assert str(shard) in done.err
    assert "1 of" in done.err
    assert "--size 48 --centre slice --resize bilinear" in done.err
    assert "Traceback" not in done.err
    assert "0 of 1 shards" in done.out
    written = (small / "00000.shard").stat().st_mtime_ns
    assert ichx("data", "cache", "ph", "--size", 32, "--size", 48, cwd=dataset_copy).code == 0
    assert shard.read_bytes() == original
    assert (small / "00000.shard").stat().st_mtime_ns == written
    assert ichx("data", "cache", "ph", "--verify", cwd=dataset_copy).code == 0


def test_caches_of_another_version_of_ichx_cause_a_warning(ichx: Program, tmp_path: Path) -> None:
    ichx("init", tmp_path / "w", cwd=tmp_path)
    write_ct(tmp_path / "files" / "0.dcm")
    assert ichx("data", "add", "d", tmp_path / "files", cwd=tmp_path / "w").code == 0
    assert "version of ichx" not in ichx("data", "cache", "d", "--size", 32, cwd=tmp_path / "w").err
    [folder] = (tmp_path / "w" / "cache").iterdir()
    for file in ("cache.json", "build.json"):
        (folder / file).write_text('{"format": 1}')
    done = ichx("data", "cache", "d", cwd=tmp_path / "w")
    assert done.code == 0
    assert str(folder) in done.err


@pytest.mark.parametrize("problem", ["missing", "changed", "unwritable", "full"])
def test_build_error_is_one_line(ichx: Program, tmp_path: Path, problem: str) -> None:
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
        done = run_with_limit(600, "-m", "ichx", "data", "cache", "d", "--size", 1024, cwd=root)
    else:
        done = ichx("data", "cache", "d", "--size", 256, cwd=root)
    assert done.code == 1
    assert done.out == ""
    (error,) = (line for line in done.err.splitlines() if line.startswith("error: "))
    expected = {
        "missing": str(file),
        "changed": str(file),
        "unwritable": str(root / "cache"),
        "full": "File too large",
    }
    assert expected[problem] in error
    assert "Traceback" not in done.err
    assert not list(root.rglob(DRAFT_PATTERN))


def test_build_killed_repeatedly_gives_the_same_bytes(ichx: Program, tmp_path: Path) -> None:
    """Kill -9 at moments spread over the build. The shards stay intact and the result has the same bytes."""
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
        build.communicate(timeout=60)
        assert ichx("data", "cache", "d", "--verify", cwd=root).code == 0
    assert kills  # the later ones may come too late
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
