"""The nested score: choices for a fold do not depend on it, and an alternative without gain is not taken."""

import dataclasses

import numpy as np
import pytest

from ichx.errors import InvalidInputError
from ichx.evaluation.choices import METHODS, Method
from ichx.evaluation.logistic import logits
from ichx.evaluation.metric import probabilities, score
from ichx.evaluation.nested_score import BlendData, BlendOptions, BlendPipeline
from ichx.evaluation.series_neighbours import SeriesNeighbours


def world(seed: int, skills: tuple[float, ...] = (1.0, 2.0, 2.5), folds: int = 3, patients: int = 60) -> BlendData:
    """Return slices of patients with 10 each, in folds, and members with these skills."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), 10)
    labels = (rng.random((len(patient), 6)) < 0.3).astype(float)
    members = [probabilities((labels - 0.5) * s + rng.normal(-0.5, 1, labels.shape)) for s in skills]
    neighbours = SeriesNeighbours(patient, np.tile(np.arange(10), patients))
    return BlendData(tuple(members), labels, neighbours, patient, patient % folds)


@pytest.mark.parametrize("method", METHODS)
def test_labels_of_a_fold_do_not_affect_its_predictions(method: Method) -> None:
    data = world(0)
    options = BlendOptions(method, top=2, smooth=True)
    plain = BlendPipeline(data, options).nested()
    inside = data.folds == 1
    labels = np.where(inside[:, None], 1 - data.labels, data.labels)
    other = BlendPipeline(dataclasses.replace(data, labels=labels), options).nested()
    assert plain is not None
    assert other is not None
    assert (plain.predicted[inside] == other.predicted[inside]).all()
    assert (plain.predicted[~inside] != other.predicted[~inside]).any()
    assert plain.score == score(data.labels, plain.predicted)


def test_nested_fit_equals_the_fit_on_the_other_folds() -> None:
    data = world(1)
    options = BlendOptions("auto", smooth=True)
    nested = BlendPipeline(data, options).nested()
    assert nested is not None
    out = data.folds == 2
    rest = BlendData(
        tuple(p[~out] for p in data.members),
        data.labels[~out],
        data.neighbours.take(~out),
        data.patients[~out],
        data.folds[~out],
    )
    fitted = BlendPipeline(rest, options).fit()
    members = {k: data.members[k][out] for k in fitted.pool.members}
    np.testing.assert_allclose(nested.predicted[out], fitted.apply(members, data.neighbours.take(out)), rtol=1e-9)


def test_top_members_are_chosen_without_the_held_out_fold() -> None:
    """A member that is best in fold 0 only is chosen for the other folds only."""
    data = world(2, (2.0, 1.9))
    inside = data.folds == 0
    lucky = np.where(inside[:, None], np.clip(data.labels, 0.01, 0.99), data.members[1])
    data = dataclasses.replace(data, members=(data.members[0], lucky))
    pipeline = BlendPipeline(data, BlendOptions("mean", top=1, calibrate=False))
    nested = pipeline.nested()
    assert nested is not None
    assert {k: f.candidates for k, f in nested.fits.items()} == {0: (0,), 1: (1,), 2: (1,)}
    assert pipeline.fit().candidates == (1,)


def test_auto_is_convex_only_with_a_gain() -> None:
    equal = BlendPipeline(world(3, (2.0, 2.0, 2.0)), BlendOptions("auto")).fit()
    assert equal.method == "mean"
    assert not equal.alternatives[0].taken
    unequal = BlendPipeline(world(3, (0.2, 0.2, 3.0)), BlendOptions("auto")).fit()
    assert unequal.method == "convex"
    assert unequal.alternatives[0].taken
    assert unequal.pool.certificate is not None


def test_calibration_is_taken_only_if_needed() -> None:
    rng = np.random.default_rng(4)
    data = world(4)
    p = probabilities(rng.normal(-1, 1.5, data.labels.shape))
    labels = (rng.random(p.shape) < p).astype(float)
    calibrated = dataclasses.replace(data, members=(p,), labels=labels)
    distorted = dataclasses.replace(data, members=(probabilities(3 * logits(p)),), labels=labels)
    assert "calibration" in BlendPipeline(distorted, BlendOptions("mean")).fit().steps
    assert "calibration" not in BlendPipeline(distorted, BlendOptions("mean", calibrate=False)).fit().steps
    assert "calibration" not in BlendPipeline(calibrated, BlendOptions("mean")).fit().steps
    nested = BlendPipeline(distorted, BlendOptions("mean")).nested()
    assert nested is not None
    assert nested.score < score(labels, distorted.members[0]) - 0.05


def test_one_fold_has_no_nested_score_and_is_halved_for_choices() -> None:
    pipeline = BlendPipeline(world(5, folds=1), BlendOptions("auto"))
    assert pipeline.nested() is None
    assert {a.part for a in pipeline.fit().alternatives} == {"method", "calibration", "consistency", "clipping"}


def test_one_patient_allows_no_choice() -> None:
    fitted = BlendPipeline(world(6, folds=1, patients=1), BlendOptions("auto", smooth=True)).fit()
    assert (fitted.method, fitted.steps, fitted.alternatives) == ("mean", {}, ())


def test_all_invalid_members_are_reported() -> None:
    data = world(7)
    members = [p.copy() for p in data.members]
    members[0][3, 2] = np.nan
    members[1][:2, 0] = (-0.1, 1.1)
    members[2] = members[2][:-1]
    with pytest.raises(InvalidInputError) as caught:
        BlendPipeline(dataclasses.replace(data, members=tuple(members)), BlendOptions())
    first, second, third = caught.value.problem.splitlines()
    assert first.startswith("Member 1 has 1 value ")
    assert second.startswith("Member 2 has 2 values ")
    assert third == "Member 3 has 599 slices instead of 600."
