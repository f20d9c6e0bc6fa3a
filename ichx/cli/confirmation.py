"""The confirmation of commands that delete."""

import sys

import typer

from ichx.cli.output import info
from ichx.text import escape


def confirmed(question: str, command: str, *, yes: bool) -> bool:
    """Return whether the user confirms `question`, or has done so with the option `--yes`.

    Without a terminal nobody can answer, so nothing is deleted; the message names the `command` with `--yes`.
    """
    if yes:
        return True
    if sys.stdin is None or not sys.stdin.isatty():
        info(f"Nothing was deleted. Delete with `{command} --yes`.")
        return False
    answer = typer.confirm(escape(question), err=True)
    if not answer:
        info("Nothing was deleted.")
    return answer
