import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ichx.loading.sampling import EpochAddress, epoch_rows, generator, id_number

ADDRESS = EpochAddress(seed=3, fold=1, stage=0, epoch=2)


@st.composite
def populations(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    positive = np.array(draw(st.lists(st.booleans(), min_size=1, max_size=60)), bool)
    rows = draw(st.lists(st.integers(0, len(positive) - 1), unique=True))
    return positive, np.array(rows, np.int64)


@given(populations(), st.sampled_from(["fixed", "redrawn"]))
def test_undersampling_takes_all_positives_and_as_many_negatives(population, sampling):
    positive, rows = population
    chosen = epoch_rows(positive, rows, sampling, ADDRESS)
    count = int(positive[rows].sum())
    assert chosen.dtype == np.int64
    assert len(set(chosen.tolist())) == len(chosen)
    assert set(chosen.tolist()) <= set(rows.tolist())
    assert positive[chosen].sum() == count
    assert (~positive[chosen]).sum() == min(count, len(rows) - count)


@given(populations())
def test_all_takes_every_candidate_once(population):
    positive, rows = population
    assert sorted(epoch_rows(positive, rows, "all", ADDRESS).tolist()) == sorted(rows.tolist())


@given(populations(), st.sampled_from(["fixed", "redrawn", "all"]), st.randoms())
def test_order_of_the_candidates_does_not_matter(population, sampling, random):
    positive, rows = population
    other = rows.tolist()
    random.shuffle(other)
    first = epoch_rows(positive, rows, sampling, ADDRESS)
    assert np.array_equal(first, epoch_rows(positive, np.array(other, np.int64), sampling, ADDRESS))


def _population() -> tuple[np.ndarray, np.ndarray]:
    return np.arange(1000) % 10 == 0, np.arange(1000)


def test_fixed_sampling_changes_only_the_order_between_epochs():
    epochs = [
        epoch_rows(*_population(), "fixed", EpochAddress(1, 0, stage, epoch)) for stage in (0, 1) for epoch in (0, 1)
    ]
    assert len({tuple(sorted(rows.tolist())) for rows in epochs}) == 1
    assert len({tuple(rows.tolist()) for rows in epochs}) == 4


@pytest.mark.parametrize(
    ("sampling", "changed"),
    [
        ("fixed", {"seed": 9}),
        ("fixed", {"fold": 9}),
        ("redrawn", {"seed": 9}),
        ("redrawn", {"fold": 9}),
        ("redrawn", {"stage": 9}),
        ("redrawn", {"epoch": 9}),
    ],
)
def test_another_address_draws_other_negatives(sampling, changed):
    first = epoch_rows(*_population(), sampling, ADDRESS)
    other = epoch_rows(*_population(), sampling, ADDRESS._replace(**changed))
    assert set(first.tolist()) != set(other.tolist())


def test_every_negative_is_drawn_over_the_epochs():
    drawn = set()
    for epoch in range(60):
        drawn |= set(epoch_rows(*_population(), "redrawn", EpochAddress(0, 0, 1, epoch)).tolist())
    assert len(drawn) > 990


def test_unknown_sampling_is_an_error():
    with pytest.raises(ValueError, match="'some'"):
        epoch_rows(*_population(), "some", ADDRESS)


def test_similar_addresses_give_different_draws():
    # NumPy's SeedSequence gives [1] and [1, 0] the same state, and [2**32] and [0, 1].
    addresses = [(), (0,), (1,), (1, 0), (1, 0, 0), (0, 1), (2**32,), (2**32, 0), (2**64 - 1,), (2**32 - 1, 2**32 - 1)]
    draws = {tuple(generator(*address).integers(2**62, size=4).tolist()) for address in addresses}
    assert len(draws) == len(addresses)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=6))
def test_equal_addresses_give_equal_draws(address):
    assert np.array_equal(generator(*address).random(8), generator(*address).random(8))


@pytest.mark.parametrize("number", [-1, 2**64])
def test_number_out_of_range_is_an_error(number):
    with pytest.raises(ValueError, match="2\\^64"):
        generator(0, number)


def test_slices_have_distinct_numbers():
    numbers = {id_number(f"ID_{index:09x}") for index in range(10_000)}
    assert len(numbers) == 10_000
    assert all(0 <= number < 2**64 for number in numbers)
