"""Recalibration: the fit against statsmodels, cross-fitting over patients, refusals, storage."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit

from ichx.errors import (
    ChangedDataError,
    ConflictError,
    CorruptFileError,
    InvalidInputError,
    NotFoundError,
    NotReadyError,
)
from ichx.evaluation.label_rows import LabelRows, label_rows
from ichx.evaluation.recalibration import (
    GROUPS,
    LabelMap,
    apply_maps,
    fit_label,
    fit_recalibration,
    judge_label,
    patient_groups,
)
from ichx.evaluation.recalibration_file import (
    Recalibration,
    check_applicable,
    digest_of,
    find_recalibration,
    remove_recalibration,
    store_recalibration,
    stored_recalibrations,
)
from ichx.evaluation.subgroup_scores import Predicted
from ichx.evaluation.subject import Subject
from ichx.evaluation.subject_oof import oof_digest
from ichx.experiment_files import RECALIBRATIONS_FILE
from ichx.labels import LABELS
from ichx.project import Project


def rows_of(seed: int, patients: int, *, shift: float = 1.0, scale: float = 2.0, each: int = 6) -> LabelRows:
    """Return rows whose probabilities are too high and too extreme: expit(shift + scale * logit of the true ones)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(-0.5, 1.2, patients)[:, None] + rng.normal(0, 0.5, (patients, each))
    truth = rng.random(x.shape) < expit(x)
    names = np.repeat([f"p{i:04}" for i in range(patients)], each).astype(object)
    return LabelRows(truth.ravel(), expit(shift + scale * x.ravel()), names, names)


@pytest.mark.parametrize("method", ["intercept", "slope"])
def test_the_fit_is_that_of_statsmodels(method: str) -> None:
    api = pytest.importorskip("statsmodels.api")
    rows = rows_of(1, 300)
    found = fit_label("any", rows, method)  # type: ignore[arg-type]
    x, y = logit(rows.probabilities), rows.truth.astype(float)
    family = api.families.Binomial()
    if method == "slope":
        theirs = api.GLM(y, api.add_constant(x), family=family).fit(tol=1e-14).params
        assert (found.intercept, found.slope) == pytest.approx(tuple(theirs), abs=1e-9)
        assert found.slope == pytest.approx(0.5, abs=0.1)
    else:
        theirs = api.GLM(y, np.ones((len(x), 1)), family=family, offset=x).fit(tol=1e-14).params
        assert (found.intercept, found.slope) == pytest.approx((theirs[0], 1.0), abs=1e-9)


