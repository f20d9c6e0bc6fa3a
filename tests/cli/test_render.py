"""What the tables show: every character of a cell, whatever it looks like."""

import pytest
from rich.console import Console

from ichx.cli import output
from ichx.cli.formatting import format_duration
from ichx.cli.tables import print_table


def test_marks_in_brackets_are_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "console", Console(width=120))
    print_table("", ("score",), [("0.12345 [selected, partial (1 of 3 folds)]",)])
    assert "[selected, partial (1 of 3 folds)]" in capsys.readouterr().out


@pytest.mark.parametrize(("seconds", "said"), [(45, "45 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")])
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert format_duration(seconds) == said
