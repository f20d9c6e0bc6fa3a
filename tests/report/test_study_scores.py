"""Scores of studies, sensitivities and specificities in a report, recomputed with scikit-learn and loops."""

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from report_pages import COMPLETE, Page, parse, train
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score, roc_curve

from ichx.evaluation.metric import CLIP
from ichx.evaluation.oof import OofTable
from ichx.evaluation.patient_sums import DRAWS, draw_weights
from ichx.labels import LABELS
from ichx.project import Project
from ichx.report.build import render
from ichx.report.collect import ReportData, collect_experiment, oof_results
from ichx.store import open_store
from ichx.workspace import Workspace

SPECIFICITIES, SENSITIVITIES = (0.80, 0.90, 0.95), (0.90, 0.95)
ABSENT = "epidural"
ANY = LABELS.index("any")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return train(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def data(trained: Workspace) -> Iterator[ReportData]:
    with open_store(trained) as store:
        yield collect_experiment(Project(trained, store), COMPLETE)


def table(patients: int, *, seed: int = 0, positive: float = 0.3) -> OofTable:
    """Return predictions with many ties: patients with one to three studies of three to six slices."""
    rng = np.random.default_rng(seed)
    who, study = [], []
    for patient in range(patients):
        for number in range(rng.integers(1, 4)):
            size = rng.integers(3, 7)
            who += [f"p{patient}"] * size
            study += [f"p{patient}-{number}"] * size
    n = len(who)
    labels = (rng.random((n, 6)) < positive * (rng.random((n, 1)) < 0.5)).astype(float)
    labels[:, LABELS.index(ABSENT)] = 0
    labels[:, ANY] = labels[:, :ANY].max(axis=1)
    predicted = np.clip(np.round(0.35 * labels + 0.65 * rng.random((n, 6)), 1), 0.05, 0.95)
    order = rng.permutation(n)  # the slices of a study need not follow each other
    ids = np.array([f"s{i}" for i in range(n)], object)
    return OofTable(
        slice_ids=ids,
        folds=np.zeros(n, np.int16),
        labels=labels[order],
        probabilities=predicted[order],
        left_out=0,
        patients=np.array(who, object)[order],
        studies=np.array(study, object)[order],
    )


def html_of(data: ReportData, oof: OofTable) -> tuple[str, Page]:
    return parse(render(replace(data, results=oof_results(oof))))


def row_of(html: str, table: str, label: str) -> str:
    """Return the HTML of a row."""
    return html[html.index(f'id="{table}"') :].split(f'<tr data-row="{label}">')[1].split("</tr>")[0]


def rates(truth: np.ndarray, predicted: np.ndarray) -> list[float]:
    """Return sensitivities at the specificities and specificities at the sensitivities."""
    false_positive_rate, sensitivity, _ = roc_curve(truth, predicted, drop_intermediate=False)
    negatives = int((1 - truth).sum())
    specificity = (negatives - np.round(false_positive_rate * negatives)) / negatives
    at_specificities = [sensitivity[specificity >= s].max() for s in SPECIFICITIES]
    return [*at_specificities, *(specificity[sensitivity >= s].max() for s in SENSITIVITIES)]


def pooled(oof: OofTable) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return labels, probabilities and patients of the studies, in the order of their first slices."""
    names = list(dict.fromkeys(oof.studies))
    rows = [oof.studies == name for name in names]
    labels, predicted = (np.array([values[r].max(axis=0) for r in rows]) for values in (oof.labels, oof.probabilities))
    return labels, predicted, [oof.patients[r][0] for r in rows]


@pytest.mark.parametrize("seed", [0, 1])
def test_values_are_those_of_scikit_learn(data: ReportData, seed: int) -> None:
    oof = table(30, seed=seed)
    _, page = html_of(data, oof)
    studies = pooled(oof)
    text = " ".join(page.text.split())
    assert f"pooled over {len(oof.labels)} slices of {len(studies[0])} studies of 30 patients." in text
    assert f"{len(studies[0])} studies of 30 patients: weighted log loss" in text
    assert "Its probability is the maximum over its slices." in text
    for (labels, predicted), scores_id, rates_id in (
        ((oof.labels, oof.probabilities), "label-scores", "slice-rates"),
        (studies[:2], "study-scores", "study-rates"),
    ):
        scores = {row[0]: row[1:] for row in page.tables[scores_id][1:]}
        shown = {row[0]: row[1:] for row in page.tables[rates_id][2:]}
        assert list(scores) == list(shown) == list(LABELS)
        for k, label in enumerate(LABELS):
            y, p = labels[:, k], predicted[:, k]
            loss = log_loss(y, np.clip(p, CLIP, 1 - CLIP), labels=[0, 1])
            assert scores[label][0].startswith(f"{loss:.5f}")
            assert scores[label][-4:-2] == [str(int(y.sum())), f"{100 * y.mean():.2f} %"]
            if label == ABSENT:
                assert scores[label][1:3] == ["undefined: the label never occurs", "undefined"]
                assert shown[label] == ["undefined: the label never occurs"]
                continue
            assert scores[label][1].startswith(f"{roc_auc_score(y, p):.4f}")
            assert scores[label][2].startswith(f"{average_precision_score(y, p):.4f}")
            assert [value[:5] for value in shown[label]] == [f"{value:.3f}" for value in rates(y, p)]


def test_intervals_are_those_of_repeated_patients(data: ReportData) -> None:
    """Each patient counts with all its studies as often as it was drawn; the threshold is chosen in each draw."""
    oof, k = table(40), LABELS.index("subdural")
    labels, predicted, patients = pooled(oof)
    names = list(dict.fromkeys(patients))
    code = np.array([names.index(patient) for patient in patients])
    drawn = []
    for weights in draw_weights(len(names), DRAWS, 0):
        for column in weights.T:
            rows = np.repeat(np.arange(len(code)), column[code].astype(int))
            drawn.append(rates(labels[rows, k], predicted[rows, k]))
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    html, _ = html_of(data, oof)
    row = row_of(html, "study-rates", "subdural")
    bounds = re.findall(r'<small class="bound">([^<]+)</small>', row)
    assert bounds == [f"{a:.3f} to {b:.3f}" for a, b in zip(low, high, strict=True)]


def test_too_few_patients_have_values_without_intervals(data: ReportData) -> None:
    oof = table(1, seed=3, positive=0.9)
    html, page = html_of(data, oof)
    assert "of 1 patient." in " ".join(page.text.split())
    shown = page.tables["slice-rates"][-1]
    assert shown == ["any", *(f"{value:.3f}" for value in rates(oof.labels[:, ANY], oof.probabilities[:, ANY]))]
    assert "<small" not in row_of(html, "slice-rates", "any")
    assert row_of(html, "label-scores", "any").count("no interval from 1 patient<") == 3


@pytest.mark.parametrize(("value", "reason"), [(0.0, "the label never occurs"), (1.0, "the label always occurs")])
def test_one_class_only_is_undefined(data: ReportData, value: float, reason: str) -> None:
    oof = table(25)
    _, page = html_of(data, replace(oof, labels=np.full_like(oof.labels, value)))
    for name in ("slice-rates", "study-rates"):
        assert page.tables[name][2:] == [[label, f"undefined: {reason}"] for label in LABELS]
    for name in ("label-scores", "study-scores"):
        assert {row[2] for row in page.tables[name][1:]} == {f"undefined: {reason}"}
