import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ichx.datasets.arrow_columns import column_values, text_array

KINDS = {
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float32": st.floats(width=32),
    "float64": st.floats(),
    "bool": st.booleans(),
    "string": st.text(),
}


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_values_are_those_of_to_numpy(kind: str, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.lists(KINDS[kind], max_size=9), max_size=3))
    column = pa.chunked_array(values, getattr(pa, kind + "_"[: kind == "bool"])())
    start = data.draw(st.integers(0, len(column)))
    column = column.slice(start, data.draw(st.integers(0, len(column) - start)))
    found, wanted = column_values(column), column.to_numpy()
    np.testing.assert_array_equal(found, wanted)
    assert found.dtype == wanted.dtype or not len(column)


@pytest.mark.parametrize(("kind", "values"), [("float32", [1.5, None, 2.0]), ("int16", [None, 3, 4, None])])
def test_missing_numbers_are_nan(kind: str, values: list[float | None]) -> None:
    column = pa.chunked_array([values], getattr(pa, kind)()).slice(1)
    np.testing.assert_array_equal(column_values(column), [np.nan if one is None else one for one in values[1:]])


def test_missing_texts_are_none() -> None:
    assert column_values(pa.chunked_array([["a", None, "c"]]).slice(1)).tolist() == [None, "c"]


@given(texts=st.lists(st.text()))
def test_texts_become_an_array(texts: list[str]) -> None:
    assert text_array(texts).to_pylist() == texts
