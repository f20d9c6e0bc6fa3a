"""The confirmation of commands that delete or cancel."""

import sys
from typing import Final, Literal

import typer

from ichx.cli.output import info
from ichx.text import escape

_DONE: Final = {"delete": "deleted", "cancel": "cancelled"}


def confirmed(question: str, command: str, *, yes: bool, verb: Literal["delete", "cancel"] = "delete") -> bool:
    """Return whether the user confirms `question`, or has done so with the option `--yes`.

    Without a terminal nobody can answer, so nothing happens; the message names the `command` with `--yes`.
    """
    if yes:
        return True
    if sys.stdin is None or not sys.stdin.isatty():
        info(f"Nothing was {_DONE[verb]}. {verb.capitalize()} with `{command} --yes`.")
        return False
    answer = typer.confirm(escape(question), err=True)
    if not answer:
        info(f"Nothing was {_DONE[verb]}.")
    return answer
