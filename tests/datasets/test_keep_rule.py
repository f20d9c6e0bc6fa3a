"""Conditions of `--keep`: the slices that they select, and the texts that are refused."""

import numpy as np
import pytest

from ichx.datasets.keep_rule import parse_keep_rule
from ichx.errors import InvalidInputError
from ichx.labels import LABELS

P = np.zeros((4, len(LABELS)))
P[:, LABELS.index("any")] = [0.01, 0.5, 0.95, 0.99]
P[:, LABELS.index("subdural")] = [0.0, 0.4, 0.1, 0.9]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("any>=0.95|any<=0.02", [True, False, True, True]),
        ("any >= 0.95 or any <= 0.02", [True, False, True, True]),
        ("any>=0.95&subdural>0.5", [False, False, False, True]),
        ("any>=0.95 && subdural>0.5 || any<0.02", [True, False, False, True]),
        ("(any<0.02|any>0.6)&subdural<0.5", [True, False, True, False]),
        ("0.02<any<0.97", [False, True, True, False]),
        ("any>subdural", [True, True, True, True]),
        ("0.9<=any", [False, False, True, True]),
    ],
)
def test_slices_that_meet_a_condition(text: str, kept: list[bool]) -> None:
    rule = parse_keep_rule(text)
    assert rule.matches(P).tolist() == kept
    assert rule.matches(P[:0]).tolist() == []
    assert rule.text == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "any",
        "any>=",
        "any>=1.5",
        "anny>=0.5",
        "any==0.5",
        "0.1<0.2",
        "not any>0.5",
        "any>0.5 + 0.1",
        "any>True",
        "__import__('os').system('true')",
        "any.real>0.5",
        "(" * 240 + "any>0.5" + ")" * 240,
        "any>0.5|" * 200 + "any>0.5",
    ],
)
def test_invalid_conditions_are_refused(text: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_keep_rule(text)
    assert refused.value.remedy
