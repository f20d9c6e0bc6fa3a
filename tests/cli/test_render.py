"""What the tables show: every character of a cell, whatever it looks like."""

import pytest

from ichx.cli import render


def test_marks_in_brackets_are_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "console", render.Console(width=120))
    render.table("", ("score",), [("0.12345 [selected, partial (1 of 3 folds)]",)])
    assert "[selected, partial (1 of 3 folds)]" in capsys.readouterr().out


@pytest.mark.parametrize(("seconds", "said"), [(45, "45 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")])
def test_durations_are_said_as_people_say_them(seconds: float, said: str) -> None:
    assert render.duration(seconds) == said
