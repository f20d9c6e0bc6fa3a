"""The nested score: nothing of a fold goes into what is chosen for it, and what gains nothing is not taken."""

import numpy as np
import pytest

from ichx.errors import IchxError
from ichx.evaluation.logistic import logits
from ichx.evaluation.metric import probabilities, score
from ichx.evaluation.nested_score import METHODS, Folded, Options, Slices
from ichx.evaluation.series_neighbours import Heads


def world(seed: int, skills: tuple[float, ...] = (1.0, 2.0, 2.5), folds: int = 3, patients: int = 60) -> Slices:
    """Return slices of patients with 10 each, in folds, and members with these skills."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), 10)
    labels = (rng.random((len(patient), 6)) < 0.3).astype(float)
    members = [probabilities((labels - 0.5) * s + rng.normal(-0.5, 1, labels.shape)) for s in skills]
    return Slices(tuple(members), labels, Heads(patient, np.tile(np.arange(10), patients)), patient, patient % folds)


@pytest.mark.parametrize("method", METHODS)
def test_labels_of_a_fold_change_nothing_in_its_predictions(method: str) -> None:
    slices = world(0)
    options = Options(method, top=2, smooth=True)
    plain = Folded(slices, options).nested()
    inside = slices.folds == 1
    labels = np.where(inside[:, None], 1 - slices.labels, slices.labels)
    other = Folded(Slices(slices.members, labels, slices.heads, slices.patients, slices.folds), options).nested()
    assert plain is not None
    assert other is not None
    assert (plain.predicted[inside] == other.predicted[inside]).all()
    assert (plain.predicted[~inside] != other.predicted[~inside]).any()
    assert plain.score == score(slices.labels, plain.predicted)


def test_a_nested_fit_is_the_fit_on_the_other_folds_alone() -> None:
    slices = world(1)
    options = Options("auto", smooth=True)
    nested = Folded(slices, options).nested()
    assert nested is not None
    out = slices.folds == 2
    rest = Slices(
        tuple(p[~out] for p in slices.members),
        slices.labels[~out],
        slices.heads.take(~out),
        slices.patients[~out],
        slices.folds[~out],
    )
    fitted = Folded(rest, options).fit()
    members = {k: slices.members[k][out] for k in fitted.pool.members}
    np.testing.assert_allclose(nested.predicted[out], fitted.apply(members, slices.heads.take(out)), rtol=1e-9)


def test_members_of_top_are_chosen_without_the_fold() -> None:
    """A member that is best in one fold alone is chosen by the others only."""
    slices = world(2, (2.0, 1.9))
    members = list(slices.members)
    inside = slices.folds == 0
    members[1] = np.where(inside[:, None], np.clip(slices.labels, 0.01, 0.99), members[1])
    slices = Slices(tuple(members), slices.labels, slices.heads, slices.patients, slices.folds)
    folded = Folded(slices, Options("mean", top=1, calibrate=False))
    nested = folded.nested()
    assert nested is not None
    assert {k: f.candidates for k, f in nested.fits.items()} == {0: (0,), 1: (1,), 2: (1,)}
    assert folded.fit().candidates == (1,)


def test_auto_is_convex_only_where_that_gains() -> None:
    alike = Folded(world(3, (2.0, 2.0, 2.0)), Options("auto")).fit()
    assert alike.method == "mean"
    assert not alike.trials[0].taken
    apart = Folded(world(3, (0.2, 0.2, 3.0)), Options("auto")).fit()
    assert apart.method == "convex"
    assert apart.trials[0].taken
    assert apart.pool.certificate is not None


def test_calibration_is_taken_where_it_is_needed_only() -> None:
    rng = np.random.default_rng(4)
    slices = world(4)
    p = probabilities(rng.normal(-1, 1.5, slices.labels.shape))
    labels = (rng.random(p.shape) < p).astype(float)
    right = Slices((p,), labels, slices.heads, slices.patients, slices.folds)
    wrong = Slices((probabilities(3 * logits(p)),), labels, slices.heads, slices.patients, slices.folds)
    taken = Folded(wrong, Options("mean")).fit()
    assert "calibration" in taken.steps
    assert "calibration" not in Folded(wrong, Options("mean", calibrate=False)).fit().steps
    assert [t.name for t in Folded(right, Options("mean")).fit().trials if t.part == "calibration" and t.taken] in (
        [],
        ["temperature"],
    )
    nested = Folded(wrong, Options("mean")).nested()
    assert nested is not None
    assert nested.score < score(labels, wrong.members[0]) - 0.05


def test_one_fold_has_no_nested_score_and_chooses_by_its_halves() -> None:
    slices = world(5, folds=1)
    folded = Folded(slices, Options("auto"))
    assert folded.nested() is None
    assert {t.part for t in folded.fit().trials} == {"method", "calibration", "consistency", "clipping"}


def test_a_single_patient_chooses_nothing() -> None:
    fitted = Folded(world(6, folds=1, patients=1), Options("auto", smooth=True)).fit()
    assert (fitted.method, fitted.steps, fitted.trials) == ("mean", {}, ())


def test_what_are_no_probabilities_is_refused_with_all_that_is_wrong() -> None:
    slices = world(7)
    members = [p.copy() for p in slices.members]
    members[0][3, 2] = np.nan
    members[1][:2, 0] = (-0.1, 1.1)
    members[2] = members[2][:-1]
    with pytest.raises(IchxError) as caught:
        Folded(Slices(tuple(members), slices.labels, slices.heads, slices.patients, slices.folds), Options())
    assert caught.value.problem.splitlines() == [
        "member 1: 1 value NaN",
        "member 2: 2 values outside 0..1",
        "member 3 has 599 slices instead of 600",
    ]
