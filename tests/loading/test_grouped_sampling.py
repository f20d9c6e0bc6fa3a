"""The sampling `grouped`: slices of a study next to each other."""

import numpy as np
import pandas as pd
import pytest

from ichx.labels import LABEL_GROUP, LABELS
from ichx.loading.sampling import EpochAddress, Population, sampled_rows
from ichx.recipe import StageRecipe

STAGE = StageRecipe("one", "grouped", epochs=2, lr=1e-3, per_study=4)
ADDRESS = EpochAddress(7, 0, 0, 0)


def population(sizes: list[int], shares: np.ndarray | None = None) -> Population:
    studies = np.repeat(np.arange(len(sizes)), sizes)
    return Population(np.full((len(studies), 6), np.nan), studies, shares)


def test_each_study_once_in_order_and_spread_over_its_slices() -> None:
    sizes = [20, 4, 33, 2, 1]
    people = population(sizes)
    rows = sampled_rows(people, np.arange(sum(sizes)), STAGE, ADDRESS).reshape(-1, 4)
    studies = people.studies[rows]
    assert (studies == studies[:, :1]).all()
    assert sorted(studies[:, 0]) == list(range(5))
    for own, study in zip(rows, studies[:, 0], strict=True):
        first, size = sum(sizes[:study]), sizes[study]
        assert (np.diff(own) >= 0).all()
        quarter = (own - first) * 4 // size if size >= 4 else np.arange(4)
        assert quarter.tolist() == [0, 1, 2, 3] or size % 4


def test_the_draw_depends_on_the_address_alone() -> None:
    people, rows = population([20, 30, 25]), np.arange(75)
    first = sampled_rows(people, rows, STAGE, ADDRESS)
    assert np.array_equal(first, sampled_rows(people, rows[::-1], STAGE, ADDRESS))
    assert not np.array_equal(first, sampled_rows(people, rows, STAGE, ADDRESS._replace(epoch=1)))
    some = sampled_rows(people, rows[20:], STAGE, ADDRESS)
    assert set(people.studies[some]) == {1, 2}


def test_a_part_with_a_smaller_share_keeps_complete_studies() -> None:
    shares = np.repeat([0.5, 1.0], 100)
    people = population([10] * 20, shares)
    rows = sampled_rows(people, np.arange(200), STAGE, ADDRESS).reshape(-1, 4)
    studies = people.studies[rows]
    assert (studies == studies[:, :1]).all()
    assert len(rows) == 15
    assert (studies[:, 0] >= 10).sum() == 10


def test_groups_are_the_labelled_series() -> None:
    slices = pd.DataFrame({"study": ["a"] * 6 + ["b"] * 2, LABEL_GROUP: ["a s"] * 3 + ["a t"] * 3 + [""] * 2})
    slices = slices.assign(**dict.fromkeys(LABELS, np.nan))
    assert Population.of(slices, [STAGE]).studies.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]


def test_no_candidates() -> None:
    assert len(sampled_rows(population([3]), np.empty(0, np.int64), STAGE, ADDRESS)) == 0


@pytest.mark.parametrize("sampling", ["fixed", "redrawn", "labels"])
def test_slices_with_an_unknown_label_are_drawn_like_negatives(sampling: str) -> None:
    labels = np.zeros((40, 6))
    labels[:5] = 1
    labels[5:20, 5] = np.nan
    stage = StageRecipe("one", sampling, epochs=1, lr=1e-3)
    rows = sampled_rows(Population(labels), np.arange(40), stage, ADDRESS)
    assert len(rows) == 10
    assert set(rows[rows < 5]) == set(range(5)) or sampling == "labels"
