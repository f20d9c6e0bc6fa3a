"""Shared parameters: experiment numbers, devices, folds, durations and sizes."""

import re
from pathlib import Path

import pytest
from conftest import Program
from typer import BadParameter

from ichx.cli.parameters import duration_seconds, fold_numbers, gigabytes, parse_device, parse_number


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1.5h", 5400), ("0", 0), ("0s", 0), (" 2m ", 120)]
)
def test_duration(text: str, seconds: float) -> None:
    assert duration_seconds(text, "--timeout") == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "-5m", "5 minutes", "1h30m", "inf", f"{'9' * 400}d"])
def test_invalid_duration(text: str) -> None:
    with pytest.raises(BadParameter, match=f"{re.escape(repr(text))}.*90s"):
        duration_seconds(text, "--timeout")


def test_size() -> None:
    assert [gigabytes(text, "--max-memory") for text in ("24GB", "0.5 gb", "800M", "2TB")] == [24, 0.5, 0.8, 2000]
    for text in ("24", "GB", "-1GB", "1e3GB", f"{'9' * 400}TB"):
        with pytest.raises(BadParameter, match=f"'{text}'.*24GB"):
            gigabytes(text, "--max-memory")


def test_device() -> None:
    for text in ("auto", "cpu", "mps", "cuda", "cuda:12"):
        assert parse_device(text) == text
    for text in ("", "gpu", "cuda:", "cuda:x", "cpu "):
        with pytest.raises(BadParameter, match=re.escape(repr(text))):
            parse_device(text)


def test_fold_numbers() -> None:
    assert fold_numbers(None) is fold_numbers([]) is fold_numbers(["all"]) is None
    assert fold_numbers(["1", "0"]) == [1, 0]
    with pytest.raises(BadParameter, match="0, one"):
        fold_numbers(["0", "one"])


def test_experiment_number() -> None:
    assert parse_number("6") == 6
    for text in ("six", "0", "-1", "1.5"):
        with pytest.raises(BadParameter, match=f"'{text}'"):
            parse_number(text)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--checkpoint-every", "soon"), ("--processes", "0"), ("--workers", "-1"), ("--device", "gpu")],
)
def test_invalid_options_of_run_are_usage_errors(option: str, value: str, trained_root: Path, ichx: Program) -> None:
    done = ichx("run", 1, option, value, cwd=trained_root)
    assert (done.code, done.out) == (2, "")
    assert option in done.err
