"""Errors that a user can cause and fix: typed, with a stable `code`, a problem and a remedy. Anything else is a bug."""

import errno
import os
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import ClassVar, Final, TypeVar

from ichx.text import escape

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


_SPACE = "Free some space there, then run the command again."
_FILE_REMEDIES = {
    errno.EACCES: "Give your user access to it, or use another path.",
    errno.EPERM: "Give your user access to it, or use another path.",
    errno.EROFS: "The file system is read-only. Use another folder, or mount it with write access.",
    errno.ENOSPC: _SPACE,
    errno.EDQUOT: _SPACE,
    errno.EFBIG: _SPACE,
    errno.ENOENT: "Restore it, or use another path.",
    errno.EISDIR: "Move that folder away: a file belongs there.",
    errno.ENOTDIR: "Move the file away that is in the place of a folder.",
    errno.ELOOP: "Repair the symbolic link.",
    errno.ENAMETOOLONG: "Use a shorter path.",
}
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}
_NETWORK = {errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH}


def as_user_error(error: OSError) -> IchxError:
    """Return the typed error for an error of the operating system that no function has translated."""
    reason = (error.strerror or str(error) or type(error).__name__).rstrip(".")
    paths = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    place = f"{' -> '.join(paths)}: " if paths else ""
    if error.errno in _EXHAUSTED:
        remedy = "End other programs, or raise the limit that `ulimit -a` shows."
        return ResourceError(f"The system is out of resources: {place}{reason}.", remedy)
    if isinstance(error, ConnectionError | TimeoutError) or error.errno in _NETWORK:
        return ProcessError(f"A connection failed: {place}{reason}.", "Check the network and the server, then retry.")
    if not paths and error.errno == errno.ENOENT and not _current_folder_exists():
        return NotFoundError("The current directory does not exist any more.", "Change to another directory.")
    remedy = _FILE_REMEDIES.get(error.errno or 0, "Check the path and its file system; --debug shows the traceback.")
    return StorageError(f"Cannot access {place}{reason}." if paths else f"Cannot access a file: {reason}.", remedy)


def _current_folder_exists() -> bool:
    try:
        Path.cwd()
    except OSError:
        return False
    return True


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


MAX_NAME: Final = 200
"""Characters of a name or tag."""


def check_name(what: str, name: str) -> str:
    """Return `name`, e.g. of an experiment, without spaces around it.

    Raises:
        InvalidInputError: It is empty, too long, or has line breaks or other control characters.
    """
    stripped = name.strip()
    if not stripped or len(stripped) > MAX_NAME or escape(stripped, lines=True) != stripped:
        remedy = f"Use 1 to {MAX_NAME} characters without line breaks and control characters."
        raise InvalidInputError(f"Invalid {what}: {name[:MAX_NAME]!r}.", remedy)
    return stripped


def raise_problems(problems: Sequence[str], remedy: str) -> None:
    """Raise one `InvalidInputError` that lists all `problems`, one per line; return if there are none."""
    if problems:
        raise InvalidInputError("\n".join(problems), remedy)
