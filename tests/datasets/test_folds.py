"""Patient-grouped, stratified folds."""

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ichx.datasets.folds import assign_folds, find_leaks, fold_digest, fold_prevalences, rare_labels
from ichx.errors import InvalidInputError
from ichx.labels import LABELS


def cohort(patients: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return slice ids, patients and labels; a patient has bleeds in many slices or in none."""
    random = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients), random.integers(2, 40, patients))
    bleeds = random.random((patients, 5)) < [0.02, 0.15, 0.1, 0.15, 0.2]
    labels = (bleeds[owner] & (random.random((len(owner), 1)) < 0.6)).astype(np.float32)
    labels = np.column_stack([labels, labels.max(axis=1)])
    ids = np.array([f"ID_{i:06x}" for i in random.permutation(len(owner))], object)
    return ids, np.array([f"p{i}" for i in owner], object), labels


@settings(max_examples=40, deadline=None)
@given(patients=st.integers(2, 40), k=st.integers(2, 7), seed=st.integers(0, 99), data=st.data())
def test_folds_keep_patients_together_and_depend_on_content_only(patients, k, seed, data) -> None:
    ids, owner, labels = cohort(patients, seed)
    if patients < k:
        with pytest.raises(InvalidInputError, match=f"{patients} patients.* {k} folds"):
            assign_folds(ids, owner, labels, k)
        return
    folds = assign_folds(ids, owner, labels, k, seed)
    assert pd.Series(folds).groupby(owner).nunique().max() == 1
    assert sorted(set(folds)) == list(range(k))
    order = np.array(data.draw(st.permutations(range(len(ids)))))
    renamed = np.array([f"hash{hash((seed, p))}" for p in owner], object)
    assert (assign_folds(ids[order], renamed[order], labels[order], k, seed) == folds[order]).all()


def test_every_label_is_balanced() -> None:
    ids, owner, labels = cohort(1500)
    folds = assign_folds(ids, owner, labels, 5)
    overall = labels.mean(axis=0)
    deviation = np.abs(fold_prevalences(labels, folds, 5) / overall - 1)
    assert deviation.max() < 0.015
    assert np.abs(np.bincount(folds) / (len(ids) / 5) - 1).max() < 0.01
    random_folds = np.random.default_rng(0).integers(0, 5, 1500)[[int(p[1:]) for p in owner]].astype(np.int16)
    assert deviation.max() < np.abs(fold_prevalences(labels, random_folds, 5) / overall - 1).max() / 5


def test_folds_depend_on_the_seed() -> None:
    ids, owner, labels = cohort(60)
    assert (assign_folds(ids, owner, labels, 5, 1) == assign_folds(ids, owner, labels, 5, 1)).all()
    assert (assign_folds(ids, owner, labels, 5, 1) != assign_folds(ids, owner, labels, 5, 2)).any()


def test_real_patients(shared_data) -> None:
    table = pd.read_csv(shared_data / "metadata/slices_78545.csv.gz", dtype={"PatientID": str})
    ids, owner = (table[name].to_numpy(object) for name in ("SOPInstanceUID", "PatientID"))
    labels = table[list(LABELS)].to_numpy(np.float32)
    folds = assign_folds(ids, owner, labels, 5)
    deviation = np.abs(fold_prevalences(labels, folds, 5) / labels.mean(axis=0) - 1).max(axis=0)
    assert deviation[1:].max() < 0.005  # the common labels
    assert deviation[0] < 0.02  # epidural: a few dozen patients


@pytest.fixture(scope="module")
def real_cohort(shared_data: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the images, patients and labels of the benchmark of folds."""
    file = Path(__file__).parents[2] / "benchmarks" / "cohort.py"
    spec = importlib.util.spec_from_file_location("cohort", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses need it
    spec.loader.exec_module(module)
    found = module.real_cohort(shared_data)
    return found.images, found.patients, found.labels


@pytest.mark.parametrize(("k", "seed"), [(5, 0), (2, 1), (10, 4)])
def test_complete_training_set(real_cohort, k: int, seed: int) -> None:
    """The prevalences of each fold deviate by less than 1 %, that of epidural (0.42 %) too."""
    ids, owner, labels = real_cohort
    assert (len(ids), len(set(ids)), len(set(owner))) == (752_803, 752_803, 18_938)
    folds = assign_folds(ids, owner, labels, k, seed)
    assert np.abs(fold_prevalences(labels, folds, k) / labels.mean(axis=0) - 1).max() < 0.01
    assert np.abs(np.bincount(folds) / (len(ids) / k) - 1).max() < 0.001
    assert find_leaks(ids, owner, folds) == []


def test_patient_with_most_of_the_slices_has_a_separate_fold() -> None:
    """The other patients are balanced over the other folds."""
    ids, owner, labels = cohort(400)
    many = 5 * len(ids)
    flood = np.tile(np.array([0, 1, 0, 0, 0, 1], np.float32), (many, 1))
    all_ids = np.concatenate([ids, np.array([f"ID_z{i}" for i in range(many)], object)])
    all_owners = np.concatenate([owner, np.full(many, "giant", object)])
    folds = assign_folds(all_ids, all_owners, np.concatenate([labels, flood]), 5)
    (giant,) = set(folds[len(ids) :])
    assert find_leaks(all_ids, all_owners, folds) == []
    sizes = np.bincount(folds[: len(ids)], minlength=5)
    others = np.delete(sizes, giant)
    assert sizes[giant] < others.min() / 2
    assert others.max() - others.min() < 0.05 * others.mean()
    assert sorted(set(folds)) == list(range(5))


def test_label_of_three_patients_is_in_three_folds() -> None:
    ids, owner, labels = cohort(300)
    labels[:, 0] = 0
    for patient in ("p3", "p50", "p99"):
        labels[np.flatnonzero(owner == patient)[:2], 0] = 1
    folds = assign_folds(ids, owner, labels, 5)
    assert len(set(folds[labels[:, 0] > 0.5])) == 3
    common = labels[:, 1:].mean(axis=0)
    assert np.abs(fold_prevalences(labels, folds, 5)[:, 1:] / common - 1).max() < 0.1


def test_constant_labels() -> None:
    ids, owner, labels = cohort(50)
    for value in (0, 1):
        folds = assign_folds(ids, owner, np.full_like(labels, value), 5)
        assert find_leaks(ids, owner, folds) == []
        assert np.ptp(np.bincount(folds)) <= np.bincount(folds).mean() * 0.1


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 3)), min_size=1, max_size=30),
    seed=st.integers(0, 9),
)
def test_find_leaks(rows: list[tuple[str, int]], seed: int) -> None:
    random = np.random.default_rng(seed)
    order = random.permutation(len(rows))
    ids = np.array([f"s{i}" for i in order], object)
    owner = np.array([rows[i][0] for i in order], object)
    folds = np.array([rows[i][1] for i in order], np.int16)
    leaks = find_leaks(ids, owner, folds)
    expected = {p: Counter(f for who, f in rows if who == p) for p, _ in rows}
    assert {leak.patient: leak.folds for leak in leaks} == {p: dict(c) for p, c in expected.items() if len(c) > 1}
    assert [leak.slices for leak in leaks] == sorted(len(list(expected[x.patient].elements())) for x in leaks)[::-1]
    for leak in leaks:
        for fold, slice_id in leak.examples.items():
            assert rows[int(slice_id[1:])] == (leak.patient, fold)


