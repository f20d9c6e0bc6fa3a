"""Samplings by study and by label."""

import dataclasses

import numpy as np
import pytest

from ichx.labels import ANY, LABELS
from ichx.loading.sampling import EpochAddress, Population, epoch_rows, negative_share, sampled_rows
from ichx.recipe import StageRecipe

ADDRESS = EpochAddress(seed=3, fold=1, stage=0, epoch=2)
STUDIES = StageRecipe("one", "studies", epochs=2, lr=1e-3, per_study=4)
BY_LABEL = StageRecipe("one", "labels", epochs=2, lr=1e-3)


def population(count: int = 4000) -> Population:
    random = np.random.default_rng(0)
    labels = (random.random((count, 6)) < [0.005, 0.05, 0.04, 0.05, 0.06, 0]).astype(np.float64)
    labels[:, LABELS.index(ANY)] = labels.max(axis=1)
    sizes = random.integers(2, 60, count)
    return Population(labels, np.repeat(np.arange(count), sizes)[:count])


def test_each_study_contributes_its_share() -> None:
    found = population()
    rows = np.arange(0, 4000, 2)
    chosen = sampled_rows(found, rows, STUDIES, ADDRESS)
    assert set(chosen.tolist()) <= set(rows.tolist())
    assert len(set(chosen.tolist())) == len(chosen)
    assert found.studies is not None
    available, drawn = (np.bincount(found.studies[at], minlength=found.studies.max() + 1) for at in (rows, chosen))
    assert np.array_equal(drawn, np.minimum(available, 4))


def test_every_slice_of_a_study_is_equally_likely() -> None:
    one = Population(np.zeros((40, 6)), np.zeros(40, np.int64))
    drawn = [sampled_rows(one, np.arange(40), STUDIES, ADDRESS._replace(epoch=epoch)) for epoch in range(1000)]
    counts = np.bincount(np.concatenate(drawn), minlength=40)
    assert abs(counts - 100).max() < 45  # 4.7 standard deviations


def test_labels_are_drawn_evenly() -> None:
    found = population()
    rows = np.arange(4000)
    chosen = sampled_rows(found, rows, BY_LABEL, ADDRESS)
    assert len(chosen) == len(epoch_rows(found.any_positive, rows, "redrawn", ADDRESS))
    positive = found.any_positive[chosen]
    assert positive.sum() == len(chosen) // 2
    negatives = chosen[~positive]
    assert len(set(negatives.tolist())) == len(negatives)
    counts = found.labels[chosen].sum(axis=0)[:5]
    assert counts.min() >= len(chosen) // 10, "an epidural hemorrhage is as frequent as any other"


def test_a_missing_label_leaves_its_share_to_the_others() -> None:
    found = population()
    found.labels[:, 0] = 0
    found.labels[:, 5] = found.labels[:, :5].max(axis=1)
    chosen = sampled_rows(found, np.arange(4000), BY_LABEL, ADDRESS)
    assert found.any_positive[chosen].sum() == len(chosen) // 2 == int(found.any_positive.sum())


@pytest.mark.parametrize("stage", [STUDIES, BY_LABEL], ids=lambda stage: stage.sampling)
def test_draws_depend_on_the_address_and_the_set_of_rows(stage: StageRecipe) -> None:
    found, rows = population(), np.arange(4000)
    first = sampled_rows(found, rows, stage, ADDRESS)
    assert np.array_equal(first, sampled_rows(found, rows[::-1], stage, ADDRESS))
    for name in ADDRESS._fields:
        other = sampled_rows(found, rows, stage, ADDRESS._replace(**{name: 9}))
        assert not np.array_equal(np.sort(first), np.sort(other)), name


@pytest.mark.parametrize("sampling", ["fixed", "redrawn", "all", "labels"])
def test_the_share_of_negatives_is_that_of_an_epoch(sampling: str) -> None:
    found, rows = population(), np.arange(100, 4000)
    share = negative_share(found.any_positive, rows, sampling)
    if sampling in ("all", "labels"):
        assert share == 1
        return
    chosen = sampled_rows(found, rows, dataclasses.replace(BY_LABEL, sampling=sampling), ADDRESS)
    assert share == (~found.any_positive[chosen]).sum() / (~found.any_positive[rows]).sum()
