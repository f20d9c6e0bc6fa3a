"""Training and inference on a CUDA GPU, from the command line. Skipped on a machine without one.

`ICHX_TEST_DEVICE=cpu` runs those that need no GPU on the CPU, so that they can be checked without one.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import Program, clean_environment
from memory_feed import MemoryFeed, make_batch
from test_compilation import check_group

from ichx.cache.build import find_cache
from ichx.cache.recipe_caches import recipe_spec
from ichx.datasets.add import AddRequest, add_dataset
from ichx.datasets.dataset import load_dataset
from ichx.evaluation.predictions import read_predictions
from ichx.labels import LABELS
from ichx.loading.batch_reader import centre_crop
from ichx.loading.loader import SliceLoader
from ichx.phantom.dicom_files import PhantomFiles, write_phantom
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.recipe_text import apply_settings, from_toml
from ichx.store import EpochRecord, Run, open_store
from ichx.training import compilation
from ichx.training.callbacks import Callbacks
from ichx.training.control import Control
from ichx.training.device import choose_hardware, isolated_torch_settings
from ichx.training.feed import SliceInputs
from ichx.training.learner import Learner
from ichx.training.memory import release
from ichx.training.prediction import Predictor
from ichx.training.runtime import Runtime
from ichx.training.weights import read_weights
from ichx.workspace import init_workspace, open_workspace

DEVICE = os.environ.get("ICHX_TEST_DEVICE", "cuda")
ON_GPU = DEVICE == "cuda"
pytestmark = pytest.mark.skipif(ON_GPU and not torch.cuda.is_available(), reason="needs a CUDA GPU")
only_on_gpu = pytest.mark.skipif(not ON_GPU, reason="needs a CUDA GPU")

AMPERE = ON_GPU and torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
FIRST_CHOICE = ("bf16" if AMPERE else "fp16") if ON_GPU else choose_hardware("cpu", "auto").precision
NAME = "cuda:0" if ON_GPU else "cpu"
PRECISIONS = [("auto", FIRST_CHOICE), ("fp32", "fp32")]
PRECISIONS += [("fp16", "fp16")] if ON_GPU else []
PRECISIONS += [("bf16", "bf16")] if AMPERE or not ON_GPU else []
SHORT = ("stage.balanced.epochs=1", "stage.rebalanced.epochs=1", "stage.full.epochs=1")
NARROW = ("--workers", 2)
"""Loader processes of a run: one per core, the default, would slow down tests that run at the same time."""


@pytest.fixture(scope="module")
def masked_root(phantom: PhantomFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace with the phantom and its masks as dataset `ph` (2 folds), to which tests add experiments."""
    workspace = init_workspace(tmp_path_factory.mktemp("cuda") / "workspace")
    with open_store(workspace) as store:
        request = AddRequest("ph", phantom.train, labels=phantom.train_labels, masks=phantom.train_masks, folds=2)
        add_dataset(Project(workspace, store), request)
    return workspace.root


@pytest.fixture(autouse=True)
def _clean_gpu() -> Iterator[None]:
    """Give this process all of the GPU again, with nothing compiled and nothing held."""
    yield
    torch.compiler.reset()
    release()
    if ON_GPU:
        torch.cuda.set_per_process_memory_fraction(1.0)


def register(ichx: Program, root: Path, *settings: str, plugin: str = "tiny_resnet", size: int | None = None) -> int:
    """Register an experiment and return its number."""
    chosen = [part for setting in settings for part in ("--set", setting)]
    sized = () if size is None else ("--size", size)
    done = ichx("exp", "new", "--plugin", plugin, *sized, *chosen, "--json", cwd=root)
    assert done.code == 0, done.err
    return int(json.loads(done.out)[0]["number"])


def trained(ichx: Program, root: Path, number: int, *options: object) -> str:
    """Run fold 0 on the GPU and return what it wrote to standard error."""
    done = ichx("run", number, "--fold", 0, "--device", DEVICE, *NARROW, *options, cwd=root)
    assert done.code == 0, done.err
    return done.err


