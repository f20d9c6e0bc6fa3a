"""An experiment on datasets in one zip, from `data add` to the submission, against the same files in folders."""

from pathlib import Path

import pandas as pd
import pytest
from conftest import SHORT, Program
from zip_files import zip_folder

from ichx.phantom.dicom_files import PhantomFiles
from ichx.workspace import init_workspace

pytestmark = pytest.mark.slow


def trained_on(root: Path, files: Path, ichx: Program) -> pd.DataFrame:
    """Train one experiment on the phantom's layout at `files`, and return its submission."""
    labels, sample = files / "stage_2_train.csv", files / "stage_2_sample_submission.csv"
    add = ("data", "add", "ph", files / "stage_2_train", "--labels", labels, "--folds", 2)
    test = ("data", "add", "ph-test", files / "stage_2_test", "--test-of", "ph", "--sample", sample)
    new = ("exp", "new", "--plugin", "tiny_resnet", "--size", 32, *(f"--set={setting}" for setting in SHORT))
    for command in (add, test, new, ("run", 1), ("ensemble", "--top", 1, "--out", root / "submission.csv")):
        done = ichx(*command, cwd=root)
        assert done.code == 0, done.err
    return pd.read_csv(root / "submission.csv")


def test_a_zip_gives_the_submission_that_its_folders_give(tmp_path: Path, phantom: PhantomFiles, ichx: Program) -> None:
    archive = zip_folder(phantom.folder, tmp_path / "phantom.zip", "comp/")
    one, two = init_workspace(tmp_path / "one"), init_workspace(tmp_path / "two")
    # Rows are sorted by hashed patients: with the same key they are so in both.
    (two.root / "db/privacy.key").write_bytes(one.privacy_key())
    packed = trained_on(one.root, archive / "comp", ichx)
    plain = trained_on(two.root, phantom.folder, ichx)
    assert len(packed) > 100
    pd.testing.assert_frame_equal(packed, plain)