@given(st.floats(-5, 5), st.floats(0.05, 5), st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_a_map_changes_no_order(intercept: float, slope: float, values: list[float]) -> None:
    p = np.sort(values)
    mapped = LabelMap("any", "slope", intercept, slope).apply(p)
    assert (np.diff(mapped) >= 0).all()
    assert ((mapped >= 0) & (mapped <= 1)).all()


def test_auto_fits_a_slope_only_with_enough_patients() -> None:
    assert fit_label("any", rows_of(2, 200, each=1), "auto").method == "slope"
    assert fit_label("any", rows_of(2, 60, each=1), "auto").method == "intercept"


def test_each_patient_is_judged_by_a_line_of_others() -> None:
    rows = rows_of(3, 120)
    group = patient_groups(rows.patients, rows.truth)
    of_patient = pd.DataFrame({"patient": rows.patients, "group": group}).groupby("patient")["group"].nunique()
    assert (of_patient == 1).all()
    assert len(np.unique(group)) == GROUPS
    found = judge_label("any", rows, "slope")
    after = rows.probabilities.copy()
    for k in range(GROUPS):
        after[group == k] = fit_label("any", rows.take(group != k), "slope").apply(after[group == k])
    losses = -np.log(np.where(rows.truth, after, 1 - after))
    assert found.after == pytest.approx(losses.mean(), abs=1e-12)
    assert found.difference.value == pytest.approx(found.after - found.before, abs=1e-12)
    assert found.difference.high is not None
    assert found.difference.high < 0
    assert found.line_before.slope.value is not None
    assert found.line_after.slope.value is not None
    assert abs(found.line_after.slope.value - 1) < abs(found.line_before.slope.value - 1)


def predicted(patients: int, *, positive: bool = True) -> Predicted:
    """Return predictions in which `any` is too high; the subtypes never occur."""
    rows = rows_of(4, patients)
    labels, p = np.zeros((len(rows.truth), len(LABELS))), np.full((len(rows.truth), len(LABELS)), 0.1)
    labels[:, -1] = rows.truth & positive
    p[:, -1] = rows.probabilities
    slices = pd.DataFrame({"patient": rows.patients, "study": rows.studies, "slice_id": np.arange(len(rows.truth))})
    return Predicted(slices, labels, p)


def test_labels_that_cannot_be_fitted_stay_and_say_why() -> None:
    found = fit_recalibration(predicted(60), method="intercept")
    assert [one.method for one in found.maps] == ["none"] * 5 + ["intercept"]
    assert found.maps[0].why == "0 patients with it, fewer than 10"
    assert [one.label for one in found.judged] == ["any"]
    p = np.random.default_rng(0).random((5, len(LABELS)))
    after = apply_maps(found.maps, p)
    assert np.array_equal(after[:, :5], p[:, :5])
    assert not np.allclose(after[:, 5], p[:, 5])


def test_studies_are_calibrated_by_lines_of_studies() -> None:
    sample = predicted(120)
    found = fit_recalibration(sample, ["any"], "slope", "study")
    assert (found.unit, found.rows) == ("study", 120)
    rows = label_rows(sample, "any", "study")
    assert found.maps[5] == fit_label("any", rows, "slope")
    mapped = replace(sample, probabilities=apply_maps(found.maps, sample.probabilities))
    after = label_rows(mapped, "any", "study")
    assert np.allclose(after.probabilities, found.maps[5].apply(rows.probabilities), atol=1e-12)
    assert after.probabilities.mean() == pytest.approx(after.truth.mean(), abs=1e-9)


def test_samples_that_are_too_small_are_refused() -> None:
    with pytest.raises(NotReadyError) as caught:
        fit_recalibration(predicted(15))
    assert "15 patients" in caught.value.problem
    with pytest.raises(NotReadyError) as caught:
        fit_recalibration(predicted(40, positive=False))
    assert "any cannot be recalibrated: 0 patients with it" in caught.value.problem
    with pytest.raises(NotReadyError) as caught:
        fit_recalibration(predicted(40), ["any", "epidural"])
    assert "epidural cannot be recalibrated" in caught.value.problem
    with pytest.raises(InvalidInputError):
        fit_recalibration(predicted(40), ["ICH"])
    with pytest.raises(InvalidInputError):
        fit_recalibration(predicted(40), method="isotonic")  # type: ignore[arg-type]


@pytest.fixture
def made(project: Project) -> Recalibration:
    """Return a recalibration of experiment 1."""
    networks = oof_digest(project, Subject(1), "none", "logit")
    fitted = fit_recalibration(predicted(60))
    return Recalibration("ours", "ours", 1, "none", "logit", (0, 1), fitted, networks, "0" * 16, "2026-01-01T00:00:00Z")


def test_a_stored_recalibration_is_read_again(project: Project, made: Recalibration) -> None:
    subject = Subject(1)
    assert store_recalibration(project, subject, made) is None
    found = find_recalibration(project, subject, "ours")
    assert found.fitted == made.fitted
    assert found.digest == digest_of(made)
    p = np.random.default_rng(1).random((4, len(LABELS)))
    assert np.array_equal(found.apply(p), made.apply(p))
    assert found.threshold("any", p[0, 5]) == made.apply(p)[0, 5]
    check_applicable(project, subject, found, tta="none", average="logit", folds=(0, 1))
    for other in ({"tta": "hflip"}, {"average": "probability"}, {"folds": (0,)}):
        with pytest.raises(ConflictError):
            check_applicable(
                project,
                subject,
                found,
                **({"tta": "none", "average": "logit", "folds": (0, 1)} | other),  # type: ignore[arg-type]
            )
    again = store_recalibration(project, subject, made)
    assert again is not None
    assert len(stored_recalibrations(project, subject)) == 1
    with pytest.raises(NotFoundError):
        find_recalibration(project, subject, "theirs")
    assert remove_recalibration(project, subject, "ours").name == "ours"
    assert stored_recalibrations(project, subject) == []


def test_changed_files_and_networks_are_refused(project: Project, made: Recalibration) -> None:
    subject = Subject(1)
    store_recalibration(project, subject, made)
    with pytest.raises(ChangedDataError):
        check_applicable(project, Subject(2), made, tta="none", average="logit", folds=(0, 1))
    path = subject.folder(project) / RECALIBRATIONS_FILE
    content = json.loads(path.read_text(encoding="utf-8"))
    content[0]["fitted"]["maps"][5]["intercept"] += 0.5
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(CorruptFileError):
        stored_recalibrations(project, subject)
    path.write_text("[{}]", encoding="utf-8")
    with pytest.raises(CorruptFileError):
        stored_recalibrations(project, subject)
    with pytest.raises(InvalidInputError):
        store_recalibration(project, subject, Recalibration(**{**vars(made), "name": "../up"}))
