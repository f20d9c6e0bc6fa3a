"""Intervals over patients: the score of a draw is that of its slices, and patients determine the width."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ichx.evaluation.bootstrap import LEVEL, loss_interval, mean_error, paired_difference, patient_bootstrap
from ichx.evaluation.metric import score, weighted_row_losses
from ichx.evaluation.patient_sums import MIN_FOR_ERROR, MIN_IN_CLASS, MIN_PATIENTS, draw_weights
from ichx.evaluation.scores import LABEL_METRICS, slice_scores
from ichx.labels import LABELS


def cohort(patients: int, slices: int, seed: int, decimals: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, probabilities and patients; the slices of one patient are correlated."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(patients), slices)
    of_patient = rng.random((patients, 6))
    labels = (rng.random((len(who), 6)) < of_patient[who] ** 2).astype(float)
    predicted = np.clip(0.4 * labels + 0.6 * rng.random((patients, 6))[who] * rng.random((len(who), 6)), 0, 1)
    order = rng.permutation(len(who))
    return labels[order], np.round(predicted, decimals)[order], np.array([f"p{w}" for w in who], object)[order]


@settings(deadline=None, max_examples=15)
@given(st.integers(20, 30), st.integers(1, 6), st.integers(0, 2**32 - 1), st.sampled_from([1, 9]))
def test_score_of_a_draw_is_that_of_its_slices(patients: int, slices: int, seed: int, decimals: int) -> None:
    """The reference repeats each patient's slices as often as the patient is drawn."""
    labels, predicted, who = cohort(patients, slices, seed, decimals)
    names = list(dict.fromkeys(who))
    drawn = []
    for weights in draw_weights(patients, 40, seed % 1000):
        for column in weights.T:
            rows = np.concatenate(
                [np.tile(np.flatnonzero(who == n), int(w)) for n, w in zip(names, column, strict=True)]
            )
            drawn.append(slice_scores(labels[rows], predicted[rows]))
    found = patient_bootstrap(labels, predicted, who, draws=40, seed=seed % 1000)
    assert (found.patients, found.draws, found.scores) == (patients, 40, slice_scores(labels, predicted))
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    losses = [d.log_loss for d in drawn]
    assert [found.log_loss.low, found.log_loss.high] == pytest.approx(np.quantile(losses, tails), rel=1e-9)
    assert found.log_loss.standard_error == pytest.approx(np.std(losses, ddof=1), rel=1e-9)
    for k, name in enumerate(LABELS):
        for metric in LABEL_METRICS:
            interval = found.labels[name][metric]
            assert interval.value == getattr(found.scores.labels[k], metric)
            if interval.undefined:
                continue
            values = [getattr(d.labels[k], metric) for d in drawn]
            known = [v for v in values if v is not None]
            assert [interval.low, interval.high] == pytest.approx(np.quantile(known, tails), rel=1e-9, abs=1e-12)


def test_loss_interval_equals_that_of_the_bootstrap() -> None:
    labels, predicted, who = cohort(30, 4, 0)
    full, loss = patient_bootstrap(labels, predicted, who, ranked=False), loss_interval(labels, predicted, who)
    assert (loss.value, loss.low, loss.high) == pytest.approx(
        (full.log_loss.value, full.log_loss.low, full.log_loss.high), rel=1e-12
    )
    assert set(full.labels["any"]) == {"log_loss", "brier", "calibration_error"}


def test_draws_are_multinomial_and_determined_by_the_seed() -> None:
    drawn = np.concatenate(list(draw_weights(50, 400, 3)), axis=1)
    assert drawn.shape == (50, 400)
    assert (drawn.sum(axis=0) == 50).all()
    assert drawn.mean() == 1
    assert drawn.var() == pytest.approx(1 - 1 / 50, rel=0.05)
    again = np.concatenate(list(draw_weights(50, 400, 3)), axis=1)
    assert np.array_equal(drawn, again)
    other = np.concatenate(list(draw_weights(50, 400, 4)), axis=1)
    assert not np.array_equal(drawn, other)


def test_repeated_slices_do_not_narrow_the_interval() -> None:
    """An interval over slices would shrink by the root of ten."""
    labels, predicted, who = cohort(40, 3, 1)
    once = loss_interval(labels, predicted, who)
    ten = loss_interval(np.tile(labels, (10, 1)), np.tile(predicted, (10, 1)), np.tile(who, 10))
    assert ten.standard_error == pytest.approx(once.standard_error, rel=1e-9)


