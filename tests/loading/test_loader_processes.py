"""Loader processes that die or run out of memory end the program with one error; without a fix each of these hangs."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
import pytest
import torch
from small_dicom import head, write_catalog
from torch.utils.data import DataLoader

from ichx.cache.build import ensure_cache
from ichx.cache.hu_cache import Cache, CacheSpec
from ichx.errors import ProcessError
from ichx.loading.loader import SliceLoader
from ichx.loading.loader_processes import read_batches
from ichx.recipe import InputRecipe, ModelRecipe, Recipe, StageRecipe

RECIPE = Recipe(
    plugin="tiny",
    model=ModelRecipe("none"),
    input=InputRecipe(size=48, crop=40),
    stage=(StageRecipe("only", "all", 1, 1e-3),),
    batch=4,
)
Data = tuple[Cache, pd.DataFrame]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    source = tmp_path_factory.mktemp("processes") / "source"
    slices = write_catalog(source, [head(seed=index) for index in range(8)])
    return ensure_cache(source.parent, "d", source, slices, CacheSpec(48, "slice", "bilinear"), processes=1), slices


@pytest.fixture
def load(data: Data, tmp_path: Path) -> Callable[[str], "subprocess.CompletedProcess[str]"]:
    """Run a script that has `limit`s and reads batches of 8 and 4 slices with two processes; it prints their errors."""

    def run(limits: str) -> "subprocess.CompletedProcess[str]":
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
        return subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=900)

    return run


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux")
def test_batch_that_does_not_fit_into_shared_memory_is_an_error(load) -> None:
    ended = load("resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))")  # 8 x 40 x 40 x 2 > it
    large, small = ended.stdout.splitlines()
    assert large.startswith("resources ")
    assert all(value in large for value in ("26 kB", "--workers 0", "--shm-size"))
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


@pytest.mark.parametrize("error", [EOFError(), RuntimeError("Caught OSError in pin memory thread for device 0.")])
def test_a_batch_that_is_not_received_is_an_error_although_no_process_died(error: Exception) -> None:
    class Loader:
        num_workers = 1

        def __iter__(self) -> Iterator[int]:
            yield 1
            raise error

    batches = read_batches(cast("DataLoader[int]", Loader()))
    assert next(batches) == 1
    with pytest.raises(ProcessError, match=str(error) or "EOFError"):
        next(batches)


@pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="needs Linux")
def test_small_shared_memory_does_not_limit_batches(data: Data) -> None:
    """/dev/shm has 64 MB in a Docker container: no batch is stored there."""
    cache, slices = data
    for batch in SliceLoader(cache, slices, RECIPE, workers=1).inference_batches(np.arange(8)):
        own = [os.getpid(), *(child.pid for child in multiprocessing.active_children())]
        assert not any(list(Path("/dev/shm").glob(f"torch_{pid}_*")) for pid in own)
        assert not any("/dev/shm/torch_" in line for line in Path("/proc/self/maps").read_text().splitlines())
        batch.hu += 1  # writable
        assert batch.hu.dtype == torch.int16
