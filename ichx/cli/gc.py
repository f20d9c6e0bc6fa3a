"""`ichx gc`: delete what only takes space, after naming it."""

import sys
from typing import Annotated

import typer

from ichx.cli.output import info, print_json
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.text import format_bytes, format_count


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only name it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without asking.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output; only names it.")] = False,
) -> None:
    """Delete what is in the trash, old checkpoints, folders that belong to nothing and caches that nothing reads.

    Everything is named with its size first, and nothing is deleted before you say yes.

    Example: `ichx gc --dry-run`
    """
    from ichx.experiments.gc import delete, find_garbage

    with session() as project:
        found = find_garbage(project)
        if as_json:
            print_json(found)
            return
        if not found:
            info("there is nothing to delete")
            return
        rows = [
            (
                g.kind,
                g.path.relative_to(project.workspace.root) if g.path.is_relative_to(project.workspace.root) else g.path,
                format_bytes(g.nbytes),
                g.reason,
            )
            for g in found
        ]
        total = f"{format_count(len(found), 'thing')}, {format_bytes(sum(g.nbytes for g in found))}"
        print_table("", ("what", "where", "size", "why"), rows, caption=total)
        if dry_run:
            return
        if not yes and not sys.stdin.isatty():
            info("nothing is deleted; `ichx gc --yes` deletes it")
            return
        if not yes and not typer.confirm("delete all of this for good?", err=True):
            info("nothing is deleted")
            return
        again = find_garbage(project)  # a question may stand for hours
        for garbage in found:
            if any((g.kind, g.path, g.experiment) == (garbage.kind, garbage.path, garbage.experiment) for g in again):
                delete(project.store, garbage)
    info(f"deleted {total}")
