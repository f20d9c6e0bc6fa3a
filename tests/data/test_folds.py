"""Patient-grouped, stratified folds."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ichx.data.folds import assign_folds, fold_digest, fold_prevalences, rare_labels
from ichx.errors import IchxError
from ichx.labels import LABELS


def cohort(patients: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return slice ids, patients and labels of a cohort whose patients bleed all over or not at all."""
    random = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients), random.integers(2, 40, patients))
    bleeds = random.random((patients, 5)) < [0.02, 0.15, 0.1, 0.15, 0.2]
    labels = (bleeds[owner] & (random.random((len(owner), 1)) < 0.6)).astype(np.float32)
    labels = np.column_stack([labels, labels.max(axis=1)])
    ids = np.array([f"ID_{i:06x}" for i in random.permutation(len(owner))], object)
    return ids, np.array([f"p{i}" for i in owner], object), labels


@settings(max_examples=40, deadline=None)
@given(patients=st.integers(2, 40), k=st.integers(2, 7), seed=st.integers(0, 99), data=st.data())
def test_patients_stay_together_and_nothing_but_content_counts(patients, k, seed, data) -> None:
    ids, owner, labels = cohort(patients, seed)
    if patients < k:
        with pytest.raises(IchxError, match="cannot be divided"):
            assign_folds(ids, owner, labels, k)
        return
    folds = assign_folds(ids, owner, labels, k, seed)
    assert pd.Series(folds).groupby(owner).nunique().max() == 1
    assert sorted(set(folds)) == list(range(k))
    order = np.array(data.draw(st.permutations(range(len(ids)))))
    renamed = np.array([f"hash{hash((seed, p))}" for p in owner], object)
    assert (assign_folds(ids[order], renamed[order], labels[order], k, seed) == folds[order]).all()


def test_every_label_is_shared_evenly() -> None:
    ids, owner, labels = cohort(1500)
    folds = assign_folds(ids, owner, labels, 5)
    whole = labels.mean(axis=0)
    deviation = np.abs(fold_prevalences(labels, folds, 5) / whole - 1)
    assert deviation.max() < 0.02
    assert np.abs(np.bincount(folds) / (len(ids) / 5) - 1).max() < 0.01
    at_random = np.random.default_rng(0).integers(0, 5, 1500)[[int(p[1:]) for p in owner]].astype(np.int16)
    assert deviation.max() < np.abs(fold_prevalences(labels, at_random, 5) / whole - 1).max() / 5


def test_the_seed_counts() -> None:
    ids, owner, labels = cohort(60)
    assert (assign_folds(ids, owner, labels, 5, 1) == assign_folds(ids, owner, labels, 5, 1)).all()
    assert (assign_folds(ids, owner, labels, 5, 1) != assign_folds(ids, owner, labels, 5, 2)).any()


def test_real_patients(shared_data) -> None:
    table = pd.read_csv(shared_data / "metadata/slices_78545.csv.gz", dtype={"PatientID": str})
    ids, owner = (table[name].to_numpy(object) for name in ("SOPInstanceUID", "PatientID"))
    labels = table[list(LABELS)].to_numpy(np.float32)
    folds = assign_folds(ids, owner, labels, 5)
    deviation = np.abs(fold_prevalences(labels, folds, 5) / labels.mean(axis=0) - 1).max(axis=0)
    assert deviation[1:].max() < 0.01  # the common labels
    assert deviation[0] < 0.03  # epidural: a few dozen patients


def test_impossible_numbers_of_folds_say_what_to_do() -> None:
    ids, owner, labels = cohort(3)
    with pytest.raises(IchxError, match="3 patients cannot be divided into 5 folds") as caught:
        assign_folds(ids, owner, labels, 5)
    assert "2 more patients" in caught.value.remedy
    with pytest.raises(IchxError, match="1 fold cannot"):
        assign_folds(ids, owner, labels, 1)


def test_rare_labels_are_counted_by_patient() -> None:
    owner = np.array(["a", "a", "b", "c"], object)
    labels = np.zeros((4, 6), np.float32)
    labels[:2, 0] = 1
    labels[:, 5] = 1
    assert rare_labels(owner, labels, 3) == dict.fromkeys(LABELS[1:5], 0) | {"epidural": 1}


def test_prevalence_of_an_empty_fold_is_unknown() -> None:
    shares = fold_prevalences(np.ones((2, 6), np.float32), np.array([0, 0], np.int16), 2)
    assert (shares[0] == 1).all()
    assert np.isnan(shares[1]).all()


def test_the_digest_follows_the_assignment_alone() -> None:
    ids, folds = np.array(["b", "a", "c"], object), np.array([0, 1, 1], np.int16)
    assert fold_digest(ids, folds) == fold_digest(ids[::-1], folds[::-1])
    assert fold_digest(ids, folds) != fold_digest(ids, folds[::-1])
    assert len(fold_digest(ids, folds)) == 16
