"""`ichx submit`: invalid submissions are reported and never sent; valid ones go to the `kaggle` command."""

import json
import re
import sys
from pathlib import Path

import pytest
from conftest import Program

from ichx.labels import LABELS

KAGGLE = """#!{python}
import json, os, sys
from pathlib import Path
Path({log!r}).write_text(json.dumps(sys.argv[1:]))
print({output!r})
print("Warning: looks like an outdated version", file=sys.stderr)
sys.exit({code})
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a sample and a submission, and hide `kaggle` and its credentials."""
    ids = [f"ID_{i}_{label}" for i in "ba" for label in LABELS]
    (tmp_path / "sample.csv").write_text("ID,Label\n" + "".join(f"{i},0.5\n" for i in ids))
    (tmp_path / "mine.csv").write_text("ID,Label\n" + "".join(f"{i},{k / 20}\n" for k, i in enumerate(ids)))
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_CONFIG_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def install(
    files: Path, output: str = "Successfully submitted to RSNA", code: int = 0, configured: bool = True
) -> Path:
    """Put a `kaggle` on the path that saves its arguments; return the file."""
    program, log = files / "bin" / "kaggle", files / "arguments.json"
    program.write_text(KAGGLE.format(python=sys.executable, log=str(log), output=output, code=code))
    program.chmod(0o755)
    if configured:
        (files / "home" / ".kaggle").mkdir(parents=True)
        (files / "home" / ".kaggle" / "kaggle.json").write_text("{}")
    return log


def spoil(files: Path) -> None:
    text = (files / "mine.csv").read_text().replace("ID_a_any,", "ID_z_any,").replace(",0.05\n", ",5\n")
    (files / "mine.csv").write_text(text)


def test_a_valid_submission(ichx: Program, files: Path) -> None:
    done = ichx("submit", "check", "mine.csv", "--sample", "sample.csv", cwd=files)
    assert (done.code, done.err) == (0, "")
    assert "mine.csv: 12 ids of 2 images" in done.out
    found = json.loads(ichx("submit", "check", "mine.csv", "--sample", "sample.csv", "--json", cwd=files).out)
    assert found == {"file": "mine.csv", "ids": 12, "images": 2, "problems": []}


def test_all_problems_are_reported_together(ichx: Program, files: Path) -> None:
    spoil(files)
    done = ichx("submit", "check", "mine.csv", "--sample", "sample.csv", cwd=files)
    assert done.code == 1
    missing, unknown, invalid = done.out.splitlines()
    assert "'ID_a_any'" in missing
    assert "'ID_z_any'" in unknown
    assert re.search("line 3 .*ID_b_intraparenchymal.*'5'", invalid)
    done = ichx("submit", "check", "mine.csv", "--sample", "sample.csv", "--json", cwd=files)
    assert (done.code, len(json.loads(done.out)["problems"])) == (1, 3)
    done = ichx("submit", "check", "none.csv", "--sample", "sample.csv", "--json", cwd=files)
    done.check_error("not_found", "none.csv")


def test_a_valid_submission_is_sent(ichx: Program, files: Path) -> None:
    log = install(files)
    done = ichx("submit", "send", "mine.csv", "--sample", "sample.csv", "--message", "blend of 4", cwd=files)
    assert done.code == 0, done.err
    assert done.out.startswith("Successfully submitted to RSNA\n")
    assert json.loads(log.read_text()) == [
        "competitions",
        "submit",
        "-c",
        "rsna-intracranial-hemorrhage-detection",
        "-f",
        "mine.csv",
        "-m",
        "blend of 4",
    ]
    done = ichx("submit", "send", "mine.csv", "--sample", "sample.csv", "--competition", "x", "--json", cwd=files)
    assert json.loads(done.out)["competition"] == "x"
    assert json.loads(done.out)["answer"].startswith("Successfully submitted to RSNA")
    assert json.loads(log.read_text())[3] == "x"


def test_an_invalid_submission_is_not_sent(ichx: Program, files: Path) -> None:
    log = install(files)
    spoil(files)
    done = ichx("submit", "send", "mine.csv", "--sample", "sample.csv", "--json", cwd=files)
    done.check_error("invalid_input", "mine.csv", "'ID_a_any'", "'ID_z_any'")
    assert not log.exists()


def test_without_kaggle(ichx: Program, files: Path) -> None:
    done = ichx("submit", "send", "mine.csv", "--sample", "sample.csv", "--json", cwd=files)
    done.check_error("missing_dependency", "`kaggle`")
    assert "pip install kaggle" in done.error["remedy"]
    assert "https://www.kaggle.com/c/rsna-intracranial-hemorrhage-detection/submit" in done.error["remedy"]


def test_without_credentials(ichx: Program, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = install(files, configured=False)
    done = ichx("submit", "send", "mine.csv", "--sample", "sample.csv", "--json", cwd=files)
    done.check_error("not_ready", "`kaggle`")
    assert "~/.kaggle/kaggle.json" in done.error["remedy"]
    assert not log.exists()
    monkeypatch.setenv("KAGGLE_USERNAME", "me")
    assert ichx("submit", "send", "mine.csv", "--sample", "sample.csv", cwd=files).code == 1
    monkeypatch.setenv("KAGGLE_KEY", "k")
    assert ichx("submit", "send", "mine.csv", "--sample", "sample.csv", cwd=files).code == 0


@pytest.mark.parametrize(
    ("output", "code"),
    [("403 - Forbidden", 1), ("Could not submit to competition", 0), ("Could not find competition - please verify", 0)],
)
def test_failures_of_kaggle(ichx: Program, files: Path, output: str, code: int) -> None:
    """Its exit code is 0 after some failures."""
    install(files, output, code)
    done = ichx("submit", "send", "mine.csv", "--sample", "sample.csv", "--json", cwd=files)
    done.check_error("process", "mine.csv", str(code), output)
