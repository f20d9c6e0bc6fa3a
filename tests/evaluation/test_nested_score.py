"""The nested score: choices for a part do not depend on it, and an alternative without gain is not taken."""

import dataclasses

import numpy as np
import pytest

from ichx.errors import InvalidInputError
from ichx.evaluation.blend_methods import fit_pool
from ichx.evaluation.calibration import fit_temperature
from ichx.evaluation.choices import METHODS, Method
from ichx.evaluation.logistic import logits
from ichx.evaluation.metric import probabilities, score
from ichx.evaluation.nested_score import (
    MANY_PATIENTS,
    PARTS,
    PARTS_OF_MANY,
    STACK_PATIENTS,
    BlendData,
    BlendOptions,
    BlendPipeline,
    patient_parts,
)
from ichx.evaluation.series_neighbours import SeriesNeighbours
from ichx.evaluation.smoothing import fit_kernels


def world(seed: int, skills: tuple[float, ...] = (1.0, 2.0, 2.5), folds: int = 3, patients: int = 60) -> BlendData:
    """Return slices of patients with 10 each, in folds, and members with these skills."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), 10)
    labels = (rng.random((len(patient), 6)) < 0.3).astype(float)
    members = [probabilities((labels - 0.5) * s + rng.normal(-0.5, 1, labels.shape)) for s in skills]
    neighbours = SeriesNeighbours(patient, np.tile(np.arange(10), patients))
    return BlendData(tuple(members), labels, neighbours, patient, patient % folds)


def bleeds(seed: int, patients: int) -> BlendData:
    """Return slices of patients with 10 each, in 3 folds, bleeds over adjacent slices, and two noisy members."""
    rng = np.random.default_rng(seed)
    patient, order = np.repeat(np.arange(patients), 10), np.tile(np.arange(10), patients)
    start, length = rng.integers(0, 10, (patients, 6)), rng.integers(0, 8, (patients, 6))
    place = order[:, None] - start[patient]
    labels = ((place >= 0) & (place < length[patient])).astype(float)
    members = tuple(probabilities(2 * labels - 2 + rng.normal(0, 1.5, labels.shape)) for _ in range(2))
    return BlendData(members, labels, SeriesNeighbours(patient, order), patient, patient % 3)


@pytest.mark.parametrize("method", METHODS)
def test_labels_of_a_part_do_not_affect_its_predictions(method: Method) -> None:
    data = world(0, patients=30)
    options = BlendOptions(method, top=2, smooth=True)
    plain = BlendPipeline(data, options).nested()
    inside = patient_parts(data.patients, data.folds) == 1
    labels = np.where(inside[:, None], 1 - data.labels, data.labels)
    other = BlendPipeline(dataclasses.replace(data, labels=labels), options).nested()
    assert plain is not None
    assert other is not None
    assert (plain.predicted[inside] == other.predicted[inside]).all()
    assert (plain.predicted[~inside] != other.predicted[~inside]).any()
    assert plain.score == score(data.labels, plain.predicted)


def test_parts_cross_the_folds_and_keep_patients_together() -> None:
    rng = np.random.default_rng(8)
    folds_of = rng.permutation(np.repeat([0, 1, 2], 20))
    patients = rng.permutation(np.repeat(np.arange(60), 4)) * 3  # numbers may be missing
    folds = folds_of[patients // 3]
    parts = patient_parts(patients, folds)
    assert sorted(set(parts)) == list(range(PARTS))
    for patient in np.unique(patients):
        assert len(set(parts[patients == patient])) == 1
    counts = np.array([[len(set(patients[(parts == q) & (folds == f)])) for f in range(3)] for q in range(PARTS)])
    assert (counts == 2).all()
    many = np.arange(MANY_PATIENTS)
    assert patient_parts(many, many % 2).max() + 1 == PARTS_OF_MANY
    assert patient_parts(np.arange(4), np.zeros(4, np.int64)).tolist() == [0, 1, 2, 3]
    assert len(set(patient_parts(np.array([0, 0, 1]), np.array([0, 1, 1]))[:2])) == 1, "its slices are in two folds"


def test_predictions_of_a_part_come_from_the_fit_on_the_others() -> None:
    data = world(1)
    pipeline = BlendPipeline(data, BlendOptions("auto"))
    nested = pipeline.nested()
    assert nested is not None
    out = patient_parts(data.patients, data.folds) == 2
    fitted = BlendPipeline(data, pipeline.options).fit(set(range(PARTS)) - {2})
    members = {k: data.members[k][out] for k in fitted.pool.members}
    assert (nested.predicted[out] == fitted.apply(members, data.neighbours.take(out))).all()


def test_top_members_are_chosen_without_the_held_out_part() -> None:
    """A member that is best in part 0 only is chosen for the other parts only."""
    data = world(2, (2.0, 1.9))
    inside = patient_parts(data.patients, data.folds) == 0
    lucky = np.where(inside[:, None], np.clip(data.labels, 0.01, 0.99), data.members[1])
    data = dataclasses.replace(data, members=(data.members[0], lucky))
    pipeline = BlendPipeline(data, BlendOptions("mean", top=1, smooth=False, calibrate=False))
    nested = pipeline.nested()
    assert nested is not None
    assert {k: f.candidates for k, f in nested.fits.items()} == {0: (0,)} | dict.fromkeys(range(1, PARTS), (1,))
    assert pipeline.fit().candidates == (1,)


def calibrated_world(seed: int) -> BlendData:
    """Return one member whose probabilities are those of the labels."""
    rng = np.random.default_rng(seed)
    data = world(seed)
    p = probabilities(rng.normal(-1, 1.5, data.labels.shape))
    return dataclasses.replace(data, members=(p,), labels=(rng.random(p.shape) < p).astype(float))


def test_auto_is_the_mean_without_a_gain() -> None:
    data = calibrated_world(3)
    fitted = BlendPipeline(dataclasses.replace(data, members=data.members * 3), BlendOptions("auto")).fit()
    assert (fitted.method, fitted.steps) == ("mean", {})
    names = [(a.part, a.name, a.taken) for a in fitted.alternatives[:5]]
    assert names == [
        ("method", "convex", False),
        ("method", "logit", False),
        ("method", "per-label-logit", False),
        ("smoothing", "kernels", False),
        ("method", "stack", False),
    ]


def test_auto_sums_logits_of_independent_evidence() -> None:
    """The probabilities of members that see independent evidence are less certain than all of it."""
    data = world(3, (2.0, 2.0, 2.0))
    members = tuple(probabilities(2 * logits(p) + 1) for p in data.members)
    fitted = BlendPipeline(dataclasses.replace(data, members=members), BlendOptions("auto", smooth=False)).fit()
    assert fitted.method == "logit"
    assert next(a.name for a in fitted.alternatives if a.taken) == "logit"


def test_auto_weights_members_of_different_skill() -> None:
    data = world(3, (0.2, 0.2, 3.0))
    options = BlendOptions("auto", smooth=False, calibrate=False)
    first = BlendPipeline(data, options).fit().alternatives[0]
    assert (first.name, first.against, first.taken) == ("convex", "mean", True)


def test_auto_stacks_members_that_see_neighbours_only_of_enough_patients() -> None:
    """Labels are those of the slice before, so only a stack of neighbours and other labels is useful."""
    few, enough = (bleeds(5, patients) for patients in (STACK_PATIENTS - 1, STACK_PATIENTS))
    options = BlendOptions("auto", smooth=False, calibrate=False)
    fitted = BlendPipeline(enough, options).fit()
    assert fitted.method == "stack"
    assert [a.against for a in fitted.alternatives if a.name == "stack"]
    assert BlendPipeline(few, options).fit().method != "stack"


def test_a_stack_and_its_kernels_are_means_over_parts() -> None:
    """Their logits are the mean of those of the fits that each leave out one part."""
    data = bleeds(6, 40)
    parts = patient_parts(data.patients, data.folds)
    pipeline = BlendPipeline(data, BlendOptions("stack", smooth=False, calibrate=False))
    stacks = []
    for part in range(PARTS):
        rows = np.flatnonzero(parts != part)
        members = dict(enumerate(p[rows] for p in data.members))
        stacks.append(fit_pool("stack", members, data.labels[rows], data.neighbours.take(rows), 10.0))
    members = dict(enumerate(data.members))
    expected = np.mean([logits(stack.apply(members, data.neighbours)) for stack in stacks], axis=0)
    np.testing.assert_allclose(logits(pipeline.apply(pipeline.fit())), expected, atol=1e-9)
    smoothed = BlendPipeline(data, BlendOptions("mean", calibrate=False)).fit()
    mean = np.mean(data.members, axis=0)
    kernels = [
        fit_kernels(mean[r], data.labels[r], data.neighbours.take(r), 10.0)
        for r in (np.flatnonzero(parts != part) for part in range(PARTS))
    ]
    expected = np.mean([logits(k.apply(mean, data.neighbours)) for k in kernels], axis=0)
    np.testing.assert_allclose(logits(smoothed.apply(members, data.neighbours)), expected, atol=1e-9)


def test_calibration_is_fitted_on_held_out_predictions() -> None:
    """A stack of 20 patients is overconfident on others, which its predictions of its own patients do not show."""
    data = bleeds(7, 20)
    fitted = BlendPipeline(data, BlendOptions("stack", smooth=False)).fit()
    temperatures = fit_temperature(
        fitted.pool.apply(dict(enumerate(data.members)), data.neighbours), data.labels, data.neighbours
    )
    assert temperatures.values[0] < 1.0
    gains = {a.name: a.gain for a in fitted.alternatives}
    assert gains["temperature"] > 0


def test_second_level_is_judged_on_networks_that_it_has_seen() -> None:
    """Each fold's network adds another constant: a stack of two folds is wrong about the third."""
    data = bleeds(9, 60)
    offsets = np.random.default_rng(1).normal(0, 2, (2, 3, 6))
    members = tuple(
        probabilities(logits(p) + offset[data.folds]) for p, offset in zip(data.members, offsets, strict=True)
    )
    data = dataclasses.replace(data, members=members)
    options = BlendOptions("stack", smooth=False, calibrate=False)
    nested = BlendPipeline(data, options).nested()
    assert nested is not None
    fitted, fresh = BlendPipeline(data, options).fit(), bleeds(10, 200)
    scores = []
    for fold in range(3):
        each = {
            k: probabilities(logits(p) + offset[fold])
            for k, (p, offset) in enumerate(zip(fresh.members, offsets, strict=True))
        }
        scores.append(score(fresh.labels, fitted.apply(each, fresh.neighbours)))
    by_fold = np.empty_like(data.labels)
    for fold in range(3):
        inside, out = np.flatnonzero(data.folds != fold), np.flatnonzero(data.folds == fold)
        pool = fit_pool("stack", data.take(inside, (0, 1)), data.labels[inside], data.neighbours.take(inside), 10.0)
        by_fold[out] = pool.apply(data.take(out, (0, 1)), data.neighbours.take(out))
    assert nested.score == pytest.approx(np.mean(scores), rel=0.1)
    assert score(data.labels, by_fold) > 1.2 * np.mean(scores)


