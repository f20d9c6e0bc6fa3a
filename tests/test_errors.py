"""Errors carry a problem and a remedy, across processes too."""

import pickle

import pytest

from ichx.errors import IchxError, NotFoundError, did_you_mean, raise_problems


def test_an_error_survives_a_process_boundary() -> None:
    for error in (IchxError("what is wrong", "what to do"), NotFoundError("nothing", "look elsewhere")):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error)
        assert (again.problem, again.remedy, str(again)) == (error.problem, error.remedy, error.problem)


def test_an_unknown_name_lists_the_nearest_known_ones() -> None:
    error = NotFoundError.named("plugin", "resnet50", ["resnext50", "resnext101_wsl", "tiny_byobnet"], "see the list")
    assert error.problem == "no plugin is called 'resnet50'"
    assert error.remedy.startswith("did you mean 'resnext50'")
    assert error.remedy.endswith("? see the list")
    assert "tiny_byobnet" not in error.remedy


def test_nothing_near_is_no_suggestion() -> None:
    assert did_you_mean("xyz", ["resnext50"]) == ""
    assert did_you_mean("xyz", []) == ""
    assert NotFoundError.named("plugin", "xyz", ["resnext50"], "see the list").remedy == "see the list"


def test_a_number_is_compared_as_text() -> None:
    assert NotFoundError.named("version", 11, [1, 10, 111], "").remedy.startswith("did you mean '111'")


def test_all_problems_are_told_at_once() -> None:
    raise_problems([], "nothing")
    with pytest.raises(IchxError) as caught:
        raise_problems(["first", "second"], "mend both")
    assert caught.value.problem.splitlines() == ["first", "second"]
    assert caught.value.remedy == "mend both"
