"""Errors that a user can cause and mend. Anything else that is raised is a bug."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class IchxError(Exception):
    """What is wrong (`problem`) and what to do about it (`remedy`); the CLI prints both and exits 1."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self) -> tuple[type["IchxError"], tuple[str, str]]:
        """Keep both parts when the error crosses a process boundary."""
        return type(self), (self.problem, self.remedy)


class RunEndedError(IchxError):
    """A run that has ended in the store, perhaps by another process that took its fold over."""


class NotFoundError(IchxError):
    """A name or number that nothing has."""

    @classmethod
    def named(cls, kind: str, name: object, known: Iterable[object], remedy: str) -> "NotFoundError":
        """Return the error for an unknown `kind`, with the nearest known names in its remedy."""
        return cls(f"no {kind} is called {str(name)!r}", f"{did_you_mean(str(name), [str(k) for k in known])}{remedy}")


def did_you_mean(name: str, known: Sequence[str]) -> str:
    """Return `did you mean 'a' or 'b'? ` for the nearest known names, or an empty string."""
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""


def raise_problems(problems: Sequence[str], remedy: str) -> None:
    """Raise one error that tells all `problems`, a line each; return when there are none."""
    if problems:
        raise IchxError("\n".join(problems), remedy)
