"""Agreement of readers: kappa against scikit-learn and statsmodels; the model against readers."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score, confusion_matrix
from statsmodels.stats.inter_rater import aggregate_raters  # type: ignore[import-untyped]
from statsmodels.stats.inter_rater import fleiss_kappa as their_fleiss

from ichx.datasets.reader_labels import (
    READERS_FILE,
    ReaderLabels,
    check_reader_labels,
    read_reader_labels,
)
from ichx.errors import CorruptFileError, InvalidInputError
from ichx.evaluation.kappa import cohen_kappa, fleiss_kappa
from ichx.evaluation.reader_agreement import compare_readers
from ichx.project import Project


def votes(seed: int, studies: int, readers: int = 3, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    """Return the truth and what readers say, who err with the probability `noise`."""
    rng = np.random.default_rng(seed)
    truth = rng.random(studies) < 0.4
    return truth, truth[:, None] ^ (rng.random((studies, readers)) < noise)


@given(st.integers(0, 2**32 - 1), st.integers(2, 200), st.integers(2, 5))
def test_kappa_is_that_of_scikit_learn_and_statsmodels(seed: int, studies: int, readers: int) -> None:
    _, values = votes(seed, studies, readers, 0.3)
    patients = np.arange(studies).astype(str)
    found = cohen_kappa(values[:, 0], values[:, 1], patients, draws=3).value
    if found is None:
        assert len(np.unique(values[:, :2])) == 1
    else:
        assert found == pytest.approx(cohen_kappa_score(values[:, 0], values[:, 1]), abs=1e-9)
    several = fleiss_kappa(values, patients, draws=3).value
    if several is None:
        assert len(np.unique(values)) == 1
    else:
        assert several == pytest.approx(their_fleiss(aggregate_raters(values.astype(int))[0]), abs=1e-9)


def test_kappa_of_a_textbook_example() -> None:
    """Two readers of 50 proposals: 20 both yes, 5 and 10 only one, 15 both no: kappa is 0.4."""
    first = np.r_[np.ones(25, bool), np.zeros(25, bool)]
    second = np.r_[np.ones(20, bool), np.zeros(5, bool), np.ones(10, bool), np.zeros(15, bool)]
    found = cohen_kappa(first, second, np.arange(50), draws=500)
    assert found.value == pytest.approx(0.4, abs=1e-12)
    assert found.low is not None
    assert found.high is not None
    assert 0.1 < found.low < 0.3
    assert 0.5 < found.high < 0.7


def test_interval_counts_patients_not_studies() -> None:
    _, values = votes(1, 100)
    one_each = fleiss_kappa(values, np.arange(100), draws=500)
    again = fleiss_kappa(np.repeat(values, 4, axis=0), np.repeat(np.arange(100), 4), draws=500)
    assert again.value == pytest.approx(one_each.value)
    assert again.standard_error == pytest.approx(one_each.standard_error)


def reader_labels(values: np.ndarray, label: str = "any") -> ReaderLabels:
    """Return the votes of studies `s000`, `s001`, ... as labels."""
    studies = np.array([f"s{i:03}" for i in range(len(values))], object)
    readers = tuple(f"R{i + 1}" for i in range(values.shape[1]))
    return ReaderLabels(studies, readers, {label: values.astype(float)})


def test_model_and_reader_are_judged_by_the_majority_of_the_others() -> None:
    truth, values = votes(2, 300)
    read = reader_labels(values)
    called = truth.copy()
    called[:10] ^= True
    studies = read.studies[::-1]  # another order than the readers' table
    patients = np.array([f"p{name}" for name in studies], object)
    (found,) = compare_readers(read, studies, patients, {"any": (0.5, called[::-1])}, draws=200)
    assert (found.studies, found.read_by_all, len(found.pairs)) == (300, 300, 3)
    for index, one in enumerate(found.models):
        tn, fp, fn, tp = confusion_matrix(values[:, index], called).ravel()
        assert one.sensitivity.value == pytest.approx(tp / (tp + fn))
        assert one.specificity.value == pytest.approx(tn / (tn + fp))
        assert one.kappa.value == pytest.approx(cohen_kappa_score(values[:, index], called), abs=1e-9)
        others = np.delete(values, index, axis=1)
        agreed = others[:, 0] == others[:, 1]
        assert (one.compared, one.divided) == (agreed.sum(), (~agreed).sum())
        reference = others[agreed, 0]
        assert one.positives == reference.sum()
        rates = one.against_others["sensitivity"]
        of_reader, of_model = values[agreed, index][reference].mean(), called[agreed][reference].mean()
        assert rates.second.value == pytest.approx(of_model)
        assert rates.first.value == pytest.approx(of_reader)
        assert rates.difference.value == pytest.approx(of_model - of_reader)
        assert rates.difference.low is not None
        rates = one.against_others["specificity"]
        assert rates.second.value == pytest.approx((~called[agreed][~reference]).mean())


def test_unread_studies_and_labels_without_threshold() -> None:
    _, values = votes(3, 60)
    partly = values.astype(float)
    partly[:20, 0] = np.nan
    read = reader_labels(partly)
    patients = np.arange(60).astype(str).astype(object)
    (found,) = compare_readers(read, read.studies, patients, {}, draws=20)
    assert found.models == ()
    assert found.read_by_all == 40
    assert [pair.studies for pair in found.pairs] == [40, 40, 60]
    (with_calls,) = compare_readers(read, read.studies, patients, {"any": (0.5, values[:, 0])}, draws=20)
    assert with_calls.models[0].studies == 40
    # of readers 2 and 3, the others are one reader in the first 20 studies: no majority
    assert with_calls.models[1].divided >= 20
    (few,) = compare_readers(read, read.studies[:15], patients[:15], {}, draws=20)
    assert few.pairs[2].kappa.low is None


def as_table(read: ReaderLabels) -> pd.DataFrame:
    """Return one row per study, reader and label."""
    rows = [
        (study, reader, label, grid[i, j])
        for label, grid in read.values.items()
        for i, study in enumerate(read.studies)
        for j, reader in enumerate(read.readers)
    ]
    return pd.DataFrame(rows, columns=["study", "reader", "label", "value"])


def test_written_labels_are_read_again(project: Project) -> None:
    _, values = votes(4, 12)
    partly = values.astype(float)
    partly[3, 1] = np.nan
    expected = reader_labels(partly, "subdural")
    version = project.store.version_by_id(project.store.experiment(1).version_id)
    assert read_reader_labels(project.workspace, version) is None
    path = project.workspace.root / version.path / READERS_FILE
    as_table(expected).to_parquet(path, index=False)
    found = read_reader_labels(project.workspace, version)
    assert found is not None
    assert found.readers == ("R1", "R2", "R3")
    assert found.studies.tolist() == expected.studies.tolist()
    assert np.array_equal(found.values["subdural"], partly, equal_nan=True)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorruptFileError):
        read_reader_labels(project.workspace, version)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="reader"), "reader"),
        (lambda t: t.assign(label="ICH"), "ICH"),
        (lambda t: t.assign(value=2.0), "s000, R1, any: 2.0"),
        (lambda t: pd.concat([t, t.head(1)]), "s000, R1, any"),
    ],
)
def test_invalid_tables_are_refused(change: object, message: str) -> None:
    table = as_table(reader_labels(votes(5, 4)[1]))
    with pytest.raises(InvalidInputError) as caught:
        check_reader_labels(change(table))  # type: ignore[operator]
    assert message in caught.value.problem