def test_invalid_number_of_folds() -> None:
    ids, owner, labels = cohort(3)
    with pytest.raises(InvalidInputError, match=r"3 patients.* 5 folds") as caught:
        assign_folds(ids, owner, labels, 5)
    assert "2 more patients" in caught.value.remedy
    with pytest.raises(InvalidInputError, match="1"):
        assign_folds(ids, owner, labels, 1)


def test_rare_labels_counts_patients() -> None:
    owner = np.array(["a", "a", "b", "c"], object)
    labels = np.zeros((4, 6), np.float32)
    labels[:2, 0] = 1
    labels[:, 5] = 1
    assert rare_labels(owner, labels, 3) == dict.fromkeys(LABELS[1:5], 0) | {"epidural": 1}


def test_prevalence_of_an_empty_fold_is_nan() -> None:
    shares = fold_prevalences(np.ones((2, 6), np.float32), np.array([0, 0], np.int16), 2)
    assert (shares[0] == 1).all()
    assert np.isnan(shares[1]).all()


def test_fold_digest_depends_on_the_assignment_only() -> None:
    ids, folds = np.array(["b", "a", "c"], object), np.array([0, 1, 1], np.int16)
    assert fold_digest(ids, folds) == fold_digest(ids[::-1], folds[::-1])
    assert fold_digest(ids, folds) != fold_digest(ids, folds[::-1])
    assert len(fold_digest(ids, folds)) == 16
