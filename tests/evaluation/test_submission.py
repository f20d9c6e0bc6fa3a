"""A submission has exactly the sample's ids in its order, and probabilities; anything else is not written."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from full_disk import run_with_limit

from ichx.datasets.dataset import load_version
from ichx.datasets.label_csv import SampleTable, read_sample
from ichx.errors import InvalidInputError, StorageError
from ichx.evaluation.bootstrap import loss_interval
from ichx.evaluation.metric import score
from ichx.evaluation.submission import check_submission, submission_problems, write_submission
from ichx.evaluation.submission_score import score_file
from ichx.labels import ANY, LABELS
from ichx.phantom.dicom_files import PhantomFiles
from ichx.project import Project

IMAGES = ("ID_b", "ID_a", "ID_c_with_bars")


@pytest.fixture
def sample(tmp_path: Path) -> SampleTable:
    """Return a sample with shuffled ids."""
    ids = [f"{image}_{label}" for image in IMAGES for label in LABELS]
    ids = [ids[i] for i in np.random.default_rng(0).permutation(len(ids))]
    path = tmp_path / "sample.csv"
    path.write_text("ID,Label\n" + "".join(f"{name},0.5\n" for name in ids))
    return read_sample(path)


def predictions(sample: SampleTable) -> np.ndarray:
    return np.random.default_rng(1).random((len(sample.images), 6))


def test_ids_are_those_of_the_sample_in_its_order(sample: SampleTable, tmp_path: Path) -> None:
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


def test_a_sample_with_labels_in_another_case(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("ID,Label\n" + "".join(f"ID_a_{label.title()},0.5\n" for label in LABELS))
    sample = read_sample(tmp_path / "s.csv")
    write_submission(tmp_path / "a.csv", sample, sample.images, np.arange(6)[None] / 8)
    lines = (tmp_path / "a.csv").read_text().splitlines()[1:]
    assert lines == [f"ID_a_{label.title()},{n / 8!r}" for n, label in enumerate(LABELS)]


def test_images_are_joined_by_id(sample: SampleTable, tmp_path: Path) -> None:
    predicted = predictions(sample)
    write_submission(tmp_path / "a.csv", sample, sample.images, predicted)
    write_submission(tmp_path / "b.csv", sample, sample.images[::-1], predicted[::-1])
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize(
    ("bad", "text"), [(np.nan, "'nan'"), (np.inf, "'inf'"), (-1e-9, "'-1e-09'"), (1 + 1e-9, "'1.000000001'")]
)
def test_an_invalid_probability_leaves_the_old_file(sample: SampleTable, tmp_path: Path, bad: float, text: str) -> None:
    path, predicted = tmp_path / "submission.csv", predictions(sample)
    write_submission(path, sample, sample.images, predicted)
    before = path.read_bytes()
    predicted[1, 2] = bad
    with pytest.raises(InvalidInputError, match=rf"submission\.csv: 1 id .*{text}"):
        write_submission(path, sample, sample.images, predicted)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sample.csv", "submission.csv"]


def test_missing_repeated_and_foreign_images(sample: SampleTable, tmp_path: Path) -> None:
    predicted, path = predictions(sample), tmp_path / "submission.csv"
    images = sample.images
    foreign = np.array([*images[:2], "ID_z"], object)
    repeated = np.array([*images[:2], images[0]], object)
    more = np.array([*images, "ID_z"], object)
    for wrong, values in (
        (images[:2], predicted[:2]),
        (foreign, predicted),
        (repeated, predicted),
        (more, np.vstack([predicted, predicted[:1]])),
    ):
        with pytest.raises(InvalidInputError, match=rf"\({len(wrong)} images\) .* 3 images"):
            write_submission(path, sample, wrong, values)
    assert not path.exists()


def problems_of(path: Path, sample: SampleTable, lines: list[str]) -> list[str]:
    path.write_text("\n".join(lines) + "\n")
    return submission_problems(path, sample)


def test_problems_of_a_file_that_was_edited_by_hand(sample: SampleTable, tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    write_submission(path, sample, sample.images, predictions(sample))
    head, *rows = path.read_text().splitlines()
    first, second = (row.split(",")[0] for row in rows[:2])
    assert problems_of(path, sample, [head, *rows]) == []
    (moved,) = problems_of(path, sample, [head, rows[1], rows[0], *rows[2:]])
    assert moved.startswith("2 ids out of order: line 2 ")
    assert moved.index(repr(second)) < moved.index(repr(first))
    assert " line 3 " in moved
    missing, foreign = problems_of(path, sample, [head, *(row.replace("ID_a_", "ID_q_") for row in rows)])
    assert missing.startswith("6 ids missing, e.g. 'ID_a_")
    assert foreign.startswith("6 ids not in the sample, e.g. 'ID_q_")
    assert problems_of(path, sample, [head, *rows, rows[0]]) == [f"1 id more than once: {first!r}"]
    assert problems_of(path, sample, [head, *rows[1:]]) == [f"1 id missing: {first!r}"]
    (columns,) = problems_of(path, sample, ["id,probability", *rows])
    assert "id, probability" in columns
    with pytest.raises(InvalidInputError, match=r"submission\.csv: .* id, probability"):
        check_submission(path, sample)


def test_all_problems_are_reported_together(sample: SampleTable, tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    ids = list(sample.ids)
    values = ["much", "", "nan", "1.5", "-0.1", " 0.25 ", "1e-7", "inf"] + ["0.5"] * (len(ids) - 8)
    rows = [f"{i},{v}" for i, v in zip(ids, values, strict=True)]
    assert problems_of(path, sample, ["ID,Label", *rows[:-1], rows[3], "ID_z_any,0.5"]) == [
        f"1 id missing: {ids[-1]!r}",
        "1 id not in the sample: 'ID_z_any'",
        f"1 id more than once: {ids[3]!r}",
        f"1 id without a value: line 3 ({ids[1]}) is ''",
        f"1 id with the value NaN: line 4 ({ids[2]}) is 'nan'",
        f"2 ids with an invalid number: line 2 ({ids[0]}) is 'much', line 9 ({ids[7]}) is 'inf'",
        f"3 ids with a value outside 0..1: line 5 ({ids[3]}) is '1.5', line 6 ({ids[4]}) is '-0.1', "
        f"line {len(ids) + 1} ({ids[3]}) is '1.5'",
    ]


def test_a_path_that_cannot_be_written(sample: SampleTable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "submission.csv", tmp_path / "folder"):
        with pytest.raises(StorageError, match=path.name):
            write_submission(path, sample, sample.images, predictions(sample))
    assert (tmp_path / "file").read_text() == "mine"


SCRIPT = """
import sys
from pathlib import Path
import numpy as np
from ichx.datasets.label_csv import read_sample
from ichx.errors import StorageError
from ichx.evaluation.submission import write_submission
sample = read_sample(Path("sample.csv"))
try:
    write_submission(Path("submission.csv"), sample, sample.images, np.full((len(sample.images), 6), 1 / 3))
