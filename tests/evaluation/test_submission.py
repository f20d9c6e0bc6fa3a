"""A submission has exactly the sample's ids in its order, and probabilities; anything else is refused, unwritten."""

from pathlib import Path

import numpy as np
import pytest
from full_disk import run_with_limit

from ichx.datasets.label_csv import SampleTable, read_sample
from ichx.errors import IchxError
from ichx.evaluation.submission import check_submission, submission_problems, write_submission
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


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (np.nan, "1 id whose value is NaN"),
        (np.inf, "1 id whose value is no number"),
        (-1e-9, "1 id whose value is outside"),
        (1 + 1e-9, "1 id whose value is outside"),
    ],
)
def test_what_is_no_probability_is_refused_and_what_stood_there_stays(
    sample: SampleTable, tmp_path: Path, bad: float, told: str
) -> None:
    path, predicted = tmp_path / "submission.csv", predictions(sample)
    write_submission(path, sample, sample.images, predicted)
    before = path.read_bytes()
    predicted[1, 2] = bad
    with pytest.raises(IchxError, match=f"submission.csv: {told}"):
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


def told(path: Path, sample: SampleTable, lines: list[str]) -> list[str]:
    path.write_text("\n".join(lines) + "\n")
    return submission_problems(path, sample)


def test_a_file_that_was_changed_by_hand_is_told(sample: SampleTable, tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    write_submission(path, sample, sample.images, predictions(sample))
    head, *rows = path.read_text().splitlines()
    first, second = (row.split(",")[0] for row in rows[:2])
    assert told(path, sample, [head, *rows]) == []
    assert told(path, sample, [head, rows[1], rows[0], *rows[2:]]) == [
        f"2 ids not in the sample's order: line 2 has {second!r} where the sample has {first!r}, "
        f"line 3 has {first!r} where the sample has {second!r}"
    ]
    missing, foreign = told(path, sample, [head, *(row.replace("ID_a_", "ID_q_") for row in rows)])
    assert missing.startswith("6 ids of the sample missing, e.g. 'ID_a_")
    assert foreign.startswith("6 ids that the sample does not have, e.g. 'ID_q_")
    assert told(path, sample, [head, *rows, rows[0]]) == [f"1 id more than once: {first!r}"]
    assert told(path, sample, [head, *rows[1:]]) == [f"1 id of the sample missing: {first!r}"]
    assert told(path, sample, ["id,probability", *rows]) == ["its columns are id, probability instead of ID, Label"]
    with pytest.raises(IchxError, match=r"submission\.csv: its columns are id, probability"):
        check_submission(path, sample)


def test_everything_is_told_at_once(sample: SampleTable, tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    ids = list(sample.ids)
    values = ["much", "", "nan", "1.5", "-0.1", " 0.25 ", "1e-7", "inf"] + ["0.5"] * (len(ids) - 8)
    rows = [f"{i},{v}" for i, v in zip(ids, values, strict=True)]
    assert told(path, sample, ["ID,Label", *rows[:-1], rows[3], "ID_z_any,0.5"]) == [
        f"1 id of the sample missing: {ids[-1]!r}",
        "1 id that the sample does not have: 'ID_z_any'",
        f"1 id more than once: {ids[3]!r}",
        f"1 id without a value: line 3 ({ids[1]}): ''",
        f"1 id whose value is NaN: line 4 ({ids[2]}): 'nan'",
        f"2 ids whose value is no number: line 2 ({ids[0]}): 'much', line 9 ({ids[7]}): 'inf'",
        f"3 ids whose value is outside 0..1: line 5 ({ids[3]}): '1.5', line 6 ({ids[4]}): '-0.1', "
        f"line {len(ids) + 1} ({ids[3]}): '1.5'",
    ]


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
from ichx.datasets.label_csv import read_sample
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
