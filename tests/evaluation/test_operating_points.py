"""Operating points: rules, ties, intervals, storage, and their application to other data and files."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import SCRATCH, Program
from hypothesis import given
from hypothesis import strategies as st

from ichx.errors import CorruptFileError, InvalidInputError, NotFoundError, NotReadyError
from ichx.evaluation.call_scores import call_scores
from ichx.evaluation.label_rows import LabelRows
from ichx.evaluation.oof import read_oof
from ichx.evaluation.operating_points import apply_thresholds, choose_threshold
from ichx.evaluation.subgroup_scores import Predicted
from ichx.evaluation.subject import Subject
from ichx.evaluation.threshold_choice import ThresholdRequest, chosen_threshold, drawn_thresholds
from ichx.evaluation.threshold_file import current_thresholds, remove_threshold, stale_warnings, stored_thresholds
from ichx.experiment_files import THRESHOLDS_FILE
from ichx.labels import LABELS
from ichx.phantom.dicom_files import write_phantom
from ichx.project import Project

LABEL = "subdural"
"""In the phantom, some studies have it and some do not."""
K = LABELS.index(LABEL)
NAMES = ("sensitivity", "specificity", "positive_predictive_value", "negative_predictive_value")


def rates(truth: np.ndarray, called: np.ndarray) -> dict[str, float]:
    """Return the four rates by counting."""
    tp, fp = int((truth & called).sum()), int((~truth & called).sum())
    fn, tn = int((truth & ~called).sum()), int((~truth & ~called).sum())

    def share(part: int, of: int) -> float:
        return part / of if of else float("nan")

    return dict(
        zip(NAMES, (share(tp, tp + fn), share(tn, tn + fp), share(tp, tp + fp), share(tn, tn + fn)), strict=True)
    )


@given(st.integers(0, 2**32 - 1), st.integers(2, 200), st.floats(0, 1))
def test_rates_of_a_threshold_are_those_of_counting(seed: int, rows: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    truth, p = rng.random(rows) < 0.4, np.round(rng.random(rows), 1)
    patients = rng.integers(0, 60, rows).astype(str).astype(object)
    found = call_scores(truth, p, patients, threshold, draws=4)
    for name, expected in rates(truth, p >= threshold).items():
        value = getattr(found, name).value
        assert np.isnan(expected) if value is None else value == pytest.approx(expected)
    assert found.alarms.value == pytest.approx(100 * (p >= threshold).mean())


def test_predictive_values_follow_from_the_prevalence_by_bayes_rule() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(5000) < 0.5
    p = np.where(truth, rng.normal(0.7, 0.2, 5000), rng.normal(0.3, 0.2, 5000))
    patients = np.repeat(np.arange(500), 10).astype(str).astype(object)
    half = call_scores(truth, p, patients, 0.5, draws=50)
    rare = call_scores(truth, p, patients, 0.5, prevalence=0.01, draws=50)
    assert (rare.sensitivity, rare.specificity) == (half.sensitivity, half.specificity)
    se, sp = half.sensitivity.value, half.specificity.value
    assert se is not None
    assert sp is not None
    assert rare.positive_predictive_value.value == pytest.approx(0.01 * se / (0.01 * se + 0.99 * (1 - sp)))
    assert rare.negative_predictive_value.value == pytest.approx(0.99 * sp / (0.99 * sp + 0.01 * (1 - se)))
    assert rare.alarms.value == pytest.approx(100 * (0.01 * se + 0.99 * (1 - sp)))
    for interval in (rare.positive_predictive_value, rare.alarms):
        assert interval.low is not None
        assert interval.high is not None
        assert interval.value is not None
        assert interval.low < interval.value < interval.high
    own = call_scores(truth, p, patients, 0.5, prevalence=float(truth.mean()), draws=5)
    assert own.positive_predictive_value.value == pytest.approx(half.positive_predictive_value.value)
    for wrong in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(InvalidInputError):
            call_scores(truth, p, patients, 0.5, prevalence=wrong)


@pytest.mark.parametrize(
    ("rule", "value"),
    [("sensitivity", 0.9), ("sensitivity", 1.0), ("specificity", 0.8), ("specificity", 0.99), ("cost", 5.0)],
)
@pytest.mark.parametrize("unit", ["slice", "study"])
def test_the_best_threshold_that_satisfies_the_rule_is_chosen(
    project: Project, rule: str, value: float, unit: str
) -> None:
    request = ThresholdRequest(LABEL, rule, value, unit)  # type: ignore[arg-type]
    chosen, replaced = choose_threshold(project, Subject(1), request, draws=10)
    assert replaced is None
    table = read_oof(project, project.store.experiment(1))
    truth, p = table.labels[:, K] > 0.5, table.probabilities[:, K]
    if unit == "study":
        frame = pd.DataFrame({"study": table.studies, "truth": truth, "p": p}).groupby("study").max()
        truth, p = frame["truth"].to_numpy(bool), frame["p"].to_numpy()
    assert chosen.threshold in p
    options = {t: rates(truth, p >= t) for t in np.unique(p)}
    found = options[chosen.threshold]
    assert chosen.calls.sensitivity.value == pytest.approx(found["sensitivity"])
    if rule == "cost":
        alarms = {t: (1 - r["specificity"]) * (~truth).sum() for t, r in options.items()}
        cost = {t: value * (1 - r["sensitivity"]) * truth.sum() + alarms[t] for t, r in options.items()}
        assert cost[chosen.threshold] == pytest.approx(min(cost.values()))
    elif rule == "sensitivity":
        assert found["sensitivity"] >= value
        assert all(options[t]["sensitivity"] < value for t in options if t > chosen.threshold)
    else:
        assert chosen.threshold == min(t for t in options if options[t]["specificity"] >= value)


FALSE_ALARM_ON_TOP = LabelRows(
    np.array([False, True, True, False]), np.array([0.9, 0.8, 0.7, 0.1]), *2 * (np.array(list("abcd"), object),)
)


@pytest.mark.parametrize(
    ("rule", "value", "expected"),
    [
        ("specificity", 0.9, None),  # the row with the highest probability is a false alarm
        ("specificity", 0.5, 0.7),
        ("cost", 0.4, None),  # one false alarm costs more than the two positives
        ("cost", 0.6, 0.7),
        ("sensitivity", 1.0, 0.7),
        ("sensitivity", 0.5, 0.8),
    ],
)
def test_no_threshold_is_chosen_if_calling_no_row_is_best(rule: str, value: float, expected: float | None) -> None:
    request = ThresholdRequest(LABEL, rule, value)  # type: ignore[arg-type]
    assert chosen_threshold(FALSE_ALARM_ON_TOP, request) == expected
    drawn = drawn_thresholds(FALSE_ALARM_ON_TOP, request, draws=200)
    assert np.nanmax(drawn) <= np.nextafter(0.9, 1)  # finite, also where no row is called


def test_a_threshold_that_calls_nothing_is_refused(ichx: Program, trained_copy: Path) -> None:
    # The slice with the highest probability is a false alarm, see the rule test above.
    choose = ("threshold", "1", "--label", LABEL, "--per", "slice", "--specificity", "1", "--json")
    ichx(*choose, cwd=trained_copy).check_error("not_ready", LABEL, "specificity of 1")
    assert json.loads(ichx("threshold", "1", "--json", cwd=trained_copy).out) == []


def test_thresholds_of_other_predictions_are_reported(project: Project) -> None:
    subject = Subject(1)
    chosen, _ = choose_threshold(project, subject, ThresholdRequest(LABEL, "sensitivity", 0.9), draws=5)
    assert stale_warnings(project, subject, [chosen]) == []
    (line,) = stale_warnings(project, subject, [chosen, replace(chosen, digest="0" * 16)])
    assert f"{LABEL} per study" in line
    assert current_thresholds(project, subject, [chosen, replace(chosen, digest="0" * 16)]) == [True, False]
    assert "unknown" in stale_warnings(project, Subject(99), [chosen])[0]


def test_thresholds_are_stored_replaced_listed_and_removed(project: Project) -> None:
    subject = Subject(1)
    assert stored_thresholds(project, subject) == []
    first, _ = choose_threshold(project, subject, ThresholdRequest(LABEL, "sensitivity", 0.9), draws=5)
    second, replaced = choose_threshold(project, subject, ThresholdRequest(LABEL, "specificity", 0.5), draws=5)
    assert replaced == first
    choose_threshold(project, subject, ThresholdRequest(LABEL, "specificity", 0.5, "slice"), draws=5)
    choose_threshold(project, subject, ThresholdRequest(LABEL, "specificity", 0.5, tta="hflip"), draws=5)
    assert [one.key for one in stored_thresholds(project, subject)] == [
        (LABEL, "slice", "none"),
        (LABEL, "study", "hflip"),
        (LABEL, "study", "none"),
    ]
    assert stored_thresholds(project, subject)[-1] == second
    assert current_thresholds(project, subject, stored_thresholds(project, subject)) == [True] * 3
    remove_threshold(project, subject, LABEL, "study", "hflip")
    assert len(stored_thresholds(project, subject)) == 2
    with pytest.raises(NotFoundError):
        remove_threshold(project, subject, LABEL, "study", "hflip")


@pytest.mark.parametrize(
    "request_",
    [
        ThresholdRequest("bleed", "sensitivity", 0.9),
        ThresholdRequest("any", "sensitivity", 1.1),
        ThresholdRequest("any", "specificity", 0.0),
        ThresholdRequest("any", "sensitivity", float("nan")),
        ThresholdRequest("any", "cost", -1.0),
        ThresholdRequest("any", "cost", float("inf")),
        ThresholdRequest("any", "youden", 0.5),  # type: ignore[arg-type]
    ],
    ids=str,
)
def test_invalid_requests_are_refused(project: Project, request_: ThresholdRequest) -> None:
    with pytest.raises(InvalidInputError):
        choose_threshold(project, Subject(1), request_)


def test_a_label_with_one_class_has_no_threshold(project: Project) -> None:
    table = read_oof(project, project.store.experiment(1))
    absent = [label for k, label in enumerate(LABELS) if not (table.labels[:, k] > 0.5).any()]
    if not absent:
        pytest.skip("the phantom has all labels")
    with pytest.raises(NotReadyError, match=absent[0]):
        choose_threshold(project, Subject(1), ThresholdRequest(absent[0], "sensitivity", 0.9))


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'[{"request": {}}]', b'{"a": 1}', b"\xff\xfe"])
def test_a_damaged_file_is_reported(project: Project, content: bytes) -> None:
    (Subject(1).folder(project) / THRESHOLDS_FILE).write_bytes(content)
    with pytest.raises(CorruptFileError, match=THRESHOLDS_FILE):
        stored_thresholds(project, Subject(1))


def test_a_stored_threshold_is_applied_unchanged(project: Project) -> None:
    chosen, _ = choose_threshold(project, Subject(1), ThresholdRequest(LABEL, "sensitivity", 0.9, "slice"), draws=5)
    rng = np.random.default_rng(1)
    slices = pd.DataFrame({"patient": [str(i // 3) for i in range(90)], "study": [str(i // 3) for i in range(90)]})
    labels, p = (rng.random((90, 6)) < 0.5).astype(float), rng.random((90, 6))
    (applied,) = apply_thresholds([chosen], Predicted(slices, labels, p))
    assert applied.calls.threshold == chosen.threshold
    expected = rates(labels[:, K] > 0.5, p[:, K] >= chosen.threshold)
    assert applied.calls.sensitivity.value == pytest.approx(expected["sensitivity"])


def test_the_command_chooses_lists_and_removes(ichx: Program, trained_copy: Path) -> None:
    empty = ichx("threshold", "1", cwd=trained_copy)
    assert empty.code == 0
    assert "No threshold is stored" in empty.err + empty.out
    of = ("threshold", "1", "--label", LABEL)
    chosen = json.loads(ichx(*of, "--sensitivity", "0.9", "--json", cwd=trained_copy).out)["chosen"]
    assert chosen["request"]["unit"] == "study"
    again = ichx("threshold", "1", "--label", LABEL, "--specificity", "0.5", cwd=trained_copy)
    assert again.code == 0, again.err
    assert "Replaces subdural per study" in again.err + again.out
    (listed,) = json.loads(ichx("threshold", "1", "--json", cwd=trained_copy).out)
    assert listed["current"] is True
    assert listed["request"]["rule"] == "specificity"
    assert "removed subdural per study" in ichx("threshold", "1", "--label", LABEL, "--remove", cwd=trained_copy).out
    ichx("threshold", "1", "--label", LABEL, "--remove", "--json", cwd=trained_copy).check_error("not_found", LABEL)
    ichx("threshold", "99", "--json", cwd=trained_copy).check_error("not_found", "99")
    ichx(*of, "--sensitivity", "2", "--json", cwd=trained_copy).check_error("invalid_input", "2")
    for words in (["1", "--sensitivity", "0.9", "--cost", "3"], ["1", "--per", "patient"], []):
        assert ichx("threshold", *words, cwd=trained_copy).code == 2


def test_evaluate_and_predict_apply_stored_thresholds(ichx: Program, trained_copy: Path, tmp_path: Path) -> None:
    of = ("threshold", "1", "--label", LABEL)
    assert ichx(*of, "--sensitivity", "0.9", cwd=trained_copy).code == 0
    done = ichx(*of, "--specificity", "0.5", "--per", "slice", "--json", cwd=trained_copy)
    chosen = json.loads(done.out)["chosen"]
    other = write_phantom(tmp_path / "other", patients=3, seed=5, size=64, prevalence={"any": 0.5})
    assert (
        ichx("data", "add", "other", other.train, "--labels", other.train_labels, "--folds", "0", cwd=trained_copy).code
        == 0
    )
    shown = ichx("evaluate", "1", "--dataset", "other", "--prevalence", "0.1", cwd=trained_copy)
    assert shown.code == 0, shown.err
    assert "stored thresholds, applied unchanged" in shown.out
    assert "at a prevalence of 0.1" in shown.out
    found = json.loads(ichx("evaluate", "1", "--dataset", "other", "--json", cwd=trained_copy).out)["operating_points"]
    assert [one["chosen"]["request"]["unit"] for one in found] == ["slice", "study"]
    hflip = ichx("evaluate", "1", "--dataset", "other", "--tta", "hflip", cwd=trained_copy)
    assert "2 stored thresholds of other views" in " ".join((hflip.err + hflip.out).split())
    assert ichx("evaluate", "1", "--dataset", "other", "--prevalence", "1.5", cwd=trained_copy).code == 2

    out = tmp_path / "new.csv"
    predicted = ichx("predict", "1", other.train, "--out", out, cwd=trained_copy)
    assert predicted.code == 0, predicted.err
    assert "Called subdural" in predicted.err + predicted.out
    slices = pd.read_csv(out)
    assert (slices[f"called_{LABEL}"] == (slices[LABEL] >= chosen["threshold"])).all()
    assert set(pd.read_csv(tmp_path / "new.studies.csv")[f"called_{LABEL}"]) <= {0, 1}
    document = json.loads(ichx("predict", "1", other.train, "--json", cwd=trained_copy).out)
    assert [one["unit"] for one in document["thresholds"]] == ["slice", "study"]


def test_an_archive_has_the_thresholds(ichx: Program, trained_root: Path, dataset_root: Path, tmp_path: Path) -> None:
    archive = tmp_path / "one.zip"
    trained, other = (
        Path(shutil.copytree(root, tmp_path / name, ignore=SCRATCH))
        for name, root in (("trained", trained_root), ("other", dataset_root))
    )
    assert ichx("threshold", "1", "--label", LABEL, "--sensitivity", "0.9", cwd=trained).code == 0
    assert ichx("exp", "export", "1", archive, cwd=trained).code == 0
    imported = ichx("exp", "import", archive, cwd=other)
    assert imported.code == 0, imported.err
    (listed,) = json.loads(ichx("threshold", "1", "--json", cwd=other).out)
    (stored,) = json.loads((trained / "experiments" / "1" / THRESHOLDS_FILE).read_text(encoding="utf-8"))
    assert (listed["request"], listed["threshold"]) == (stored["request"], stored["threshold"])
    assert listed["current"] is True
