"""Scores of subgroups equal those of the group alone; small groups have no interval; the worst group is named."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Program

from ichx.datasets.study_labels import with_study_labels
from ichx.errors import InvalidInputError
from ichx.evaluation.bootstrap import patient_bootstrap
from ichx.evaluation.subgroup_scores import Predicted, all_subgroup_scores, subgroup_scores
from ichx.labels import LABELS


def predictions(rows: int = 3000, patients: int = 150, kernels: int = 3) -> Predicted:
    """Return predictions that are worse for kernel `k2`, with a kernel of 5 patients and slices without one."""
    rng = np.random.default_rng(0)
    patient = np.sort(rng.integers(0, patients, rows))
    kernel = np.array([f"k{i % kernels}" for i in range(patients)], object)
    kernel[:5], kernel[5:8] = "rare", ""
    slices = pd.DataFrame({"patient": patient.astype(str), "study": patient.astype(str), "kernel": kernel[patient]})
    labels = (rng.random((rows, 6)) < 0.3).astype(float)
    signal = np.where(slices["kernel"] == "k2", 0.2, 2.0)[:, None]
    return Predicted(slices, labels, 1 / (1 + np.exp(-(signal * (labels - 0.5) + rng.normal(size=(rows, 6))))))


@pytest.mark.parametrize("label", ["any", "epidural"])
def test_scores_of_a_group_equal_those_of_its_rows_alone(label: str) -> None:
    given = predictions()
    (found,) = subgroup_scores(given, ["kernel"], label=label, draws=50)
    assert [group.name for group in found.groups][-1] == "unknown"
    assert {group.name for group in found.groups} == {"k0", "k1", "k2", "rare", "unknown"}
    for group in found.groups:
        rows = (given.slices["kernel"].replace("", "unknown") == group.name).to_numpy()
        alone = patient_bootstrap(
            given.labels[rows], given.probabilities[rows], given.slices["patient"][rows].to_numpy(), draws=50
        )
        assert group.rows == rows.sum()
        assert group.patients == alone.patients
        expected = alone.labels[label]
        for one, other in (
            (group.log_loss, alone.log_loss),
            (group.auc, expected["auc"]),
            (group.average_precision, expected["average_precision"]),
        ):
            assert one.undefined == other.undefined
            ends = [(i.value, i.low or 0, i.high or 0, i.standard_error or 0) for i in (one, other)]
            assert ends[0] == pytest.approx(ends[1], abs=1e-12)


def test_rows_with_an_unknown_label_are_not_counted() -> None:
    given = predictions()
    unknown = np.random.default_rng(3).random(len(given.labels)) < 0.5
    given.labels[unknown, LABELS.index("any")] = np.nan
    (found,) = subgroup_scores(given, ["kernel"], draws=20)
    for group in found.groups:
        rows = (given.slices["kernel"].replace("", "unknown") == group.name).to_numpy() & ~unknown
        assert (group.rows, group.patients) == (rows.sum(), given.slices["patient"][rows].nunique())


def test_small_groups_have_no_interval_and_are_never_the_worst() -> None:
    given = predictions()
    rare = (given.slices["kernel"] == "rare").to_numpy()
    given.probabilities[rare] = 1 - given.labels[rare]  # an AUC of 0
    (found,) = subgroup_scores(given, ["kernel"], draws=20)
    assert {group.name for group in found.groups if group.small} == {"rare", "unknown"}
    assert found.worst is not None
    assert found.worst.name == "k2"


def test_studies_are_pooled_and_belong_to_the_group_of_their_first_slice() -> None:
    given = predictions()
    (found,) = subgroup_scores(given, ["kernel"], unit="study", draws=20)
    assert sum(group.rows for group in found.groups) == given.slices["study"].nunique()


def test_slices_of_labelled_studies_have_no_scores() -> None:
    given = predictions(rows=300)
    studies = given.slices["study"]
    groups = pd.DataFrame({"study": studies.unique(), "series": "", **dict.fromkeys(LABELS, 1.0)})
    unlabelled = given.slices.assign(series="", **dict.fromkeys(LABELS, np.nan))
    unknown = Predicted(with_study_labels(unlabelled, groups), given.labels * np.nan, given.probabilities)
    assert [found.unit for found in all_subgroup_scores(unknown, ["kernel"])] == ["study"]
    assert [found.unit for found in all_subgroup_scores(given, ["kernel"])] == ["slice", "study"]


def test_bad_input_is_refused() -> None:
    given = predictions()
    with pytest.raises(InvalidInputError, match="'bleed'"):
        subgroup_scores(given, ["kernel"], label="bleed")
    with pytest.raises(InvalidInputError, match="'colour'"):
        subgroup_scores(given, ["colour"])
    many = Predicted(
        given.slices.assign(kernel=[str(i) for i in range(len(given.slices))]), given.labels, given.probabilities
    )
    with pytest.raises(InvalidInputError, match="3,000"):
        subgroup_scores(many, ["kernel"])


def test_one_group_has_no_worst_one() -> None:
    given = predictions(kernels=1)
    alone = given.slices["kernel"].isin(["k0"]).to_numpy()
    part = Predicted(given.slices[alone], given.labels[alone], given.probabilities[alone])
    (found,) = subgroup_scores(part, ["kernel"], draws=20)
    assert found.worst is None


def test_scores_by_fields_on_the_command_line(ichx: Program, trained_root: Path) -> None:
    shown = ichx("scores", "1", "--by", "pixels,spacing", "--by", "step", "--label", "subdural", cwd=trained_root)
    assert shown.code == 0, shown.err
    for title in ("by pixels, per slice", "by spacing, per study", "by step, per slice"):
        assert title in shown.out
    found = json.loads(ichx("scores", "1", "--by", "step", "--json", cwd=trained_root).out)
    assert [(one["field"], one["label"], one["unit"]) for one in found] == [
        ("step", "any", "slice"),
        ("step", "any", "study"),
    ]
    lines = ichx("scores", "1", "--by", "step", "--csv", cwd=trained_root).out.splitlines()
    assert lines[0].startswith("field,unit,group,count,patients,label,positives,log_loss,log_loss_low")
    assert len(lines) == 1 + sum(len(one["groups"]) for one in found)
    shown = ichx("scores", "1", "--by", "kernel,step,sex", "--csv", cwd=trained_root)
    assert shown.out.splitlines() == lines
    assert "'kernel', 'sex'" in shown.err
    ichx("scores", "1", "--by", "kernel", "--json", cwd=trained_root).check_error("not_ready", "'kernel'")
    ichx("scores", "1", "--by", "kernels", "--json", cwd=trained_root).check_error("invalid_input", "'kernels'")


def test_labels_are_the_six() -> None:
    given = predictions(rows=400, patients=40)
    for label in LABELS:
        (found,) = subgroup_scores(given, ["kernel"], label=label, draws=5)
        rows = (given.slices["kernel"] == found.groups[0].name).to_numpy()
        assert found.groups[0].positives == given.labels[rows][:, LABELS.index(label)].sum()


def test_a_report_shows_the_groups_that_headers_tell_apart(ichx: Program, trained_root: Path, tmp_path: Path) -> None:
    from ichx.evaluation.subgroup_scores import reported_subgroups

    given = predictions()
    for name in ("manufacturer", "model", "contrast", "age", "sex", "institution", "part"):
        given.slices[name] = ""
    given.slices["thickness"] = np.nan
    given.slices["sex"] = np.where(given.slices["patient"].astype(int) % 2, "F", "M")
    for name in ("bits_stored", "signed", "intercept", "rows", "columns"):
        given.slices[name] = 12
    found = reported_subgroups(given)
    assert list(found) == ["kernel", "sex"]
    assert {group.slices.name for group in found["sex"]} == {"F", "M"}
    assert all(group.studies is not None for group in found["sex"])
    page = tmp_path / "report.html"
    assert ichx("report", "1", "--out", page, cwd=trained_root).code == 0
    text = page.read_text(encoding="utf-8")
    assert 'id="by-pixels"' in text  # the phantom's headers name no scanner
    assert 'id="by-kernel"' not in text
