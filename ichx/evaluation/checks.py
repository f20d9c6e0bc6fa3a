"""Checks of an audit: each has a subject and a detail, and is ok, wrong or impossible."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, ParamSpec, TypeVar

from ichx.errors import IchxError

_P = ParamSpec("_P")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Check:
    """The result of one check."""

    subject: str
    state: Literal["ok", "wrong", "unknown"]
    """`unknown`: what the check needs is gone."""
    detail: str


class WrongError(Exception):
    """What a check found wrong."""


class UnknownError(Exception):
    """Why a check is impossible."""


class Checks:
    """Runs checks in order.

    A check returns a detail and what later checks need, or raises: `WrongError` or `IchxError` if something is wrong,
    `UnknownError` if it is impossible. Checks that need the result of such a check are skipped.
    """

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def check(
        self, subject: str, check: Callable[_P, tuple[str, _Result]], *args: _P.args, **kwargs: _P.kwargs
    ) -> _Result | None:
        """Run a check and append its result; return what later checks need, or None if it raised."""
        try:
            detail, result = check(*args, **kwargs)
        except (WrongError, IchxError) as wrong:
            self.checks += [Check(subject, "wrong", line) for line in str(wrong).splitlines()]
        except UnknownError as unknown:
            self.checks.append(Check(subject, "unknown", str(unknown)))
        else:
            self.checks.append(Check(subject, "ok", detail))
            return result
        return None