def last_run(root: Path, number: int) -> Run:
    with open_store(open_workspace(root)) as store:
        return store.runs(number)[-1]


def history(root: Path, number: int) -> list[EpochRecord]:
    with open_store(open_workspace(root)) as store:
        return store.history(number, 0)


def fold_folder(root: Path, number: int) -> Path:
    return root / "experiments" / str(number) / "fold-0"


def oof(root: Path, number: int) -> np.ndarray:
    return read_predictions(fold_folder(root, number) / "oof-identity.parquet").logits


@pytest.mark.parametrize(("precision", "used"), PRECISIONS)
def test_every_precision_trains_and_predicts(dataset_copy: Path, ichx: Program, precision: str, used: str) -> None:
    number = register(ichx, dataset_copy, f"precision={precision}")
    trained(ichx, dataset_copy, number)
    run = last_run(dataset_copy, number)
    assert (run.state, run.device.split(" (")[0]) == ("done", f"{NAME}, {used}")
    assert ("TF32" in run.device) == (used == "fp32" and AMPERE)
    epochs = history(dataset_copy, number)
    assert len(epochs) == 5
    assert epochs[-1].values["loss"] < epochs[0].values["loss"]
    assert epochs[-1].values["score"] < epochs[0].values["score"]
    assert all(0 < epoch.values["memory_gb"] < 80 for epoch in epochs)
    assert np.isfinite(oof(dataset_copy, number)).all()


@only_on_gpu
def test_fp16_scales_gradients_and_restores_the_scale() -> None:
    recipe = apply_settings(load_registry().get("tiny_resnet").recipe_for(size=64), ["precision=fp16", "batch=8"])
    hardware = choose_hardware(DEVICE, "fp16")
    batch = SliceInputs(torch.rand((8, 3, 64, 64), device=DEVICE), (torch.rand((8, 6), device=DEVICE) < 0.3).float())

    def begun() -> Learner:
        learner = Learner(recipe, 0, load_registry().get("tiny_resnet").build(recipe, False), Runtime(hardware), print)
        learner.begin_epoch(0)
        return learner

    with isolated_torch_settings(hardware):
        learner = begun()
        for number in range(3):
            assert torch.isfinite(learner.step(batch, 0, number, 3))
        state = learner.state()
        assert state["scaler"]["scale"] > 1
        state["scaler"]["scale"] = 1024.0
        resumed = begun()
        resumed.restore(state)
        assert resumed.runtime.scaler is not None
        assert resumed.runtime.scaler.get_scale() == 1024.0
        assert torch.isfinite(resumed.step(batch, 0, 3, 4))