except StorageError as error:
    print(error.problem, "|", error.remedy)
"""


def test_a_full_disk_leaves_nothing(sample: SampleTable, tmp_path: Path) -> None:
    ids = [f"ID_{i}_{label}" for i in range(100) for label in LABELS]
    (tmp_path / "sample.csv").write_text("ID,Label\n" + "".join(f"{name},0.5\n" for name in ids))
    done = run_with_limit(4, "-c", SCRIPT, cwd=tmp_path)
    assert " submission.csv: " in done.out, done.err
    assert "`--out`" in done.out
    assert [p.name for p in tmp_path.iterdir()] == ["sample.csv"]


def test_score_of_a_submission_on_held_out_labels(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    images = [f"ID_{i:03}" for i in range(40)]
    labels = (random.random((40, 6)) < 0.3).astype(float)
    labels[:, LABELS.index(ANY)] = labels[:, [k for k, name in enumerate(LABELS) if name != ANY]].max(axis=1)
    p = random.random((40, 6))
    p[0] = (0, 1, 0, 1, 0, 1)
    truth = pd.DataFrame(labels[:30], columns=list(LABELS)).assign(image=images[:30])
    truth.to_csv(tmp_path / "labels.csv", index=False)
    rows = pd.DataFrame({"ID": [f"{i}_{n}" for i in images for n in LABELS], "Label": p.ravel()})
    rows.to_csv(tmp_path / "submission.csv", index=False)
    found = score_file(tmp_path / "submission.csv", tmp_path / "labels.csv")
    assert found.scores.log_loss == pytest.approx(score(labels[:30], p[:30]), rel=1e-12)  # 0 and 1 too
    assert (found.scores.count, found.unlabelled, found.bootstrap, found.dataset) == (30, 10, None, None)
    rows.iloc[:-12].iloc[6:].to_parquet(tmp_path / "part.parquet", index=False)
    with pytest.raises(InvalidInputError, match=r"1 slice with labels.*ID_000"):
        score_file(tmp_path / "part.parquet", tmp_path / "labels.csv")


@pytest.mark.usefixtures("intervals_of_few")
def test_score_with_the_patients_of_a_dataset(project: Project, phantom: PhantomFiles, tmp_path: Path) -> None:
    assert phantom.train_labels is not None
    slices = load_version(project.workspace, project.store.version("ph")).slices
    labels = slices[list(LABELS)].to_numpy(float)
    p = np.clip(0.2 + 0.5 * labels, 0, 1)
    pd.DataFrame(p, columns=list(LABELS)).assign(image=slices["slice_id"]).to_csv(tmp_path / "p.csv", index=False)
    found = score_file(tmp_path / "p.csv", phantom.train_labels, project=project)
    assert (found.dataset, found.unlabelled) == ("ph", 0)
    assert found.bootstrap is not None
    assert found.bootstrap.patients == slices["patient"].nunique()
    interval = loss_interval(labels, p, slices["patient"])
    assert (found.bootstrap.log_loss.low, found.bootstrap.log_loss.high) == pytest.approx((interval.low, interval.high))
    (counted,) = project.store.evaluations("ph")
    assert (counted.command, counted.file, counted.version, counted.experiment) == ("submit score", "p.csv", 1, None)
    assert counted.score == pytest.approx(found.scores.log_loss)
