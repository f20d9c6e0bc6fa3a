"""Typed errors carry a problem and a remedy, across processes too."""

import errno
import pickle

import pytest

from ichx import errors
from ichx.errors import IchxError, InvalidInputError, NotFoundError, did_you_mean, raise_problems


def subclasses(kind: type[IchxError]) -> list[type[IchxError]]:
    return [kind, *(inner for child in kind.__subclasses__() for inner in subclasses(child))]


def test_an_error_survives_a_process_boundary() -> None:
    for kind in subclasses(IchxError):
        error = kind("Problem 17.", "Remedy 23.")
        copy = pickle.loads(pickle.dumps(error))
        assert type(copy) is kind
        expected = {"code": kind.code, "problem": "Problem 17.", "remedy": "Remedy 23."}
        assert copy.to_dict() == error.to_dict()
        assert copy.to_dict().items() >= expected.items()
        assert str(copy) == "Problem 17."


def test_codes_are_unique_and_stable() -> None:
    codes = {kind.__name__: kind.code for kind in subclasses(IchxError) if kind.__module__ == errors.__name__}
    assert len(set(codes.values())) == len(codes)
    assert codes == {
        "IchxError": "error",
        "InvalidInputError": "invalid_input",
        "NotFoundError": "not_found",
        "ConflictError": "conflict",
        "NotReadyError": "not_ready",
        "CorruptFileError": "corrupt_file",
        "ChangedDataError": "changed_data",
        "UnsupportedError": "unsupported",
        "MissingDependencyError": "missing_dependency",
        "StorageError": "storage",
        "StoreError": "store",
        "ResourceError": "resources",
        "DivergedError": "diverged",
        "ProcessError": "process",
        "RunEndedError": "run_ended",
    }


@pytest.mark.parametrize(
    ("error", "code", "values"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/a/b"), "storage", ["/a/b: Permission denied"]),
        (OSError(errno.ENOSPC, "No space left on device"), "storage", ["No space left on device"]),
        (OSError(errno.EROFS, "Read-only file system", b"/a", None, "/b"), "storage", ["/a -> /b"]),
        (OSError(errno.EMFILE, "Too many open files", "/a"), "resources", ["/a", "Too many open files"]),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), "process", ["Connection refused"]),
        (TimeoutError("timed out"), "process", ["timed out"]),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "process", ["No route to host"]),
        (OSError("a library's own text"), "storage", ["a library's own text"]),
    ],
)
def test_errors_of_the_operating_system(error: OSError, code: str, values: list[str]) -> None:
    found = errors.as_user_error(error)
    assert found.code == code
    assert all(value in found.problem for value in values)
    assert found.remedy


def test_an_unknown_name_lists_the_nearest_known_names() -> None:
    error = NotFoundError.named("plugin", "resnet50", ["resnext50", "resnext101_wsl", "tiny_byobnet"], "See the list.")
    assert "'resnet50'" in error.problem
    assert "'resnext50'" in error.remedy
    assert "tiny_byobnet" not in error.remedy
    assert error.remedy.endswith(" See the list.")


def test_without_a_near_name_there_is_no_suggestion() -> None:
    assert did_you_mean("xyz", ["resnext50"]) == ""
    assert did_you_mean("xyz", []) == ""
    assert NotFoundError.named("plugin", "xyz", ["resnext50"], "See the list.").remedy == "See the list."


def test_a_number_is_compared_as_text() -> None:
    assert "'111'" in NotFoundError.named("version", 11, [1, 10, 111], "").remedy


def test_all_problems_are_reported_together() -> None:
    raise_problems([], "nothing")
    with pytest.raises(InvalidInputError) as caught:
        raise_problems(["first", "second"], "Correct both.")
    assert caught.value.problem.splitlines() == ["first", "second"]
    assert caught.value.remedy == "Correct both."
