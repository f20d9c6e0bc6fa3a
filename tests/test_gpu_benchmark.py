"""The benchmark of a GPU, on the CPU with a tiny network: every part runs, and nothing is lost when time is up."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import clean_environment

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"
pytestmark = pytest.mark.slow


def run(out: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [str(SCRIPT), "--device", "cpu", "--quick", "--json", str(out), *options]
    return subprocess.run(
        command, env=clean_environment(PYTHON=sys.executable), capture_output=True, text=True, timeout=1800
    )


def test_all_parts_run_on_a_cpu(tmp_path: Path) -> None:
    done = run(
        tmp_path / "gpu.json", "--seconds", "1700", "--part", "loader", "--part", "models", "--model", "tiny_resnet"
    )
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert [part["part"] for part in results["parts"]] == ["phantom", "loader", "model-tiny_resnet"]
    figures = {(figure["figure"], figure["unit"]): figure for figure in results["figures"]}
    model = "tiny_resnet, 64 px, batch 8"
    for what, unit in (
        ("training", "images/s"),
        ("training", "x"),
        ("waiting for data", "%"),
        ("peak memory", "GiB"),
        ("prediction", "images/s"),
        ("prediction", "x"),
    ):
        figure = figures.pop((f"{model}: {what}", unit))
        assert figure["measured"] > 0 or unit in {"GiB", "%"}
    assert any(name.startswith("loader, 64 px") for name, _ in figures)
    table = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--table", str(tmp_path / "gpu.json")],
        env=clean_environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
    )
    assert f"| {model}: prediction | " in table.stdout
    assert table.stdout.strip() in done.stdout


def test_what_is_measured_remains_when_time_is_up(tmp_path: Path) -> None:
    done = run(tmp_path / "gpu.json", "--seconds", "3", "--part", "loader")
    assert done.returncode == 1
    results = json.loads((tmp_path / "gpu.json").read_text())
    states = {part["part"]: part["state"] for part in results["parts"]}
    assert states["phantom"] == "stopped"
    assert states["loader"] in {"failed", "left out: no time"}
    assert "Not finished: phantom (stopped)" in done.stdout
