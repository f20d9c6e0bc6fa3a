"""Loader processes that die or run out of memory end the program with one error; without a fix each of these hangs."""

import gc
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from open_files import lowest_free_descriptor
from small_dicom import head, write_catalog

from ichx.cache.build import ensure_cache
from ichx.cache.hu_cache import Cache, CacheSpec
from ichx.errors import ProcessError
from ichx.loading import loader_processes
from ichx.loading.loader import SliceLoader
from ichx.loading.sampling import EpochAddress
from ichx.recipe import InputRecipe, ModelRecipe, Recipe, StageRecipe

RECIPE = Recipe(
    plugin="tiny",
    model=ModelRecipe("none"),
    input=InputRecipe(size=48, crop=40),
    stage=(StageRecipe("only", "all", 1, 1e-3),),
    batch=4,
)
Data = tuple[Cache, pd.DataFrame]
Load = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    source = tmp_path_factory.mktemp("processes") / "source"
    slices = write_catalog(source, [head(seed=index) for index in range(8)])
    return ensure_cache(source.parent, "d", source, slices, CacheSpec(48, "slice", "bilinear"), processes=1), slices


@pytest.fixture
def load(data: Data, tmp_path: Path) -> Load:
    """Run a script that has `limit`s and reads batches of 8 and 4 slices with two processes; it prints their errors."""

    def run(limits: str, before: Sequence[str] = ()) -> "subprocess.CompletedProcess[str]":
        (tmp_path / "data.pickle").write_bytes(pickle.dumps((*data, RECIPE)))
        script = tmp_path / "load.py"
        script.write_text(
            textwrap.dedent(f"""
                import pickle, resource
                from pathlib import Path
                import numpy as np
                from ichx.errors import IchxError
                from ichx.loading.loader import SliceLoader

                if __name__ == "__main__":
                    cache, slices, recipe = pickle.loads(Path({str(tmp_path / "data.pickle")!r}).read_bytes())
                    {limits}
                    for batch in (8, 4):
                        loader = SliceLoader(cache, slices, recipe, workers=2)
                        try:
                            read = list(loader.inference_batches(np.arange(8), batch=batch))
                            print("read", sum(len(each.hu) for each in read))
                        except IchxError as error:
                            print(error.code, error.problem, error.remedy)
            """)
        )
        return subprocess.run([*before, sys.executable, str(script)], capture_output=True, text=True, timeout=900)

    return run


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux")
def test_batch_that_does_not_fit_into_shared_memory_is_an_error(load) -> None:
    ended = load("resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))")  # 8 x 40 x 40 x 2 > it
    large, small = ended.stdout.splitlines()
    assert large.startswith("resources ")
    assert all(value in large for value in ("26 kB", "--workers 0", "--memory"))
    assert small == "read 8"
    assert (ended.returncode, ended.stderr) == (0, "")


def test_processes_that_cannot_start_are_an_error(load) -> None:
    ended = load("import os; resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir('/dev/fd')) + 4,) * 2)")
    assert [line.split()[0] for line in ended.stdout.splitlines()] == ["resources", "resources"]
    assert "2 loader processes" in ended.stdout
    assert "--workers 0" in ended.stdout


@pytest.mark.parametrize(("number", "dead"), [(signal.SIGKILL, 1), (signal.SIGBUS, 2)])
def test_death_of_a_process_is_an_error(data: Data, number: signal.Signals, dead: int) -> None:
    cache, slices = data
    batches = SliceLoader(cache, slices, RECIPE, workers=2).inference_batches(np.tile(np.arange(8), 100))
    next(batches)
    workers = active_children()
    assert len(workers) == 2
    for worker in workers[:dead]:
        os.kill(worker.pid or 0, number)
    with pytest.raises(ProcessError, match=number.name) as caught:
        list(batches)
    assert "--workers 0" in caught.value.remedy
    assert not active_children()


