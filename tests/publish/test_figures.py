"""Figures of papers: their files, their numbers, and what is drawn."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import Program

from ichx.evaluation.subject import Subject
from ichx.labels import LABELS
from ichx.phantom.dicom_files import write_phantom
from ichx.project import Project
from ichx.publish import figure_data, figure_drawing
from ichx.publish.example_slices import example_slices
from ichx.publish.figure_style import paper_style, series_colours
from ichx.publish.figures import write_csv
from ichx.publish.subject import PublishedPredictions, oof_subject

LABEL = "intraparenchymal"
"""A label that some but not all studies of the workspace have."""
CURVES = ("roc", "precision-recall", "reliability", "decision-curve")


@pytest.fixture
def published(project: Project, monkeypatch: pytest.MonkeyPatch) -> PublishedPredictions:
    """Return OOF predictions with intervals, although there are few patients."""
    for module in ("bootstrap", "patient_sums", "reliability"):
        for name in ("MIN_PATIENTS", "MIN_IN_CLASS"):
            if hasattr(__import__(f"ichx.evaluation.{module}", fromlist=[name]), name):
                monkeypatch.setattr(f"ichx.evaluation.{module}.{name}", 1)
    return oof_subject(project, Subject(2))


@pytest.mark.slow
def test_the_files_of_a_paper(ichx: Program, trained_copy: Path, tmp_path: Path) -> None:
    arguments = ("figures", 2, "--label", LABEL, "--by", "pixels")
    done = ichx(*arguments, "--out", tmp_path / "a", "--json", cwd=trained_copy)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    names = [*CURVES, *(f"{name}-labels" for name in CURVES), "subgroups", "slices"]
    assert {Path(file).name for file in found["files"]} == {f"{n}.{suffix}" for n in names for suffix in ("pdf", "csv")}
    for name in names:
        content = (tmp_path / "a" / f"{name}.pdf").read_bytes()
        width = float(re.search(rb"/MediaBox \[ 0 0 ([\d.]+) ", content)[1]) / 72 * 25.4  # type: ignore[index]
        assert width == pytest.approx(89 if name in CURVES else 183, abs=0.01), name
        assert b"/FontFile2" in content, "an embedded TrueType font"
        assert b"/Type3" not in content
        assert b"CreationDate" not in content
    again = ichx(*arguments, "--out", tmp_path / "b", cwd=trained_copy)
    assert again.code == 0, again.err
    for file in sorted((tmp_path / "a").iterdir()):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), "the same results give the same files"


@pytest.mark.slow
@pytest.mark.parametrize("format", ["svg", "png"])
def test_other_formats_are_the_same_each_time(ichx: Program, trained_root: Path, tmp_path: Path, format: str) -> None:
    for folder in ("a", "b"):
        done = ichx("figures", 2, "--out", tmp_path / folder, "--format", format, "--label", LABEL, cwd=trained_root)
        assert done.code == 0, done.err
    files = sorted((tmp_path / "a").glob(f"*.{format}"))
    assert len(files) == 10
    for file in files:
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


def drawn(table: pd.DataFrame, kind: figure_drawing.CurveKind) -> Any:
    with paper_style():
        return figure_drawing.curve_figure(table, kind, [LABEL]).axes[0]


@pytest.mark.slow
def test_what_is_drawn_is_in_the_csv(published: PublishedPredictions, tmp_path: Path) -> None:
    roc = figure_data.roc_table(published, LABELS, "study")
    saved = pd.read_csv(write_csv(tmp_path / "roc.csv", roc))
    of_label = saved[saved["label"] == LABEL]
    curve, band = (of_label[of_label["series"] == series] for series in ("curve", "band"))
    axes = drawn(roc, figure_drawing.ROC)
    line = axes.lines[-1]
    np.testing.assert_allclose(line.get_xdata(), curve["x"], atol=1e-9)
    np.testing.assert_allclose(line.get_ydata(), curve["y"], atol=1e-9)
    assert line.get_color() == series_colours()[LABELS.index(LABEL)]
    vertices = {tuple(np.round(v, 9)) for v in axes.collections[0].get_paths()[0].vertices}
    for ends in ("low", "high"):
        assert {tuple(np.round(v, 9)) for v in zip(band["x"], band[ends], strict=True)} <= vertices
    assert f"AUC {of_label[of_label['series'] == 'area']['y'].iloc[0]:.3f}" in axes.texts[0].get_text()

    decision = figure_data.decision_table(published, LABELS, "study")
    saved = pd.read_csv(write_csv(tmp_path / "decision.csv", decision)).query("label == @LABEL")
    model, everyone = saved[saved["series"] == "model"], saved[saved["series"] == "all"]
    lines = {line.get_label(): line for line in drawn(decision, figure_drawing.DECISION).lines}
    np.testing.assert_allclose(lines["model"].get_ydata(), model["y"], atol=1e-9)
    np.testing.assert_allclose(lines["act on all"].get_ydata(), everyone["y"], atol=1e-9)

    bins = figure_data.reliability_table(published, LABELS, "study")
    saved = pd.read_csv(write_csv(tmp_path / "bins.csv", bins)).query("label == @LABEL")
    np.testing.assert_allclose(drawn(bins, figure_drawing.RELIABILITY).lines[-1].get_ydata(), saved["y"], atol=1e-9)


@pytest.mark.slow
def test_the_area_is_that_of_the_scores(published: PublishedPredictions, project: Project) -> None:
    from ichx.evaluation.scorecard import scorecard

    card = scorecard(project, 2)
    for table, metric in (
        (figure_data.roc_table(published, [LABEL], "study"), "auc"),
        (figure_data.precision_recall_table(published, [LABEL], "study"), "average_precision"),
    ):
        area = table[table["series"] == "area"].iloc[0]
        expected = card.studies.labels[LABEL][metric]
        assert (area["y"], area["low"], area["high"]) == pytest.approx((expected.value, expected.low, expected.high))


@pytest.mark.slow
def test_a_forest_has_a_row_per_group_and_all_rows_first(published: PublishedPredictions) -> None:
    table, _ = figure_data.subgroup_table(published, ["pixels"], LABEL, "slice")
    assert table["group"].iloc[0] == "all"
    assert table["rows"].iloc[1:].sum() == table["rows"].iloc[0] == len(published.table.slice_ids)
    with paper_style():
        axes = figure_drawing.forest_figure(table, LABEL, "slice").axes[0]
    assert len(axes.get_yticks()) == len(table)
    points = [line.get_xdata()[0] for line in axes.lines if line.get_marker() in ("o", "s")]
    np.testing.assert_allclose(points, table["auc"].dropna())


def test_the_texts_of_a_forest_do_not_overlap() -> None:
    row = {"field": "", "group": "all", "auc": 0.9, "low": 0.8, "high": 0.95, "positives": 63_000, "rows": 130_000}
    for unit in ("slice", "study"):
        with paper_style():
            figure = figure_drawing.forest_figure(pd.DataFrame([row]), LABEL, unit)
            figure.canvas.draw()
            boxes = [text.get_window_extent() for text in figure.axes[1].texts]
            assert max(box.x1 for box in boxes) <= figure.bbox.x1
        assert len(boxes) == 4
        assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_colours_are_those_of_reports() -> None:
    css = (Path(figure_data.__file__).parents[1] / "report" / "page.css").read_text()
    colours = series_colours()
    assert len(colours) == 10
    assert all(f"--series-{number}: {colour}" in css.partition("@media")[0] for number, colour in enumerate(colours))


@pytest.mark.slow
def test_no_lines_are_told_apart_by_colour_alone(published: PublishedPredictions) -> None:
    for table_of, kind in (
        (figure_data.roc_table, figure_drawing.ROC),
        (figure_data.precision_recall_table, figure_drawing.PRECISION_RECALL),
        (figure_data.reliability_table, figure_drawing.RELIABILITY),
        (figure_data.decision_table, figure_drawing.DECISION),
    ):
        table = table_of(published, LABELS, "slice")
        with paper_style():
            figure = figure_drawing.curve_figure(table, kind, LABELS)
        panels = [axes for axes in figure.axes if axes.axison]
        assert [axes.get_title(loc="left") for axes in panels] == list(dict.fromkeys(table["label"]))
        for axes in panels:
            styles = [(str(line._unscaled_dash_pattern), line.get_marker()) for line in axes.lines]
            assert len(set(styles)) == len(styles)


@pytest.mark.slow
def test_unknown_names_are_reported(ichx: Program, trained_root: Path, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "f", "--json")
    ichx("figures", 9, *out, cwd=trained_root).check_error("not_found", "9")
    ichx("figures", 2, "--dataset", "absent", *out, cwd=trained_root).check_error("not_found", "absent")
    ichx("figures", 2, "--by", "height", *out, cwd=trained_root).check_error("invalid_input", "height")
    assert not (tmp_path / "f").exists()


@pytest.mark.slow
def test_slices_with_an_unknown_label_are_no_examples(published: PublishedPredictions, project: Project) -> None:
    before = example_slices(project, published, LABEL)
    assert before.table["truth"].tolist() == sorted(before.table["truth"], reverse=True)
    labels = published.table.labels.copy()
    labels[:, LABELS.index(LABEL)] = np.nan
    unknown = replace(published, table=replace(published.table, labels=labels))
    found = example_slices(project, unknown, LABEL)
    assert (len(found.table), found.images) == (0, ())
    assert LABEL in found.notes[0]


@pytest.mark.slow
def test_an_ensemble_and_another_dataset(ichx: Program, trained_copy: Path, tmp_path: Path) -> None:
    assert ichx("ensemble", "--members", "1,2", "--method", "mean", cwd=trained_copy).code == 0
    files = write_phantom(tmp_path / "other", patients=4, seed=5, size=64, prevalence={"any": 0.5})
    added = ichx("data", "add", "ours", files.train, "--labels", files.train_labels, "--folds", 0, cwd=trained_copy)
    assert added.code == 0, added.err
    done = ichx("figures", "--ensemble", 1, "--dataset", "ours", "--out", tmp_path / "f", "--json", cwd=trained_copy)
    assert done.code == 0, done.err
    assert json.loads(done.out)["source"] == "on ours version 1, an external dataset"
    roc = pd.read_csv(tmp_path / "f" / "roc-labels.csv")
    scores = json.loads(ichx("evaluate", "--ensemble", 1, "--dataset", "ours", "--json", cwd=trained_copy).out)
    areas = roc[roc["series"] == "area"]
    assert len(areas) > 0
    for label, area in zip(areas["label"], areas["y"], strict=True):
        assert area == pytest.approx(scores["studies"]["labels"][label]["auc"]["value"]), label
    assert "2 evaluations of 1 different prediction" in ichx("data", "show", "ours", cwd=trained_copy).out
