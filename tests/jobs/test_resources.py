"""Shares of a machine."""

import pytest

from ichx.jobs.resources import Machine, Shares, split, split_machine
from ichx.worker_pool import core_count

WORKSTATION = Machine(cores=16, threads=8, cuda=2)


@pytest.mark.parametrize(
    ("machine", "device", "jobs", "shares", "text"),
    [
        (Machine(2, 2), "auto", 2, Shares(("auto",), {"OMP_NUM_THREADS": "1"}), "1 CPU thread each"),
        (Machine(16, 8), "cpu", 3, Shares(("cpu",), {"OMP_NUM_THREADS": "5"}), "5 CPU threads each"),
        (Machine(16, 1), "cpu", 3, Shares(("cpu",), {"OMP_NUM_THREADS": "1"}), "1 CPU thread each"),
        (Machine(2, 2), "cpu", 5, Shares(("cpu",), {"OMP_NUM_THREADS": "1"}), "1 CPU thread each"),
        (WORKSTATION, "cpu", 2, Shares(("cpu",), {"OMP_NUM_THREADS": "8"}), "8 CPU threads each"),
        (
            WORKSTATION,
            "auto",
            2,
            Shares(("cuda:0", "cuda:1"), workers=8),
            "devices cuda:0, cuda:1, 8 loader processes each",
        ),
        (WORKSTATION, "cuda", 16, Shares(("cuda:0", "cuda:1"), workers=1), "devices cuda:0, cuda:1, 1 loader process"),
        (WORKSTATION, "cuda:1", 2, Shares(("cuda:1",), workers=8), "8 loader processes each"),
        (Machine(64, 32, cuda=1), "auto", 2, Shares(("auto",), workers=16), "16 loader processes each"),
        (Machine(8, 8, mps=True), "auto", 2, Shares(("auto",), workers=4), "4 loader processes each"),
    ],
)
def test_cores_and_devices_are_split(machine: Machine, device: str, jobs: int, shares: Shares, text: str) -> None:
    assert split(machine, device, jobs) == shares
    assert shares.describe().startswith(text)


def test_a_single_job_has_the_whole_machine() -> None:
    assert split_machine("auto", 1) == Shares(("auto",))
    assert Shares(("auto",)).describe() == ""


def test_a_job_gets_the_device_with_the_fewest() -> None:
    shares = split(WORKSTATION, "auto", 4)
    used: list[str] = []
    for _ in range(4):
        used.append(shares.free_device(used))
    assert used == ["cuda:0", "cuda:1"] * 2
    assert shares.free_device(["cuda:0", "cuda:0", "cuda:1"]) == "cuda:1"


@pytest.mark.parametrize(("limit", "threads"), [("1", 1), ("1000", None), ("0", None), ("all", None), (None, None)])
def test_a_thread_limit_applies(limit: str | None, threads: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if limit is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", limit)
    part = max(core_count() // 2, 1)
    assert split_machine("cpu", 2).environment == {"OMP_NUM_THREADS": str(threads or part)}
