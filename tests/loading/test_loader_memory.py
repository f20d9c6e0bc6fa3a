"""Loader processes are limited by the memory of the machine, its container or its job."""

from pathlib import Path

import pytest

from ichx.loading.loader_memory import PROCESS_BYTES, available_memory, fitting_workers
from ichx.recipe import InputRecipe, ModelRecipe, Recipe, StageRecipe
from ichx.training.device import Hardware, loader_workers

RECIPE = Recipe("tiny", ModelRecipe("none"), InputRecipe(size=378), (StageRecipe("only", "all", 1, 1e-3),), batch=64)
GB = 10**9


def files(folder: Path, contents: dict[str, str]) -> None:
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def test_the_number_stays_where_memory_suffices() -> None:
    assert fitting_workers(RECIPE, 64, 16, 64 * GB) == (16, None)
    assert fitting_workers(RECIPE, 64, 16, None) == (16, None)
    assert fitting_workers(RECIPE, 64, 0, 1000) == (0, None)


@pytest.mark.parametrize("available", [GB // 2, 2 * GB, 3 * GB])
def test_fewer_processes_where_it_does_not(available: int) -> None:
    workers, note = fitting_workers(RECIPE, 64, 16, available)
    assert 1 <= workers < 16
    each = PROCESS_BYTES + 3 * 64 * 378**2 * 3
    assert workers == 1 or workers * each <= available / 2 < (workers + 1) * each
    assert note is not None
    assert "16 loader processes" in note
    assert note.endswith(f"with {workers}")


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ({}, 8000 * 1024),
        ({"proc/self/cgroup": "0::/\n"}, 8000 * 1024),
        (
            {
                "proc/self/cgroup": "0::/job/step\n",
                "cgroups/job/memory.max": "5000000",
                "cgroups/job/memory.current": "4000000",
                "cgroups/job/memory.stat": "anon 3500000\ninactive_file 500000\n",
                "cgroups/job/step/memory.max": "max",
                "cgroups/job/step/memory.current": "4000000",
                "cgroups/job/step/memory.stat": "inactive_file 500000\n",
            },
            1_500_000,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu:/\n4:memory:/docker/1\n",
                "cgroups/memory/memory.limit_in_bytes": "3000000",
                "cgroups/memory/memory.usage_in_bytes": "1000000",
                "cgroups/memory/memory.stat": "cache 100\n",
            },
            2_000_000,
        ),
    ],
)
def test_available_memory_is_the_least_of_all_limits(tmp_path: Path, contents: dict[str, str], expected: int) -> None:
    files(tmp_path, {"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n", **contents})
    assert available_memory(tmp_path / "cgroups", tmp_path / "proc") == expected


def test_unknown_memory_limits_nothing(tmp_path: Path) -> None:
    assert available_memory(tmp_path, tmp_path) is None


def test_a_run_notes_fewer_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr("ichx.training.device.available_memory", lambda: GB)
    notes: list[str] = []
    hardware = Hardware(torch.device("cpu"), "fp32", "for a test")
    assert 1 <= loader_workers(hardware, 16, RECIPE, notes.append) < 16
    assert len(notes) == 1
    assert loader_workers(hardware, None, RECIPE, notes.append) == 0
    assert len(notes) == 1
