"""Sending a submission with the `kaggle` command, where the user has it; nothing else here talks to the network."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from ichx.datasets.label_csv import SampleTable
from ichx.errors import IchxError
from ichx.evaluation.submission import check_submission

COMPETITION: Final = "rsna-intracranial-hemorrhage-detection"
"""The challenge whose labels, score and sample submission ichx has."""

HOW: Final = (
    "install it with `pip install kaggle`, make a token at https://www.kaggle.com/settings and save it where "
    "`kaggle` looks for it (~/.kaggle/kaggle.json, or KAGGLE_USERNAME and KAGGLE_KEY), and accept the competition's "
    "rules; or upload the file at https://www.kaggle.com/c/{}/submit"
)
_CREDENTIAL_FILES = ("kaggle.json", "access_token", "credentials.json")
_CREDENTIAL_VARIABLES = (("KAGGLE_USERNAME", "KAGGLE_KEY"), ("KAGGLE_API_TOKEN",))
_SENT = ("successfully submitted", "submission ref:")
"""What `kaggle` says, one or the other, when it did; it ends with 0 after some failures, too."""


def send_submission(path: Path, sample: SampleTable, message: str, competition: str = COMPETITION) -> str:
    """Send the submission at `path`, if it is one for `sample`, and return what `kaggle` said.

    Raises `IchxError` for a file that `check_submission` refuses, which is not sent; where `kaggle` is not installed or
    has no credentials; and where it does not say that it submitted, with its exit code and message.
    """
    check_submission(path, sample)
    program = shutil.which("kaggle")
    if program is None:
        raise IchxError("the command `kaggle` is not installed: nothing was sent", HOW.format(competition))
    if not _configured():
        raise IchxError("`kaggle` has no credentials here: nothing was sent", HOW.format(competition))
    command = [program, "competitions", "submit", "-c", competition, "-f", str(path), "-m", message]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise IchxError(f"{program} cannot be run: {error.strerror}", HOW.format(competition)) from error
    said = "\n".join(part.strip() for part in (done.stdout, done.stderr) if part.strip())
    if done.returncode != 0 or not any(words in said.lower() for words in _SENT):
        raise IchxError(
            f"`kaggle` did not submit {path.name} (exit code {done.returncode}):\n{said or 'it said nothing'}",
            f"see https://www.kaggle.com/c/{competition}/submissions, or upload the file there",
        )
    return said


def _configured() -> bool:
    """Whether there is something in a place where `kaggle` looks for credentials; they are not read."""
    if any(all(os.environ.get(name) for name in names) for names in _CREDENTIAL_VARIABLES):
        return True
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"
    folders = [Path(os.environ["KAGGLE_CONFIG_DIR"])] if os.environ.get("KAGGLE_CONFIG_DIR") else []
    folders += [Path.home() / ".kaggle", config]
    return any((folder / name).is_file() for folder in folders for name in _CREDENTIAL_FILES)
