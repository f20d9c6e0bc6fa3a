"""A real network's predictions of real slices: scores equal scikit-learn's, and patients widen the intervals."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

from ichx.datasets.label_csv import read_labels
from ichx.evaluation.bootstrap import patient_bootstrap
from ichx.evaluation.metric import CLIP
from ichx.evaluation.scores import slice_scores, study_scores
from ichx.labels import LABEL_WEIGHTS, LABELS


@pytest.fixture(scope="module")
def real(shared_data: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return labels and probabilities by image, in the same order."""
    predicted = pd.read_csv(shared_data / "predictions" / "resnet50_holdout.csv.gz").set_index("Image")[list(LABELS)]
    table = read_labels(shared_data / "labels" / "stage_2_train.csv.gz")
    return pd.DataFrame(table.values, index=table.ids, columns=list(LABELS)).loc[predicted.index], predicted


def test_scores_equal_those_of_scikit_learn(real: tuple[pd.DataFrame, pd.DataFrame]) -> None:
    labels, predicted = (table.to_numpy(np.float64) for table in real)
    found = slice_scores(labels, predicted)
    assert found.count == 75_281
    losses = [log_loss(labels[:, k], np.clip(predicted[:, k], CLIP, 1 - CLIP)) for k in range(6)]
    assert found.log_loss == pytest.approx(np.average(losses, weights=LABEL_WEIGHTS), rel=1e-12)
    for k, of_label in enumerate(found.labels):
        assert of_label.log_loss == pytest.approx(losses[k], rel=1e-12)
        assert of_label.auc == pytest.approx(roc_auc_score(labels[:, k], predicted[:, k]), rel=1e-12)
        assert of_label.average_precision == pytest.approx(
            average_precision_score(labels[:, k], predicted[:, k]), rel=1e-12
        )


def test_intervals_over_patients_are_wider(real: tuple[pd.DataFrame, pd.DataFrame], shared_data: Path) -> None:
    known = pd.read_csv(shared_data / "metadata" / "slices_78545.csv.gz").set_index("SOPInstanceUID")
    images = real[1].index.intersection(known.index)
    assert len(images) == 7_856
    labels, predicted = (table.loc[images].to_numpy(np.float64) for table in real)
    patients = known.loc[images, "PatientID"].to_numpy(object)
    by_patient = patient_bootstrap(labels, predicted, patients)
    by_slice = patient_bootstrap(labels, predicted, np.arange(len(images)))
    assert by_patient.log_loss.standard_error > by_slice.log_loss.standard_error
    for label in LABELS:
        for metric in ("log_loss", "auc"):
            one, other = by_patient.labels[label][metric], by_slice.labels[label][metric]
            assert one.value == other.value
            assert one.low < one.value < one.high
    assert by_patient.labels["any"]["auc"].standard_error > by_slice.labels["any"]["auc"].standard_error
    studies = study_scores(labels, predicted, known.loc[images, "StudyInstanceUID"].to_numpy(object))
    assert studies.count == known.loc[images, "StudyInstanceUID"].nunique()
