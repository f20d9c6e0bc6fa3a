"""A submission has exactly the sample's ids in its order, and probabilities; anything else is refused, unwritten."""

from pathlib import Path

import numpy as np
import pytest
from full_disk import run_with_limit

from ichx.data.label_csv import SampleTable, read_sample
from ichx.errors import IchxError
from ichx.evaluation.submission import check_submission, write_submission
from ichx.labels import LABELS

IMAGES = ("ID_b", "ID_a", "ID_c_with_bars")


@pytest.fixture
def sample(tmp_path: Path) -> SampleTable:
    """Return a sample whose ids are in no order at all."""
    ids = [f"{image}_{label}" for image in IMAGES for label in LABELS]
    ids = [ids[i] for i in np.random.default_rng(0).permutation(len(ids))]
    path = tmp_path / "sample.csv"
    path.write_text("ID,Label\n" + "".join(f"{name},0.5\n" for name in ids))
    return read_sample(path)


def predictions(sample: SampleTable) -> np.ndarray:
    return np.random.default_rng(1).random((len(sample.images), 6))


def test_the_ids_are_the_samples_in_its_order(sample: SampleTable, tmp_path: Path) -> None:
    predicted, path = predictions(sample), tmp_path / "deep" / "submission.csv"
    predicted[0] = [0, 1, 1e-300, 1 - 2**-53, 0.1, 1e-15]
    write_submission(path, sample, sample.images, predicted)
    header, *lines = path.read_text().splitlines()
    assert header == "ID,Label"
    assert [line.split(",")[0] for line in lines] == list(sample.ids)
    for name, text in (line.split(",") for line in lines):
        image, label = next((i, name.removeprefix(f"{i}_")) for i in IMAGES if name.startswith(f"{i}_"))
        assert float(text) == predicted[list(sample.images).index(image), LABELS.index(label)], name
    check_submission(path, sample)
    assert [p.name for p in path.parent.iterdir()] == ["submission.csv"]


def test_images_are_matched_by_id_and_not_by_row(sample: SampleTable, tmp_path: Path) -> None:
    predicted = predictions(sample)
    write_submission(tmp_path / "a.csv", sample, sample.images, predicted)
    write_submission(tmp_path / "b.csv", sample, sample.images[::-1], predicted[::-1])
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1e-9, 1 + 1e-9])
def test_what_is_no_probability_is_refused_and_what_stood_there_stays(
    sample: SampleTable, tmp_path: Path, bad: float
) -> None:
    path, predicted = tmp_path / "submission.csv", predictions(sample)
    write_submission(path, sample, sample.images, predicted)
    before = path.read_bytes()
    predicted[1, 2] = bad
    with pytest.raises(IchxError, match="1 values are no probabilities"):
        write_submission(path, sample, sample.images, predicted)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sample.csv", "submission.csv"]


def test_missing_doubled_and_foreign_images_are_refused(sample: SampleTable, tmp_path: Path) -> None:
    predicted, path = predictions(sample), tmp_path / "submission.csv"
    images = sample.images
    foreign = np.array([*images[:2], "ID_z"], object)
    doubled = np.array([*images[:2], images[0]], object)
    more = np.array([*images, "ID_z"], object)
    for given, values in ((images[:2], predicted[:2]), (foreign, predicted), (doubled, predicted)):
        with pytest.raises(IchxError, match="do not match the sample's 3 images"):
            write_submission(path, sample, given, values)
    with pytest.raises(IchxError, match=r"predictions \(4 images\)"):
        write_submission(path, sample, more, np.vstack([predicted, predicted[:1]]))
    assert not path.exists()


def test_a_file_that_was_changed_by_hand_is_told(sample: SampleTable, tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    write_submission(path, sample, sample.images, predictions(sample))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[2], lines[1], *lines[3:]]) + "\n")
    with pytest.raises(IchxError, match="not in the sample's order"):
        check_submission(path, sample)
    path.write_text("\n".join(lines).replace("ID_a_", "ID_q_") + "\n")
    with pytest.raises(IchxError, match="12 ids differ from the sample's"):
        check_submission(path, sample)
    path.write_text("\n".join([lines[0], lines[1].split(",")[0] + ",much", *lines[2:]]) + "\n")
    with pytest.raises(IchxError, match="number"):
        check_submission(path, sample)


def test_a_place_that_cannot_be_written(sample: SampleTable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "submission.csv", tmp_path / "folder"):
        with pytest.raises(IchxError, match="cannot write"):
            write_submission(path, sample, sample.images, predictions(sample))
    assert (tmp_path / "file").read_text() == "mine"


SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from ichx.data.label_csv import read_sample
from ichx.errors import IchxError
from ichx.evaluation.submission import write_submission
sample = read_sample(Path("sample.csv"))
try:
    write_submission(Path("submission.csv"), sample, sample.images, np.full((len(sample.images), 6), 1 / 3))
except IchxError as error:
    print(error.problem, "|", error.remedy)
"""


def test_a_full_disk_leaves_nothing(sample: SampleTable, tmp_path: Path) -> None:
    ids = [f"ID_{i}_{label}" for i in range(100) for label in LABELS]
    (tmp_path / "sample.csv").write_text("ID,Label\n" + "".join(f"{name},0.5\n" for name in ids))
    done = run_with_limit(4, "-c", SCRIPT, cwd=tmp_path)
    assert done.out.startswith("cannot write submission.csv: "), done.err
    assert "free some space" in done.out
    assert [p.name for p in tmp_path.iterdir()] == ["sample.csv"]
