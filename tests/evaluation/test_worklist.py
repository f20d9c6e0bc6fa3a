"""Worklists equal a slow recomputation, row by row, for slices and studies, with missing labels and predictions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ichx.evaluation.metric import weighted_row_losses
from ichx.evaluation.worklist import (
    AT_THRESHOLD,
    KINDS,
    WorklistData,
    WorklistRequest,
    entropy,
    make_worklist,
)
from ichx.labels import LABEL_WEIGHTS, LABELS


def random_data(seed: int, n: int = 60, *, missing: float = 0.1) -> WorklistData:
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 6)) < 0.3).astype(np.float32)
    labels[rng.random(n) < missing] = np.nan
    predicted = np.round(rng.random((n, 6)), 2).astype(np.float32)  # with ties
    predicted[rng.random(n) < missing] = np.nan
    first = np.unique(np.r_[0, rng.integers(1, n, n // 6)]).astype(np.int64)
    other = np.round(rng.random((n, 6)), 2).astype(np.float32)
    return WorklistData(labels, predicted, first, other)


def weights(label: str) -> list[float]:
    if label == "all":
        return [w / sum(LABEL_WEIGHTS) for w in LABEL_WEIGHTS]
    return [float(name == label) for name in LABELS]


def loss(y: float, p: float) -> float:
    p = min(max(p, 1e-15), 1 - 1e-15)
    return -math.log(p) if y > 0.5 else -math.log(1 - p)


def bits(p: float) -> float:
    return 0.0 if p in (0, 1) else -p * math.log2(p) - (1 - p) * math.log2(1 - p)


def value(request: WorklistRequest, y: np.ndarray, p: np.ndarray, q: np.ndarray) -> float | None:
    """Return the value of one row; None if it is not on the list."""
    used = [k for k, w in enumerate(weights(request.label)) if w]
    if any(math.isnan(p[k]) for k in used):
        return None
    if request.kind in AT_THRESHOLD:
        k = LABELS.index(request.label)
        wrong = y[k] == 0 and p[k] >= request.threshold
        if request.kind == "false-negatives":
            wrong = y[k] == 1 and p[k] < request.threshold
        return float(p[k]) if wrong else None
    if request.kind == "highest-loss" and any(math.isnan(y[k]) for k in used):
        return None
    parts = {
        "highest-loss": lambda k: loss(y[k], float(p[k])),
        "disagreement": lambda k: abs(float(p[k]) - float(q[k])),
        "uncertain": lambda k: bits(float(p[k])),
    }[request.kind]
    return sum(w * parts(k) for k, w in enumerate(weights(request.label)) if w)


REQUESTS = [
    WorklistRequest(kind, label, 0.4, truth)
    for kind in KINDS
    if kind != "reviewed"
    for label in (("epidural", "any") if kind in AT_THRESHOLD else ("epidural", "all"))
    for truth in (None, True, False)
]


@pytest.mark.parametrize("request_", REQUESTS, ids=str)
def test_slices_are_those_of_a_recomputation(request_: WorklistRequest) -> None:
    data = random_data(3)
    assert data.other is not None
    keep = np.random.default_rng(4).random(60) < 0.8
    truth_column = LABELS.index("any" if request_.label == "all" else request_.label)
    expected = []
    for row in range(60):
        found = value(request_, data.labels[row], data.predicted[row], data.other[row])
        truth = data.labels[row, truth_column]
        if found is not None and keep[row] and (request_.truth is None or truth == request_.truth):
            expected.append((found, row))
    expected.sort(key=lambda pair: (pair[0] if request_.kind == "false-negatives" else -round(pair[0], 9), pair[1]))
    found = make_worklist(data, request_, keep)
    assert np.allclose(found.values, [v for v, _ in expected], atol=1e-9)
    assert sorted(found.rows.tolist()) == sorted(row for _, row in expected)
    for row, listed in zip(found.rows, found.values, strict=True):
        again = value(request_, data.labels[row], data.predicted[row], data.other[row])
        assert again is not None
        assert abs(again - listed) < 1e-9


@given(seed=st.integers(0, 10_000), threshold=st.sampled_from([0.0, 0.3, 0.5, 1.0]), label=st.sampled_from(LABELS))
def test_false_calls_of_studies_are_those_of_their_largest_probability(seed: int, threshold: float, label: str) -> None:
    data = random_data(seed, missing=0.0)
    k = LABELS.index(label)
    ends = [*data.first[1:], 60]
    for kind in AT_THRESHOLD:
        found = make_worklist(data, WorklistRequest(kind, label, threshold, unit="study"), np.ones(60, bool))
        expected = {}
        for study, (start, end) in enumerate(zip(data.first, ends, strict=True)):
            truth, p = data.labels[start:end, k].max(), data.predicted[start:end, k].max()
            if (kind == "false-positives" and not truth and p >= threshold) or (
                kind == "false-negatives" and truth and p < threshold
            ):
                expected[study] = p
        listed = np.searchsorted(data.first, found.rows, side="right") - 1
        assert dict(zip(listed.tolist(), found.values, strict=True)) == expected
        assert len(listed) == len(expected)
        for row, study in zip(found.rows, listed, strict=True):
            part = slice(data.first[study], ends[study])
            if kind == "false-positives":
                assert data.predicted[row, k] == data.predicted[part, k].max()
            else:
                assert data.labels[row, k] == 1
                positive = data.predicted[part, k][data.labels[part, k] == 1]
                assert data.predicted[row, k] == positive.min(), "the positive slice with the largest loss"


def test_a_study_with_one_kept_slice_is_listed_once() -> None:
    data = random_data(1, missing=0.0)
    keep = np.zeros(60, bool)
    keep[7] = True
    found = make_worklist(data, WorklistRequest("uncertain", unit="study"), keep)
    study = np.searchsorted(data.first, 7, side="right") - 1
    assert (np.searchsorted(data.first, found.rows, side="right") - 1).tolist() == [study]


def test_the_loss_of_all_labels_is_the_score() -> None:
    data = random_data(2, missing=0.0)
    found = make_worklist(data, WorklistRequest("highest-loss", "all"), np.ones(60, bool))
    losses = weighted_row_losses(data.labels, data.predicted)
    assert np.allclose(found.values, np.sort(losses)[::-1])
    assert found.values.mean() == pytest.approx(losses.mean())


@pytest.mark.parametrize("unit", ["slice", "study"])
def test_nothing_is_listed_without_predictions_labels_or_slices(unit: str) -> None:
    data = random_data(2)
    unpredicted = WorklistData(data.labels, np.full((60, 6), np.nan, np.float32), data.first)
    unlabelled = WorklistData(np.full((60, 6), np.nan, np.float32), data.predicted, data.first)
    none = np.empty((0, 6), np.float32)
    empty = WorklistData(none, none, np.empty(0, np.int64))
    for kind in ("false-positives", "false-negatives", "highest-loss"):
        request = WorklistRequest(kind, unit=unit)  # type: ignore[arg-type]
        for data_, n in ((unpredicted, 60), (unlabelled, 60), (empty, 0)):
            assert len(make_worklist(data_, request, np.ones(n, bool)).rows) == 0
    assert len(make_worklist(unlabelled, WorklistRequest("uncertain"), np.ones(60, bool)).rows) > 0


def test_a_disagreement_needs_two_predictors() -> None:
    data = random_data(2)
    with pytest.raises(ValueError, match="another"):
        make_worklist(
            WorklistData(data.labels, data.predicted, data.first), WorklistRequest("disagreement"), np.ones(60, bool)
        )


def test_the_entropy_is_in_bits() -> None:
    assert entropy([0, 0.5, 1, 0.25]).tolist() == pytest.approx([0, 1, 0, 0.8112781244591328])
    assert np.isnan(entropy([np.nan])).all()


def test_a_missed_study_is_listed_if_only_the_study_is_labelled() -> None:
    labels = np.full((6, 6), np.nan, np.float32)
    labels[:3] = 0  # a negative study
    of_studies = np.zeros((6, 6), np.float32)
    of_studies[3:, LABELS.index("any")] = 1
    predicted = np.full((6, 6), 0.1, np.float32)
    predicted[4, LABELS.index("any")] = 0.2
    first = np.array([0, 3], np.int64)
    keep = np.ones(6, bool)
    data = WorklistData(labels, predicted, first, of_studies=of_studies)
    missed = make_worklist(data, WorklistRequest("false-negatives", unit="study"), keep)
    assert (missed.rows.tolist(), missed.values.round(3).tolist()) == ([4], [0.2])
    alarms = WorklistRequest("false-positives", threshold=0.05, unit="study")
    assert make_worklist(data, alarms, keep).rows.tolist() == [0]
    assert not len(make_worklist(data, WorklistRequest("false-negatives"), keep).rows)
    assert not len(
        make_worklist(
            WorklistData(labels, predicted, first), WorklistRequest("false-negatives", unit="study"), keep
        ).rows
    )