def test_a_batch_that_is_not_received_is_an_error_although_no_process_died(data: Data) -> None:
    """E.g. there is no file descriptor left for it."""
    cache, slices = data
    batches = SliceLoader(cache, slices, RECIPE, workers=1).inference_batches(np.tile(np.arange(8), 100))
    next(batches)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free_descriptor(), most))
        with pytest.raises(ProcessError, match="Cannot receive a batch"):
            list(batches)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert not active_children()


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux")
def test_batches_need_no_shared_memory(data: Data, load: Load) -> None:
    """/dev/shm has 64 MB in a Docker container; here it has one page, and nothing can be created in it."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root")
    mounted = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        'mount -t tmpfs -o size=4k,nr_inodes=1 none /dev/shm && exec "$@"',
        "-",
    ]
    if subprocess.run([*mounted, "true"], capture_output=True).returncode:
        pytest.skip("cannot mount")
    ended = load("", mounted)
    assert (ended.stdout.splitlines(), ended.stderr) == (["read 8", "read 8"], "")


def test_batches_are_writable(data: Data) -> None:
    cache, slices = data
    for batch in SliceLoader(cache, slices, RECIPE, workers=1).inference_batches(np.arange(8)):
        batch.hu += 1
        assert batch.hu.dtype == torch.int16


def test_processes_live_across_passes_and_end_with_the_loader(data: Data) -> None:
    cache, slices = data
    loader = SliceLoader(cache, slices, RECIPE, workers=2)
    rows, seen = np.arange(8), list[set[int | None]]()
    for epoch in range(3):
        shared = list(loader.training_batches(rows, EpochAddress(0, 0, 0, epoch)))
        alone = list(SliceLoader(cache, slices, RECIPE).training_batches(rows, EpochAddress(0, 0, 0, epoch)))
        assert all(torch.equal(one.hu, other.hu) for one, other in zip(shared, alone, strict=True))
        list(loader.inference_batches(rows))
        seen.append({child.pid for child in active_children()})
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == 2
    del loader
    gc.collect()
    assert not active_children()


def test_two_passes_at_once_do_not_disturb_each_other(data: Data) -> None:
    cache, slices = data
    loader, rows = SliceLoader(cache, slices, RECIPE, workers=1), np.arange(8)
    first, second = (loader.inference_batches(chosen) for chosen in (rows, rows[::-1].copy()))
    found = [(one.rows.tolist(), other.rows.tolist()) for one, other in zip(first, second, strict=True)]
    assert found == [([0, 1, 2, 3], [7, 6, 5, 4]), ([4, 5, 6, 7], [3, 2, 1, 0])]


def test_a_pass_after_an_abandoned_one_reads_its_own_batches(data: Data) -> None:
    cache, slices = data
    loader, rows = SliceLoader(cache, slices, RECIPE, workers=2), np.arange(8)
    abandoned = loader.inference_batches(rows[::-1].copy(), batch=1)
    next(abandoned)
    abandoned.close()
    assert [batch.rows.tolist() for batch in loader.inference_batches(rows)] == [[0, 1, 2, 3], [4, 5, 6, 7]]
    plain = SliceLoader(cache, slices, RECIPE)
    for one, other in zip(loader.inference_batches(rows), plain.inference_batches(rows), strict=True):
        assert torch.equal(one.hu, other.hu)


def test_processes_that_died_between_passes_are_replaced(data: Data) -> None:
    cache, slices = data
    loader = SliceLoader(cache, slices, RECIPE, workers=2)
    list(loader.inference_batches(np.arange(8)))
    dead = active_children()[0]
    dead.kill()
    dead.join()
    assert len(list(loader.inference_batches(np.arange(8)))) == 2


def test_batches_arrive_without_anonymous_memory(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS: through the connection."""
    cache, slices = data
    monkeypatch.setattr(loader_processes, "ANONYMOUS_MEMORY", False)
    monkeypatch.setattr(loader_processes, "AHEAD", 1)
    loader = SliceLoader(cache, slices, RECIPE, workers=2)
    for one, other in zip(
        loader.training_batches(np.arange(8), EpochAddress(0, 0, 0, 0)),
        SliceLoader(cache, slices, RECIPE).training_batches(np.arange(8), EpochAddress(0, 0, 0, 0)),
        strict=True,
    ):
        assert torch.equal(one.hu, other.hu)
        one.hu += 1


def test_an_error_of_an_augmentation_is_raised_with_its_traceback(data: Data) -> None:
    cache, slices = data
    loader = SliceLoader(cache, slices, RECIPE, workers=2, build_augmentation=failing_augmentation)
    with pytest.raises(ZeroDivisionError) as caught:
        list(loader.training_batches(np.arange(8), EpochAddress(0, 0, 0, 0)))
    assert "in divide" in str(caught.value.__cause__)


def failing_augmentation(recipe: Recipe) -> Any:
    def divide(hu: np.ndarray, mask: Any, rng: np.random.Generator) -> Any:
        return hu / (1 // 0), mask

    return divide


def test_a_loader_process_imports_no_torch() -> None:
    heavy = ("torch", "timm", "pandas", "scipy", "pydicom", "sqlalchemy", "albumentations")
    code = f"import sys, ichx.loading.worker_process; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
