"""`ichx submit`: a wrong file is told and never sent; a right one goes through the `kaggle` command."""

import json
import sys
from pathlib import Path

import pytest
from conftest import Program

from ichx.labels import LABELS

KAGGLE = """#!{python}
import json, os, sys
from pathlib import Path
Path({log!r}).write_text(json.dumps(sys.argv[1:]))
print({says!r})
print("Warning: looks like an outdated version", file=sys.stderr)
sys.exit({code})
"""


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a sample and a submission, and neither `kaggle` nor its credentials in reach."""
    ids = [f"ID_{i}_{label}" for i in "ba" for label in LABELS]
    (tmp_path / "sample.csv").write_text("ID,Label\n" + "".join(f"{i},0.5\n" for i in ids))
    (tmp_path / "mine.csv").write_text("ID,Label\n" + "".join(f"{i},{k / 20}\n" for k, i in enumerate(ids)))
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "KAGGLE_CONFIG_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def install(files: Path, says: str = "Successfully submitted to RSNA", code: int = 0, configured: bool = True) -> Path:
    """Put a `kaggle` on the path that writes down its arguments, and return where."""
    program, log = files / "bin" / "kaggle", files / "arguments.json"
    program.write_text(KAGGLE.format(python=sys.executable, log=str(log), says=says, code=code))
    program.chmod(0o755)
    if configured:
        (files / "home" / ".kaggle").mkdir(parents=True)
        (files / "home" / ".kaggle" / "kaggle.json").write_text("{}")
    return log


def spoil(files: Path) -> None:
    text = (files / "mine.csv").read_text().replace("ID_a_any,", "ID_z_any,").replace(",0.05\n", ",5\n")
    (files / "mine.csv").write_text(text)


def test_a_right_file(ichx: Program, files: Path) -> None:
    done = ichx("submit", "check", "mine.csv", "--sample", "sample.csv", cwd=files)
    assert (done.code, done.out, done.err) == (0, "mine.csv: 12 ids of 2 images, as in the sample\n", "")
    found = json.loads(ichx("submit", "check", "mine.csv", "--sample", "sample.csv", "--json", cwd=files).out)
    assert found == {"file": "mine.csv", "ids": 12, "images": 2, "problems": []}


def test_all_that_is_wrong_is_told_at_once(ichx: Program, files: Path) -> None:
    spoil(files)
    done = ichx("submit", "check", "mine.csv", "--sample", "sample.csv", cwd=files)
    assert done.code == 1
    assert done.out.splitlines() == [
        "mine.csv: 1 id missing: 'ID_a_any'",
        "mine.csv: 1 id not in the sample: 'ID_z_any'",
        "mine.csv: 1 id with a value outside 0..1: line 3 (ID_b_intraparenchymal) is '5'",
    ]
    done = ichx("submit", "check", "mine.csv", "--sample", "sample.csv", "--json", cwd=files)
    assert (done.code, len(json.loads(done.out)["problems"])) == (1, 3)
    assert "none.csv" in ichx("submit", "check", "none.csv", "--sample", "sample.csv", cwd=files).err


def test_it_is_sent_as_it_is(ichx: Program, files: Path) -> None:
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
    assert json.loads(log.read_text())[3] == "x"


def test_nothing_wrong_is_sent(ichx: Program, files: Path) -> None:
    log = install(files)
    spoil(files)
    done = ichx("submit", "send", "mine.csv", "--sample", "sample.csv", cwd=files)
    assert done.code == 1
    assert "mine.csv: 1 id missing" in done.err
    assert not log.exists()


def test_without_kaggle_it_says_how(ichx: Program, files: Path) -> None:
    done = ichx("submit", "send", "mine.csv", "--sample", "sample.csv", cwd=files)
    assert done.code == 1
    assert "`kaggle` is not installed" in done.err
    assert "pip install kaggle" in done.err
    assert "https://www.kaggle.com/c/rsna-intracranial-hemorrhage-detection/submit" in done.err


def test_without_credentials_it_says_how(ichx: Program, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = install(files, configured=False)
    done = ichx("submit", "send", "mine.csv", "--sample", "sample.csv", cwd=files)
    assert (done.code, log.exists()) == (1, False)
    assert "`kaggle` has no credentials" in done.err
    monkeypatch.setenv("KAGGLE_USERNAME", "me")
    assert ichx("submit", "send", "mine.csv", "--sample", "sample.csv", cwd=files).code == 1
    monkeypatch.setenv("KAGGLE_KEY", "k")
    assert ichx("submit", "send", "mine.csv", "--sample", "sample.csv", cwd=files).code == 0


@pytest.mark.parametrize(
    ("says", "code"),
    [("403 - Forbidden", 1), ("Could not submit to competition", 0), ("Could not find competition - please verify", 0)],
)
def test_what_kaggle_did_not_do_is_an_error(ichx: Program, files: Path, says: str, code: int) -> None:
    """It ends with 0 after some failures."""
    install(files, says, code)
    done = ichx("submit", "send", "mine.csv", "--sample", "sample.csv", cwd=files)
    assert (done.code, done.out) == (1, "")
    assert f"`kaggle` did not submit mine.csv (exit code {code}):" in done.err
    assert says in done.err
