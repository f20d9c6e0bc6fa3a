"""Scores, calibration and blends with labels that are unknown: those of the known ones."""

import numpy as np
import pytest

from ichx.evaluation.blend import solve
from ichx.evaluation.bootstrap import loss_interval, paired_difference, patient_bootstrap
from ichx.evaluation.calibration import fit_bounds, fit_isotonic, fit_temperatures
from ichx.evaluation.calibration_line import calibration_lines
from ichx.evaluation.logistic import fit_logistic
from ichx.evaluation.metric import constant_score, label_losses, score, single_losses, weighted_row_losses
from ichx.evaluation.nested_score import BlendData, BlendOptions, BlendPipeline
from ichx.evaluation.scores import UNKNOWN_LABEL, calibration, pool_studies, slice_scores
from ichx.evaluation.series_neighbours import SeriesNeighbours
from ichx.evaluation.thresholds import operating_points
from ichx.labels import LABELS

NAN = float("nan")
ROWS, PATIENTS = 600, 60


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels of which some are unknown, probabilities and patients; `epidural` is never known."""
    random = np.random.default_rng(5)
    y = (random.random((ROWS, 6)) < 0.3).astype(float)
    p = np.clip(0.3 + 0.4 * (y - 0.3) + random.normal(0, 0.2, y.shape), 0.01, 0.99)
    y[random.random((ROWS, 6)) < 0.4] = NAN
    y[:, 0] = NAN
    return y, p, np.repeat(np.arange(PATIENTS), ROWS // PATIENTS)


def test_scores_are_those_of_the_known_rows(drawn) -> None:
    y, p, _ = drawn
    found = slice_scores(y, p)
    for k, name in enumerate(LABELS[1:], 1):
        known = ~np.isnan(y[:, k])
        alone = slice_scores(np.tile(y[known][:, [k]], 6), np.tile(p[known][:, [k]], 6)).labels[0]
        assert {**vars(found.labels[k]), "label": ""} == {**vars(alone), "label": ""}, name
    epidural = found.labels[0]
    assert (epidural.count, epidural.auc, epidural.log_loss, epidural.undefined) == (0, None, None, UNKNOWN_LABEL)
    losses = label_losses(y, p)
    assert found.log_loss == score(y, p) == pytest.approx((losses[1:5].sum() + 2 * losses[5]) / 6)
    assert weighted_row_losses(y, p).mean() == pytest.approx(found.log_loss)


def test_intervals_do_not_depend_on_what_is_predicted_where_labels_are_unknown(drawn) -> None:
    y, p, patients = drawn
    other = np.where(np.isnan(y), 0.9, p)
    one, two = (patient_bootstrap(y, q, patients, draws=50) for q in (p, other))
    assert one == two
    assert one.labels["epidural"]["auc"].undefined == UNKNOWN_LABEL
    assert one.labels["any"]["auc"].low is not None
    found = loss_interval(y, p, patients, draws=50)
    assert (found.low, found.high) == (one.log_loss.low, one.log_loss.high)
    difference = paired_difference(y, p, np.clip(p + 0.05, 0, 1), patients, draws=50, ranked=True)
    assert difference.labels["epidural"].undefined == UNKNOWN_LABEL
    assert difference.value == pytest.approx(score(y, p) - score(y, np.clip(p + 0.05, 0, 1)))


def test_few_patients_with_a_known_label_have_no_interval(drawn) -> None:
    y, p, patients = (values.copy() for values in drawn)
    y[100:, 4] = NAN  # ten patients remain
    found = patient_bootstrap(y, p, patients, draws=20).labels["subdural"]
    assert found["auc"].undefined == "no interval from 10 patients"


def test_rows_without_any_known_label(drawn) -> None:
    y, p, patients = drawn
    unknown = np.full_like(y, NAN)
    assert np.isnan(score(unknown, p))
    assert patient_bootstrap(unknown, p, patients, draws=5).log_loss.value is None
    assert np.isnan(single_losses(unknown, p)).all()
    partly = y.copy()
    partly[0] = [NAN, NAN, NAN, NAN, NAN, 1.0]
    assert single_losses(partly, p)[0] == pytest.approx(-np.log(p[0, 5]))


def test_studies_are_known_if_a_slice_is_positive_or_all_are_known() -> None:
    y = np.full((6, 6), NAN)
    y[0, 5], y[2:4, 5], y[4, 5] = 1, 0, 0
    pooled = pool_studies(y, np.full((6, 6), 0.2), ["a", "a", "b", "b", "c", "c"])
    assert pooled.labels[:2, 5].tolist() == [1, 0]
    assert np.isnan(pooled.labels[2, 5])
    assert np.isnan(pooled.labels[:, 0]).all()


def test_calibration_thresholds_and_constant_prediction_use_known_rows(drawn) -> None:
    y, p, patients = drawn
    known = ~np.isnan(y[:, 3])
    assert operating_points(y[:, 3], p[:, 3]) == operating_points(y[known, 3], p[known, 3])
    assert operating_points(y[:, 0], p[:, 0]) == ()
    assert calibration(y[:, 3], p[:, 3]).error == calibration(y[known, 3], p[known, 3]).error
    lines = calibration_lines(y, p, patients)
    assert lines["epidural"].slope.undefined == UNKNOWN_LABEL
    assert lines["subdural"].slope.value is not None
    assert np.isfinite(constant_score(y, y))


def test_fits_leave_unknown_labels_out(drawn) -> None:
    y, p, _ = drawn
    neighbours = SeriesNeighbours(np.zeros(ROWS, np.int64), np.arange(float(ROWS)))
    for fit in (fit_temperatures, fit_isotonic, fit_bounds):
        changed = np.where(np.isnan(y), 0.5, p)
        np.testing.assert_allclose(
            fit(p, y, neighbours).apply(p, neighbours)[:, 1:], fit(changed, y, neighbours).apply(p, neighbours)[:, 1:]
        )
    rows = ~np.isnan(y[:, 2])
    whole, part = (fit_logistic([p[at, 2]], y[at, 2], towards=[1.0]) for at in (slice(None), rows))
    np.testing.assert_allclose(whole, part)
    members = [p, np.clip(p[::-1], 0.01, 0.99)]
    masked = [np.where(np.isnan(y), 0.5, m) for m in members]
    np.testing.assert_allclose(solve(y, members).weights, solve(y, masked).weights, atol=1e-6)


@pytest.mark.parametrize(
    "method", ["auto", "convex", "greedy", "per-label", "per-label-logit", "logit", "rank", "stack"]
)
def test_every_method_blends_partly_labelled_slices(drawn, method: str) -> None:
    y, p, patients = drawn
    random = np.random.default_rng(0)
    other = np.clip(p + random.normal(0, 0.2, p.shape), 0.01, 0.99)
    neighbours = SeriesNeighbours(patients.astype(np.int64), np.tile(np.arange(ROWS / PATIENTS), PATIENTS))
    data = BlendData((p, other), y, neighbours, patients.astype(np.int64), (patients % 5).astype(np.int64))
    found = BlendPipeline(data, BlendOptions(method)).nested()
    assert found is not None
    assert np.isfinite(found.score)
    assert np.isfinite(found.predicted).all()
