"""The options of `ichx run`: durations, and what is refused before anything runs."""

from pathlib import Path

import pytest
from conftest import Program
from typer import BadParameter

from ichx.cli.shared_options import duration_seconds, gigabytes


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1.5h", 5400), ("0", 0), ("0s", 0), (" 2m ", 120)]
)
def test_a_duration_has_a_unit(text: str, seconds: float) -> None:
    assert duration_seconds(text, "--timeout") == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "-5m", "5 minutes", "1h30m", "inf"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(BadParameter, match="is no duration such as 90s, 5m or 1h"):
        duration_seconds(text, "--timeout")


def test_a_size_has_a_unit() -> None:
    assert [gigabytes(text, "--max-memory") for text in ("24GB", "0.5 gb", "800M", "2TB")] == [24, 0.5, 0.8, 2000]
    for text in ("24", "GB", "-1GB", "1e3GB"):
        with pytest.raises(BadParameter, match="is no size such as 24GB"):
            gigabytes(text, "--max-memory")


def test_refused_as_wrong_usage(trained_copy: Path, ichx: Program) -> None:
    refused = ichx("run", 1, "--checkpoint-every", "soon", cwd=trained_copy)
    assert refused.code == 2
    assert "'soon' is no duration" in refused.err
    assert ichx("run", 1, "--processes", 0, cwd=trained_copy).code == 2
