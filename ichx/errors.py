"""Errors that a user can cause and fix: typed, with a stable `code`, a problem and a remedy. Anything else is a bug."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import ClassVar, TypeVar

_Choice = TypeVar("_Choice", bound=str)


class IchxError(Exception):
    """An expected error: what happened (`problem`) and what to do (`remedy`).

    The command line prints both and exits 1; with `--json` it prints `to_dict()`. `code` identifies the kind of error
    for programs and stays the same between versions. Raise one of the subclasses.
    """

    code: ClassVar[str] = "error"

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[type["IchxError"], tuple[str, str]]:
        """Keep both parts when the error crosses a process boundary."""
        return type(self), (self.problem, self.remedy)

    def to_dict(self) -> dict[str, object]:
        """Return the error as JSON output shows it; a subclass may add keys."""
        return {"code": self.code, "problem": self.problem, "remedy": self.remedy}


class InvalidInputError(IchxError):
    """An argument, option, setting, recipe or table has an invalid value."""

    code = "invalid_input"


class NotFoundError(IchxError):
    """A name, number or file does not exist."""

    code = "not_found"

    @classmethod
    def named(cls, kind: str, name: object, known: Iterable[object], remedy: str) -> "NotFoundError":
        """Return the error for an unknown `kind`, with the nearest known names in its remedy."""
        return cls(f"Unknown {kind}: {str(name)!r}.", f"{did_you_mean(str(name), [str(k) for k in known])}{remedy}")


class ConflictError(IchxError):
    """The request contradicts what exists: a taken name, a live run, other folds, shared patients."""

    code = "conflict"


class NotReadyError(IchxError):
    """Something that the request needs has not been done yet: no dataset, no finished fold, no prediction."""

    code = "not_ready"


class CorruptFileError(IchxError):
    """A file is damaged, incomplete or not what its name claims."""

    code = "corrupt_file"


class ChangedDataError(IchxError):
    """Files differ from those that were recorded: a source, a cache, predictions or weights were changed or removed."""

    code = "changed_data"


class UnsupportedError(IchxError):
    """This machine, device, format or network cannot do what was requested."""

    code = "unsupported"


class MissingDependencyError(UnsupportedError):
    """An optional library or program is not installed."""

    code = "missing_dependency"


class StorageError(IchxError):
    """A file or folder cannot be read or written: disk full, no permission, no such device."""

    code = "storage"


class StoreError(IchxError):
    """The store's database cannot be opened, read, written or migrated."""

    code = "store"


class ResourceError(IchxError):
    """Memory, disk space or processes do not suffice."""

    code = "resources"


class DivergedError(IchxError):
    """A training has left the finite numbers."""

    code = "diverged"


class ProcessError(IchxError):
    """A process or service that the work depends on has failed or ended."""

    code = "process"


class RunEndedError(IchxError):
    """A run has ended in the store, e.g. because another process took its fold over."""

    code = "run_ended"


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return `Did you mean 'a' or 'b'? ` for the nearest known names, or an empty string."""
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(repr(n) for n in near)}? " if near else ""


def check_choice(name: str, value: str, choices: Iterable[_Choice]) -> _Choice:
    """Return `value` as one of the `choices` of the parameter `name`; raise `InvalidInputError` for another value."""
    known = list(choices)
    for choice in known:
        if value == choice:
            return choice
    raise InvalidInputError(f"Invalid value for `{name}`: {value!r}.", f"Use one of {', '.join(known)}.")


def raise_problems(problems: Sequence[str], remedy: str) -> None:
    """Raise one `InvalidInputError` that lists all `problems`, one per line; return if there are none."""
    if problems:
        raise InvalidInputError("\n".join(problems), remedy)
