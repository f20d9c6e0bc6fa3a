"""Subsets of patients are stratified and reproducible."""

import numpy as np
import pandas as pd
import pytest

from ichx.datasets.patient_subset import EXCLUDED, subset_folds
from ichx.errors import InvalidInputError
from ichx.labels import LABELS


def cohort(patients: int = 400, folds: int = 4) -> tuple[pd.DataFrame, "np.ndarray[tuple[int], np.dtype[np.int16]]"]:
    """Return slices of patients, a third of whom have bleeds, and their folds."""
    rng = np.random.default_rng(5)
    rows, assigned = [], []
    for patient in range(patients):
        bleeds = rng.random() < 1 / 3
        for number in range(int(rng.integers(5, 12))):
            positive = bleeds and number % 2 == 0
            rows.append((f"ID_{rng.integers(1 << 40):x}", f"p{patient}", *([float(positive)] * len(LABELS))))
            assigned.append(patient % folds)
    return pd.DataFrame(rows, columns=["slice_id", "patient", *LABELS]), np.array(assigned, np.int16)


def test_subset_has_a_share_of_each_fold_with_its_prevalences() -> None:
    slices, folds = cohort()
    found = subset_folds(slices, folds, 0.25)
    included = found != EXCLUDED
    assert np.array_equal(found[included], folds[included])
    for fold in range(4):
        assert slices["patient"][found == fold].nunique() == 25
        prevalence = slices[folds == fold].groupby("patient")["any"].max().mean()
        assert slices[found == fold].groupby("patient")["any"].max().mean() == pytest.approx(prevalence, abs=0.03)
    for patient in slices["patient"].unique():
        assert len(set(found[slices["patient"] == patient])) == 1


def test_subset_depends_on_the_seed_but_not_on_order_or_names() -> None:
    slices, folds = cohort()
    found = subset_folds(slices, folds, 0.1)
    order = np.random.default_rng(1).permutation(len(slices))
    renamed = slices.assign(patient=[f"x{hash(p) % 10**9}" for p in slices["patient"]])
    assert np.array_equal(subset_folds(renamed.iloc[order], folds[order], 0.1), found[order])
    assert not np.array_equal(subset_folds(slices, folds, 0.1, seed=1), found)
    assert np.array_equal(subset_folds(slices, folds, 1.0), folds)


def test_share_without_patients_is_rejected() -> None:
    slices, folds = cohort(patients=8)
    with pytest.raises(InvalidInputError, match=r"0\.01 .* 2 patients of fold 0"):
        subset_folds(slices, folds, 0.01)


def test_rare_label_has_its_share_in_every_fold() -> None:
    rng = np.random.default_rng(3)
    rare = dict(zip(LABELS, (0.03, 0.22, 0.16, 0.18, 0.2, 0.0), strict=True))
    labels = {name: (rng.random(3000) < share).astype(float) for name, share in rare.items()}
    labels["any"] = np.max(list(labels.values()), axis=0)
    slices = pd.DataFrame({"slice_id": [f"s{i}" for i in range(3000)], "patient": [f"p{i}" for i in range(3000)]})
    slices = slices.assign(**labels)
    folds = (np.arange(3000) % 5).astype(np.int16)
    for share in (0.1, 0.25):
        found = subset_folds(slices, folds, share)
        for fold in range(5):
            wanted = share * labels["epidural"][folds == fold].sum()
            assert abs(labels["epidural"][found == fold].sum() - wanted) <= 1
            for name in LABELS[1:]:
                wanted = share * labels[name][folds == fold].mean() * 600
                assert labels[name][found == fold].sum() == pytest.approx(wanted, abs=5)