@pytest.mark.parametrize(
    ("precision", "resumed_on"), [("auto", DEVICE), *([("fp16", DEVICE)] if ON_GPU else []), ("fp32", "cpu")]
)
def test_stopped_within_an_epoch_it_resumes(dataset_copy: Path, ichx: Program, precision: str, resumed_on: str) -> None:
    """The epochs are those of an uninterrupted run; cuDNN may choose other algorithms, so that bits can differ."""
    slow = ("batch=4", "stage.balanced.epochs=4", "stage.balanced.lr=1e-3", "stage.rebalanced.epochs=1")
    numbers = [register(ichx, dataset_copy, *slow, "stage.full.epochs=1", f"precision={precision}") for _ in range(2)]
    trained(ichx, dataset_copy, numbers[1])
    command = [sys.executable, "-m", "ichx", "run", str(numbers[0]), "--fold", "0", "--device", DEVICE]
    process = subprocess.Popen(
        [*command, "--workers", "2", "--checkpoint-every", "0.05s"],
        cwd=dataset_copy,
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder = fold_folder(dataset_copy, numbers[0])
    until = time.monotonic() + 900
    while all(path.name.endswith("-000000000.pt") for path in folder.glob("checkpoint-*.pt")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until, "no checkpoint within an epoch"
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=900)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "Traceback" not in err
    assert last_run(dataset_copy, numbers[0]).state == "stopped"
    done = ichx("run", numbers[0], "--fold", 0, "--device", resumed_on, *NARROW, cwd=dataset_copy)
    assert done.code == 0, done.err
    assert "checkpoint" in done.err
    first, second = history(dataset_copy, numbers[0]), history(dataset_copy, numbers[1])
    assert [(e.stage, e.epoch) for e in first] == [(e.stage, e.epoch) for e in second]
    assert [e.values["images"] for e in first] == [e.values["images"] for e in second]
    assert first[-1].values["score"] == pytest.approx(second[-1].values["score"], abs=0.05)


@only_on_gpu
def test_a_long_training_is_compiled(dataset_copy: Path, ichx: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.utils import counters

    numbers = [register(ichx, dataset_copy, *SHORT, "stage.full.epochs=3") for _ in range(2)]
    trained(ichx, dataset_copy, numbers[0])
    monkeypatch.setattr(compilation, "WORTH_STEPS", 1)
    counters.clear()
    err = trained(ichx, dataset_copy, numbers[1])
    assert "note:" not in err
    assert counters["stats"]["unique_graphs"] >= 1
    plain, compiled = (history(dataset_copy, number)[-1].values["score"] for number in numbers)
    assert compiled == pytest.approx(plain, abs=0.05)
    stored = [read_weights(fold_folder(dataset_copy, number) / "weights.safetensors") for number in numbers]
    assert list(stored[0]) == list(stored[1])


@only_on_gpu
def test_without_a_compiler_it_trains_uncompiled(dataset_copy: Path, ichx: Program, tmp_path: Path) -> None:
    """Triton needs a C compiler; machines without one are common."""
    number = register(ichx, dataset_copy, *SHORT)
    code = "from ichx.training import compilation; compilation.WORTH_STEPS = 1\nfrom ichx.cli.app import main; main()"
    caches = {name: str(tmp_path / name) for name in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")}
    done = subprocess.run(
        [sys.executable, "-c", code, "run", str(number), "--fold", "0", "--device", DEVICE, "--workers", "2"],
        cwd=dataset_copy,
        env=clean_environment(CC=str(tmp_path / "no-compiler"), PATH=str(tmp_path), **caches),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("note:") == 1, done.stderr
    assert last_run(dataset_copy, number).state == "done"


def limit_memory(gigabytes: float) -> None:
    """Leave this process so much of the GPU's memory."""
    release()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(gigabytes * 1e9 / total)


@only_on_gpu
@pytest.mark.parametrize("precision", ["auto", "fp16"])
def test_a_batch_that_does_not_fit_is_trained_in_halves(dataset_copy: Path, ichx: Program, precision: str) -> None:
    settings = ("batch=64", *SHORT, f"precision={precision}")
    numbers = [register(ichx, dataset_copy, *settings, size=256) for _ in range(2)]
    trained(ichx, dataset_copy, numbers[0])
    needed = max(epoch.values["memory_gb"] for epoch in history(dataset_copy, numbers[0]))
    limit_memory(0.6 * needed)
    err = trained(ichx, dataset_copy, numbers[1])
    assert re.search(r"\b64\b.*\b32\b", err), err
    assert max(epoch.values["memory_gb"] for epoch in history(dataset_copy, numbers[1])) <= 0.6 * needed
    whole, parts = (history(dataset_copy, number)[-1].values["score"] for number in numbers)
    assert parts == pytest.approx(whole, abs=0.1)  # batch normalization sees the statistics of 32


@only_on_gpu
def test_too_little_memory_is_an_error_of_one_line(dataset_copy: Path, ichx: Program) -> None:
    number = register(ichx, dataset_copy, *SHORT, size=256)
    limit_memory(0.002)
    done = ichx("run", number, "--fold", 0, "--device", DEVICE, *NARROW, cwd=dataset_copy)
    assert done.code == 1
    assert "Traceback" not in done.err
    assert "memory" in done.err
    assert last_run(dataset_copy, number).state == "failed"


@only_on_gpu
def test_more_processes_than_gpus_are_refused(dataset_copy: Path, ichx: Program, ichx_process: Program) -> None:
    number, gpus = register(ichx, dataset_copy, *SHORT), torch.cuda.device_count()
    for device in ("cuda", "auto"):
        refused = ichx_process(
            "run", number, "--fold", 0, "--device", device, "--processes", gpus + 1, cwd=dataset_copy
        )
        assert refused.code == 1, refused.err
        assert "Traceback" not in refused.err
        assert re.search(rf"\b{gpus + 1}\b.*\b{gpus}\b", refused.err), refused.err


def test_a_process_group_on_the_gpu_trains(dataset_copy: Path, ichx: Program) -> None:
    """Of as many processes as there are GPUs, at most two; of one, too, all that is exchanged goes through NCCL."""
    number, size = register(ichx, dataset_copy, *SHORT), min(torch.cuda.device_count(), 2) or 1
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size), "--standalone"]
    done = subprocess.run(
        [*torchrun, "-m", "ichx", "run", str(number), "--fold", "0", "--device", DEVICE, "--workers", "2", "--json"],
        cwd=dataset_copy,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["trained"] == [0]
    assert last_run(dataset_copy, number).device.startswith(f"{NAME}, ")


@only_on_gpu
@pytest.mark.parametrize("precision", ["auto", "fp16"])
@pytest.mark.parametrize(
    ("plugin", "settings"),
    [
        ("tiny_unet", ("augmentation.cutmix=1.0", "batch=8")),
        ("tiny_fine_25d", ("augmentation.window_shift=5.0", "augmentation.mixup=0.4", "model.dropout=0.2")),
        (
            "tiny_efficientnet",
            (
                "ema.decay=0.9",
                "optimizer.name=adamw",
                "optimizer.clip=1.0",
                "optimizer.layer_decay=0.9",
                "stage.balanced.freeze=1",
                "stage.full.patience=1",
                "stage.full.epochs=3",
                "loss.label_smoothing=0.1",
            ),
        ),
        ("tiny_byobnet", ("optimizer.name=sgd", "augmentation.elastic_alpha=20.0")),
    ],
)
def test_methods_work_on_the_gpu(
    masked_root: Path, ichx: Program, plugin: str, settings: tuple[str, ...], precision: str
) -> None:
    number = register(ichx, masked_root, *SHORT, f"precision={precision}", *settings, plugin=plugin)
    trained(ichx, masked_root, number, "--save", "features")
    assert last_run(masked_root, number).state == "done"
    assert np.isfinite(oof(masked_root, number)).all()
    values = history(masked_root, number)[-1].values
    assert ("dice" in values) == (plugin == "tiny_unet")
    assert ichx("audit", number, cwd=masked_root).code == 0


def test_trained_weights_serve_every_command(
    dataset_copy: Path, phantom: PhantomFiles, ichx: Program, tmp_path: Path
) -> None:
    """The GPU's probabilities are the CPU's, within what TF32 rounds."""
    number = register(ichx, dataset_copy, *SHORT, "precision=fp32")
    done = ichx("run", number, "--device", DEVICE, *NARROW, cwd=dataset_copy)
    assert done.code == 0, done.err
    predicted = []
    for device in (DEVICE, "cpu"):
        out = tmp_path / f"{device}.csv"
        done = ichx(
            "predict",
            number,
            phantom.train,
            "--device",
            device,
            *NARROW,
            "--out",
            out,
            "--tta",
            "hflip",
            cwd=dataset_copy,
        )
        assert done.code == 0, done.err
        predicted.append(pd.read_csv(out)[list(LABELS)].to_numpy())
    np.testing.assert_allclose(predicted[0], predicted[1], atol=5e-3)
    other = write_phantom(tmp_path / "other", patients=3, seed=2, size=64, prevalence={"any": 0.5})
    workspace = open_workspace(dataset_copy)
    with open_store(workspace) as store:
        project = Project(workspace, store)
        add_dataset(project, AddRequest("late", phantom.train, test_of="ph"))
        add_dataset(project, AddRequest("other", other.train, labels=other.train_labels, folds=2))
    trained(ichx, dataset_copy, number)
    assert (fold_folder(dataset_copy, number) / "test-late-v1-identity.parquet").exists(), "added after the training"
    for arguments in (
        ("evaluate", number, "--dataset", "other", "--device", DEVICE, *NARROW),
        ("report", number),
        ("audit", number),
        *(("export", number, "--format", name) for name in ("onnx", "torch-export", "safetensors")),
    ):
        done = ichx(*arguments, cwd=dataset_copy)
        assert done.code == 0, (arguments, done.err)


@only_on_gpu
def test_folds_share_the_gpu(dataset_copy: Path, ichx: Program, ichx_process: Program) -> None:
    number = register(ichx, dataset_copy, *SHORT)
    done = ichx_process("run", number, "--jobs", 2, "--device", DEVICE, *NARROW, "--json", cwd=dataset_copy)
    assert done.code == 0, done.err
    with open_store(open_workspace(dataset_copy)) as store:
        assert store.experiment(number).state == "done"
        assert {run.device.split(",")[0] for run in store.runs(number)} <= {
            f"cuda:{index}" for index in range(torch.cuda.device_count())
        }


def test_trials_of_a_study_run_on_the_gpu(dataset_copy: Path, ichx: Program, ichx_process: Program) -> None:
    number = register(ichx, dataset_copy, *SHORT)
    done = ichx_process(
        "tune", number, "--trials", 2, "--device", DEVICE, *NARROW, "--search", "optimizer.weight_decay=0.0..0.1",
        cwd=dataset_copy,
    )  # fmt: skip
    assert done.code == 0, done.err


@only_on_gpu
@pytest.mark.parametrize("workers", [0, 2])
def test_slices_arrive_through_pinned_memory(dataset_copy: Path, ichx: Program, workers: int) -> None:
    number = register(ichx, dataset_copy, *SHORT)
    trained(ichx, dataset_copy, number)
    workspace = open_workspace(dataset_copy)
    with open_store(workspace) as store:
        recipe = from_toml(store.experiment(number).recipe)
        data = load_dataset(Project(workspace, store), "ph")
    cache = find_cache(workspace.cache_dir, data.version.dataset, data.slices, recipe_spec(recipe))
    assert cache is not None
    rows = np.flatnonzero(cache.valid)
    torch.zeros(1, device=DEVICE)
    arrived = []
    for batch in SliceLoader(cache, data.slices, recipe, workers=workers).inference_batches(rows, batch=32):
        assert batch.hu.is_pinned()
        arrived.append(batch.hu.to(DEVICE, non_blocking=True))
    stored = np.stack([centre_crop(cache.read(row), recipe.input.pixels) for row in rows.tolist()])
    assert torch.equal(torch.cat(arrived).cpu(), torch.from_numpy(stored))


@pytest.mark.parametrize("broken_in", [-1, 1])
def test_two_processes_on_one_device_train_and_compile_together(broken_in: int) -> None:
    """By gloo: NCCL refuses two processes on one GPU."""
    check_group("cuda:0" if ON_GPU else "cpu", broken_in)


@only_on_gpu
def test_long_predictions_are_compiled() -> None:
    """The logits are those of the network as it is, within what half precision rounds."""
    recipe = load_registry().get("tiny_resnet").recipe_for(size=64)
    hardware = choose_hardware(DEVICE, "auto")
    feed = MemoryFeed(recipe, make_batch(150, 1, 64))
    with isolated_torch_settings(hardware):
        runtime = Runtime(hardware)
        network = runtime.prepare(load_registry().get("tiny_resnet").build(recipe, False))
        notes: list[str] = []

        class Notes(Callbacks):
            def note(self, message: str) -> None:
                notes.append(message)

        control = Control(callbacks=Notes())
        plain, compiled = (
            Predictor(runtime, control, batches=batches).logits(network, feed, np.arange(150))
            for batches in (0, compilation.WORTH_BATCHES)
        )
    assert not notes
    np.testing.assert_allclose(compiled, plain, atol=0.05)
