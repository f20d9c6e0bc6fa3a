"""Cells of tables and formats of values."""

import pytest
from rich.console import Console

from ichx.cli import output
from ichx.cli.tables import print_table
from ichx.formatting import format_duration


def test_brackets_in_cells_are_not_markup(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "console", Console(width=120))
    print_table("", ("score",), [("0.12345 [selected, partial (1 of 3 folds)]",)])
    assert "[selected, partial (1 of 3 folds)]" in capsys.readouterr().out


@pytest.mark.parametrize(("seconds", "text"), [(45, "45 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")])
def test_durations(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
