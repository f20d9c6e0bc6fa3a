"""Pages of evaluations and of predicted files: values, figures, and what is missing."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from dicom_files import write_ct
from report_pages import Page, parse

from ichx.datasets.add import AddRequest, add_dataset
from ichx.evaluation.operating_points import apply_thresholds, choose_threshold
from ichx.evaluation.subject import Subject
from ichx.evaluation.threshold_choice import ThresholdRequest
from ichx.evaluation.threshold_file import remove_threshold
from ichx.experiments.callbacks import RunCallbacks
from ichx.inference.evaluate import EvaluatedSlices, Evaluation, evaluate_slices
from ichx.inference.predict import FilePredictions, predict_files
from ichx.inference.ready_model import ready_experiment
from ichx.inference.trained import InferenceOptions
from ichx.labels import ANY, LABELS
from ichx.phantom.dicom_files import PhantomFiles, write_phantom
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.report.inference_pages import render_evaluation, render_predictions
from ichx.store import open_store
from ichx.workspace import open_workspace

pytestmark = pytest.mark.slow

OPTIONS = InferenceOptions(folds=[1], device="cpu")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> PhantomFiles:
    """Return 6 labelled patients that no experiment was trained on."""
    folder = tmp_path_factory.mktemp("other") / "files"
    return write_phantom(folder, patients=6, seed=2, size=64, prevalence={"any": 0.5})


@pytest.fixture(scope="module")
def project(trained_root: Path, other: PhantomFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    root = Path(shutil.copytree(trained_root, tmp_path_factory.mktemp("pages") / "workspace"))
    workspace = open_workspace(root)
    with open_store(workspace) as store:
        opened = Project(workspace, store, load_registry())
        add_dataset(opened, AddRequest("other", other.train, labels=other.train_labels, folds=2))
        yield opened


@pytest.fixture(scope="module")
def evaluated(project: Project) -> tuple[Evaluation, EvaluatedSlices]:
    model = ready_experiment(project, 2, OPTIONS, print)
    return evaluate_slices(project, model, "other", callbacks=RunCallbacks())


def shares(*values: float | None) -> list[str]:
    return ["–" if value is None else f"{value:.3f}" for value in values]


def test_an_evaluation_has_scores_curves_thresholds_and_slices(
    project: Project, evaluated: tuple[Evaluation, EvaluatedSlices]
) -> None:
    evaluation, slices = evaluated
    html, page = parse(render_evaluation(project, evaluation, slices))
    assert "http" not in html.replace("http-equiv", "").replace("http://www.w3.org", "")
    assert f"{evaluation.slices.scores.log_loss:.5f}" in page.text
    for unit in ("slice", "study"):
        found = page.tables[f"{unit}-thresholds"][1:]
        rows = []
        for label, points in evaluation.thresholds[unit].items():
            for p in points:
                threshold = "none" if p.threshold is None else f"{p.threshold:.4g}"
                values = shares(p.sensitivity, p.specificity, p.positive_predictive_value, p.negative_predictive_value)
                rows.append([label, p.rule, threshold, *values])
            if not points:
                rows.append([label, "undefined: only one class is known"])
        assert found == rows
    for name, found in (("label-scores", evaluation.slices), ("study-scores", evaluation.studies)):
        auc = {row[0]: row[2] for row in page.tables[name][1:]}
        for score in found.scores.labels:
            assert (f"{score.auc:.4f}" if score.auc is not None else "undefined") in auc[score.label]
    for name, found in (("slice-rates", evaluation.slices), ("study-rates", evaluation.studies)):
        for row, score in zip(page.tables[name][2:], found.scores.labels, strict=True):
            values = (score.sensitivity_80, score.sensitivity_90, score.sensitivity_95)
            values += (score.specificity_90, score.specificity_95)
            expected = shares(*values) if score.undefined is None else [f"undefined: {score.undefined}"]
            assert row == [score.label, *expected]
    assert f"{len(slices.slices)} slices of 6 studies of 6 patients. Lower is better." in page.text
    assert "Its probability is the maximum over its slices." in page.text
    for name in ("roc", "pr", "reliability", "study-roc", "decision", "strip"):
        assert f'id="{name}"' in html
    ids = slices.slices["slice_id"].tolist()
    assert sum(f"<code>{slice_id}</code>" in html for slice_id in ids) >= 6
    assert html.count('data-heat="any"') > 6


def test_stored_thresholds_are_applied_unchanged(
    project: Project, evaluated: tuple[Evaluation, EvaluatedSlices]
) -> None:
    evaluation, slices = evaluated
    subject = Subject(evaluation.experiment)
    request = ThresholdRequest("subdural", "specificity", 0.8, "slice", evaluation.tta)  # type: ignore[arg-type]
    chosen, _ = choose_threshold(project, subject, request, draws=5)
    try:
        _, page = parse(render_evaluation(project, evaluation, slices))
    finally:
        remove_threshold(project, subject, "subdural", "slice", request.tta)
    (row,) = page.tables["stored-thresholds"][1:]
    (applied,) = apply_thresholds([chosen], slices.called)
    assert row[:4] == ["subdural", "slice", "specificity 0.8", f"{chosen.threshold:.4g}"]
    sensitivity, alarms = applied.calls.sensitivity.value, applied.calls.alarms.value
    assert row[4].startswith("-" if sensitivity is None else f"{sensitivity:.3f}")
    assert alarms is not None
    assert row[8].startswith(f"{alarms:.1f}")
    assert "stored-thresholds" not in parse(render_evaluation(project, evaluation, slices))[1].tables


@pytest.mark.parametrize(
    ("pooling", "rule"),
    [("noisy_or", "1 - prod(1 - p) over its slices"), ("learnt", "the one that the sequence network predicts for it")],
)
def test_the_rule_of_the_studies_is_stated(
    project: Project, evaluated: tuple[Evaluation, EvaluatedSlices], pooling: str, rule: str
) -> None:
    evaluation, slices = evaluated
    scores = replace(evaluation.studies.scores, pooling=pooling)
    evaluation = replace(evaluation, studies=replace(evaluation.studies, scores=scores))
    slices = replace(slices, study_probabilities=slices.probabilities)
    _, page = parse(render_evaluation(project, evaluation, slices))
    assert f"Its probability is {rule}." in page.text


def test_an_evaluation_without_files_has_no_slices(
    project: Project, evaluated: tuple[Evaluation, EvaluatedSlices], other: PhantomFiles
) -> None:
    shutil.rmtree(project.workspace.cache_dir)
    hidden = other.train.rename(other.train.with_name("hidden"))
    try:
        html, _ = parse(render_evaluation(project, *evaluated))
    finally:
        hidden.rename(other.train)
    assert str(other.train) in html
    assert 'id="slice-thresholds"' in html
    assert 'id="worst"' not in html


@pytest.fixture(scope="module")
def predicted(project: Project, phantom: PhantomFiles, tmp_path_factory: pytest.TempPathFactory) -> FilePredictions:
    folder = tmp_path_factory.mktemp("new") / "files"
    assert phantom.test is not None
    shutil.copytree(phantom.test, folder)
    write_ct(folder / "mr.dcm", Modality="MR", StudyInstanceUID="<b>other</b>")
    return predict_files(project, ready_experiment(project, 2, OPTIONS, print), folder, callbacks=RunCallbacks())


def series_rows(page: Page) -> dict[str, list[str]]:
    return {row[1]: row for row in page.tables["series-table"][1:]}


def test_predicted_files_have_series_slices_and_curves(project: Project, predicted: FilePredictions) -> None:
    html, page = parse(render_predictions(project, predicted))
    rows = series_rows(page)
    assert len(rows) == len(predicted.series) >= 3
    for one in predicted.series.to_dict("records"):
        row = rows[one["series"]]
        assert row[:4] == [one["study"], one["series"], str(one["slices"]), str(one["left_out"])]
        if one["slices"] > one["left_out"]:
            assert row[4:10] == shares(*(one[label] for label in LABELS))
            assert row[10] == one["suspicious_slice_id"]
    order = [rows[one][9] for one in rows if rows[one][9] != "–"]
    assert order == sorted(order, reverse=True)
    assert "not_ct 1" in page.text
    patients = predicted.catalog["patient"].nunique()
    assert f"{predicted.predicted} slices of {len(predicted.studies)} studies of {patients} patients" in page.text
    assert html.count('<text class="side"') == 8 * html.count('<article class="card"') > 0
    sizes = predicted.catalog.groupby("series").size()
    assert {int(count) for count in re.findall(r"slice \d+ of (\d+), [\d.]+ of [\d.]+ mm", html)} <= set(sizes)
    best = predicted.series.sort_values(ANY, ascending=False)["suspicious_slice_id"].iloc[0]
    assert html.index(f"<code>{best}</code>", html.index('id="top"')) > 0
    drawings = [name for name in page.ids if re.fullmatch(r"head-\d+", name)]
    assert len(drawings) == predicted.series[ANY].notna().sum()


def test_predicted_files_that_are_gone_have_no_slices(project: Project, predicted: FilePredictions) -> None:
    shutil.move(predicted.source, predicted.source.with_name("gone"))
    html, page = parse(render_predictions(project, predicted))
    assert str(predicted.source) in html
    assert len(series_rows(page)) == len(predicted.series)
    assert 'id="top"' not in html
