"""Where a training computes and in which precision: chosen, said with a reason, and undone afterwards."""

import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from ichx.errors import IchxError, InvalidInputError, ResourceError, UnsupportedError
from ichx.training.device import Hardware, choose_hardware, cpu_precision, cuda_precision, isolated_torch_settings
from ichx.training.distributed import avoid_small_shared_memory


@pytest.mark.parametrize(
    ("capability", "precision", "reason"),
    [
        ((12, 0), "bf16", "compute capability 12.0"),
        ((8, 0), "bf16", "compute capability 8.0"),
        ((7, 5), "fp16", "compute capability 7.5 has no bf16; gradients are scaled"),
        ((7, 0), "fp16", "compute capability 7.0 has no bf16; gradients are scaled"),
        ((6, 1), "fp32", "compute capability 6.1 has no tensor cores"),
    ],
)
def test_the_precision_of_a_gpu(capability: tuple[int, int], precision: str, reason: str) -> None:
    assert cuda_precision(*capability) == (precision, reason)


@pytest.mark.parametrize(
    ("flags", "precision", "reason"),
    [
        ({"avx2", "avx512f", "avx512_bf16"}, "bf16", "avx512_bf16"),
        ({"avx512_bf16", "amx_bf16", "amx_tile"}, "bf16", "amx_bf16, avx512_bf16"),
        ({"avx2", "avx512f"}, "fp32", "no AVX512-BF16 or AMX"),
        (set(), "fp32", "no AVX512-BF16 or AMX"),
    ],
)
def test_the_precision_of_a_processor(flags: set[str], precision: str, reason: str) -> None:
    assert cpu_precision(flags) == (precision, reason)


def test_the_device_is_described_with_a_reason() -> None:
    chosen = choose_hardware("cpu", "auto")
    assert re.fullmatch(r"cpu, (bf16|fp32) \(CPU, \d+ threads?, (.*bf16|no AVX512-BF16 or AMX)\)", str(chosen))
    assert str(choose_hardware("cpu", "fp32")).startswith("cpu, fp32 (CPU, ")
    assert str(choose_hardware("cpu", "fp32")).endswith("; precision set by the recipe)")
    assert choose_hardware("cpu", "bf16").precision == "bf16"
    assert not chosen.tf32


@pytest.mark.parametrize(
    ("device", "precision", "kind", "value"),
    [
        ("gpu", "auto", InvalidInputError, "gpu"),
        ("vulkan", "auto", InvalidInputError, "vulkan"),
        ("cuda:77", "auto", UnsupportedError, "cuda:77"),
        ("cpu", "fp16", UnsupportedError, "fp16"),
    ],
)
def test_a_device_or_precision_that_is_missing_is_refused(
    device: str, precision: str, kind: type[IchxError], value: str
) -> None:
    with pytest.raises(kind, match=value):
        choose_hardware(device, precision)


def test_torch_settings_are_restored_after_a_run() -> None:
    def settings() -> tuple[object, ...]:
        return torch.get_num_threads(), torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark

    before = settings()
    hardware = Hardware(torch.device("cpu"), "fp32", "for a test", threads=before[0] + 1, tf32=True)  # type: ignore[operator]
    with isolated_torch_settings(hardware):
        assert settings() == (hardware.threads, "high", False)
        torch.rand(3)
    assert settings() == before


def test_out_of_memory_anywhere_in_a_run_is_a_typed_error() -> None:
    hardware = Hardware(torch.device("cpu"), "fp32", "for a test")
    with pytest.raises(ResourceError, match=r"2\.00 GiB"), isolated_torch_settings(hardware):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    with pytest.raises(RuntimeError, match="shapes"), isolated_torch_settings(hardware):
        raise RuntimeError("shapes cannot be multiplied")


@pytest.mark.parametrize(
    ("megabytes", "processes", "set_before", "avoided"),
    [(64, 2, None, True), (64, 1, None, False), (1024, 2, None, False), (64, 2, "0", False)],
)
def test_nccl_does_without_a_small_shared_memory(
    monkeypatch: pytest.MonkeyPatch, megabytes: int, processes: int, set_before: str | None, avoided: bool
) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, str(processes) if "SIZE" in name else "0")
    monkeypatch.setenv("NCCL_SHM_DISABLE", set_before or "")
    if set_before is None:
        monkeypatch.delenv("NCCL_SHM_DISABLE")
    monkeypatch.setattr(os, "statvfs", lambda folder: SimpleNamespace(f_frsize=2**20, f_blocks=megabytes))
    notes: list[str] = []
    avoid_small_shared_memory(notes.append)
    assert (os.environ.get("NCCL_SHM_DISABLE") == "1") == avoided == bool(notes)
    assert all("67 MB" in note for note in notes)


def test_a_machine_without_dev_shm_needs_no_note(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    notes: list[str] = []
    avoid_small_shared_memory(notes.append, str(tmp_path / "none"))
    assert not notes
