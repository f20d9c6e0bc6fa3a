"""Sending a submission with the `kaggle` command, the only thing in this package that uses the network."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

from ichx.datasets.label_csv import SampleTable
from ichx.errors import MissingDependencyError, NotReadyError, ProcessError
from ichx.evaluation.submission import check_submission

COMPETITION: Final = "rsna-intracranial-hemorrhage-detection"
"""The challenge whose labels, score and sample submission ichx uses."""

HOW: Final = (
    "Install it with `pip install kaggle`, create a token at https://www.kaggle.com/settings, save it where `kaggle` "
    "looks for it (~/.kaggle/kaggle.json, or KAGGLE_USERNAME and KAGGLE_KEY), and accept the competition's rules. Or "
    "upload the file at https://www.kaggle.com/c/{}/submit."
)
_CREDENTIAL_FILES = ("kaggle.json", "access_token", "credentials.json")
_CREDENTIAL_VARIABLES = (("KAGGLE_USERNAME", "KAGGLE_KEY"), ("KAGGLE_API_TOKEN",))
_SUCCESS = ("successfully submitted", "submission ref:")
"""`kaggle` prints one of these when it has submitted; it exits with 0 after some failures too."""


def send_submission(path: Path, sample: SampleTable, message: str, competition: str = COMPETITION) -> str:
    """Check the submission at `path`, send it and return what `kaggle` printed.

    Args:
        path: The submission.
        sample: The sample submission that it must match.
        message: Description of the submission at Kaggle.
        competition: Name of the competition in its address.

    Raises:
        InvalidInputError: The file is not a submission for `sample`.
        MissingDependencyError: `kaggle` is not installed.
        NotReadyError: `kaggle` has no credentials.
        ProcessError: `kaggle` did not confirm the submission.
    """
    check_submission(path, sample)
    program = shutil.which("kaggle")
    if program is None:
        raise MissingDependencyError("Nothing was sent: `kaggle` is not installed.", HOW.format(competition))
    if not _has_credentials():
        raise NotReadyError("Nothing was sent: `kaggle` has no credentials.", HOW.format(competition))
    command = [program, "competitions", "submit", "-c", competition, "-f", str(path), "-m", message]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise ProcessError(f"Cannot run {program}: {error.strerror}.", HOW.format(competition)) from error
    output = "\n".join(part.strip() for part in (done.stdout, done.stderr) if part.strip())
    if done.returncode != 0 or not any(words in output.lower() for words in _SUCCESS):
        raise ProcessError(
            f"`kaggle` did not submit {path.name} (exit code {done.returncode}):\n{output or '(no output)'}",
            f"See https://www.kaggle.com/c/{competition}/submissions, or upload the file there.",
        )
    return output


def _has_credentials() -> bool:
    """Return whether `kaggle` would find credentials; they are not read."""
    if any(all(os.environ.get(name) for name in names) for names in _CREDENTIAL_VARIABLES):
        return True
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"
    folders = [Path(os.environ["KAGGLE_CONFIG_DIR"])] if os.environ.get("KAGGLE_CONFIG_DIR") else []
    folders += [Path.home() / ".kaggle", config]
    return any((folder / name).is_file() for folder in folders for name in _CREDENTIAL_FILES)
