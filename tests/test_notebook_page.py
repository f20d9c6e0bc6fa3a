"""The examples of the page on training in a notebook run as they are written."""

import re
from pathlib import Path
from typing import Any

import pytest

from ichx.phantom.dicom_files import PhantomFiles
from ichx.training.checkpoint_files import checkpoints

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[1] / "docs" / "notebook.md"


def test_the_examples_train_resume_and_report(
    phantom: PhantomFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stage_2_train").symlink_to(phantom.train)
    (tmp_path / "stage_2_train.csv").symlink_to(phantom.train_labels)
    monkeypatch.chdir(tmp_path)
    first, resumable, printed = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(first, names)
    result = names["result"]
    assert f"{result.score:.4f}" in capsys.readouterr().out
    assert len(result.history) == names["recipe"].epochs
    exec(resumable, names)
    assert len(names["result"].history) == names["recipe"].epochs
    assert checkpoints(tmp_path / "checkpoints")
    exec(resumable, names)
    assert names["result"].history == (), "the second call resumes at the end"
    exec(printed, names)
    assert f"{names['result'].score:.4f}" in capsys.readouterr().out