def test_choices_of_many_patients_are_made_on_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """The chosen method and steps are fitted to all patients, and a part does not depend on its labels."""
    data = bleeds(11, 130)
    everyone = BlendPipeline(data, BlendOptions("stack")).fit()
    monkeypatch.setattr("ichx.evaluation.nested_score.CHOICE_PATIENTS", 60)
    pipeline = BlendPipeline(data, BlendOptions("stack"))
    fitted, nested = pipeline.fit(), pipeline.nested()
    assert pipeline._sample is not None
    assert len(set(pipeline._sample.data.patients)) == 65
    assert set(pipeline._sample.data.folds) == {0, 1, 2}
    assert {a.name: a.gain for a in fitted.alternatives} != {a.name: a.gain for a in everyone.alternatives}
    alone = fit_pool("stack", dict(enumerate(data.members)), data.labels, data.neighbours, 10.0)
    assert (fitted.pool.coefficients == alone.coefficients).all()
    inside = patient_parts(data.patients, data.folds) == 1
    labels = np.where(inside[:, None], 1 - data.labels, data.labels)
    other = BlendPipeline(dataclasses.replace(data, labels=labels), pipeline.options).nested()
    assert nested is not None
    assert other is not None
    assert (nested.predicted[inside] == other.predicted[inside]).all()


def test_calibration_is_taken_only_if_needed() -> None:
    calibrated = calibrated_world(4)
    labels, p = calibrated.labels, calibrated.members[0]
    distorted = dataclasses.replace(calibrated, members=(probabilities(3 * logits(p)),))
    options = BlendOptions("mean", smooth=False)
    assert "calibration" in BlendPipeline(distorted, options).fit().steps
    assert "calibration" not in BlendPipeline(distorted, BlendOptions("mean", calibrate=False)).fit().steps
    assert "calibration" not in BlendPipeline(calibrated, options).fit().steps
    nested = BlendPipeline(distorted, options).nested()
    assert nested is not None
    assert nested.score < score(labels, distorted.members[0]) - 0.05


def test_one_fold_has_no_nested_score_but_parts_for_choices() -> None:
    pipeline = BlendPipeline(world(5, folds=1), BlendOptions("auto", smooth=False))
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