def test_standard_error_of_a_mean() -> None:
    """With one slice per patient: the standard deviation of the losses over the root of their number."""
    labels, predicted, who = cohort(400, 1, 2)
    losses = np.array([score(labels[i : i + 1], predicted[i : i + 1]) for i in range(400)])
    found = loss_interval(labels, predicted, who, draws=4000)
    assert found.standard_error == pytest.approx(losses.std(ddof=1) / 20, rel=0.05)
    assert found.low < losses.mean() < found.high


def test_standard_errors_for_choices_need_fewer_patients() -> None:
    labels, predicted, who = cohort(MIN_FOR_ERROR, 5, 0)
    losses = weighted_row_losses(labels, predicted)
    value, error = mean_error(losses, who)
    drawn = np.concatenate(list(draw_weights(MIN_FOR_ERROR, 1000, 0)), axis=1)
    rows, sums = (np.array([values[who == n].sum() for n in dict.fromkeys(who)]) for values in (1 + 0 * losses, losses))
    assert (value, error) == pytest.approx((losses.mean(), np.std(sums @ drawn / (rows @ drawn), ddof=1)), rel=1e-9)
    four = who != "p0"
    assert mean_error(losses[four], who[four])[1] is None


def test_paired_difference_is_narrower_than_a_score() -> None:
    labels, predicted, who = cohort(60, 5, 4)
    worse = 0.9 * predicted + 0.05
    found = paired_difference(labels, worse, predicted, who, ranked=True)
    assert found.value == pytest.approx(score(labels, worse) - score(labels, predicted), rel=1e-9)
    assert found.low < found.value < found.high
    assert found.standard_error < loss_interval(labels, predicted, who).standard_error
    swapped = paired_difference(labels, predicted, worse, who, ranked=True)
    assert (swapped.value, swapped.low, swapped.high) == pytest.approx((-found.value, -found.high, -found.low))
    for name in LABELS:
        assert (found.auc[name].value, found.auc[name].low, found.auc[name].high) == (0, 0, 0), "the order is the same"
    same = paired_difference(labels, predicted, predicted, who)
    assert (same.value, same.low, same.high, same.standard_error) == (0, 0, 0, 0)
    assert same.auc == {}


def test_difference_of_auc_by_hand() -> None:
    labels, predicted, who = cohort(40, 5, 6)
    other = np.clip(predicted + 0.3 * np.random.default_rng(0).random(predicted.shape), 0, 1)
    found = paired_difference(labels, predicted, other, who, draws=64, ranked=True)
    first, second = (patient_bootstrap(labels, p, who, draws=64) for p in (predicted, other))
    for name in LABELS:
        expected = first.labels[name]["auc"].value - second.labels[name]["auc"].value
        assert found.auc[name].value == pytest.approx(expected, rel=1e-9)
        assert found.auc[name].standard_error > 0


def test_too_few_patients_have_no_interval() -> None:
    labels, predicted, who = cohort(MIN_PATIENTS - 1, 5, 0)
    few = patient_bootstrap(labels, predicted, who)
    assert few.log_loss.undefined == f"no interval from {MIN_PATIENTS - 1} patients"
    assert (few.log_loss.low, few.log_loss.high, few.log_loss.standard_error) == (None, None, None)
    assert few.log_loss.value == pytest.approx(score(labels, predicted))
    labels, predicted, who = cohort(MIN_PATIENTS, 5, 0)
    labels[:, :4] = 0
    labels[np.isin(who, ["p3", "p4"]), 1] = 1
    labels[np.isin(who, [f"p{k}" for k in range(MIN_IN_CLASS)]), 2] = 1
    labels[np.isin(who, [f"p{k}" for k in range(MIN_PATIENTS - 3)]), 3] = 1
    found = patient_bootstrap(labels, predicted, who)
    never, rare = found.labels["epidural"], found.labels["intraparenchymal"]
    assert (never["auc"].value, never["auc"].undefined) == (None, "the label never occurs")
    assert rare["auc"].value is not None
    assert rare["auc"].undefined == "no interval from 2 patients with the label"
    assert rare["log_loss"].value is not None
    for metric in ("log_loss", "brier", "calibration_error"):
        assert (rare[metric].low, rare[metric].undefined) == (None, "no interval from 2 patients with the label")
    enough, common = found.labels["intraventricular"], found.labels["subarachnoid"]
    assert enough["log_loss"].low is not None
    assert enough["auc"].low is not None
    assert common["log_loss"].low is not None
    assert common["auc"].undefined == "no interval from 3 patients without the label"
    difference = paired_difference(labels, predicted, predicted, who).labels
    assert difference["intraparenchymal"].undefined == "no interval from 2 patients with the label"
    assert difference["subarachnoid"].low == 0
    assert paired_difference(labels, predicted, predicted, who, ranked=True).auc["epidural"].value is None
