"""`ichx gc`: delete files that are no longer needed."""

from typing import Annotated

import typer

from ichx.cli.confirmation import confirmed
from ichx.cli.output import info, print_json, warn
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.text import format_bytes, format_count


def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what would be deleted.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without confirmation.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what would be deleted as JSON; delete nothing.")
    ] = False,
) -> None:
    """Delete trash and files that nobody needs.

    Deletes old checkpoints, unused caches and files of ended jobs. Orphaned folders are deleted, too; those with
    trained weights are moved to `trash/` and deleted after 30 days. Lists everything with its size and the reason, and
    asks for confirmation first.

    Example: `ichx gc --dry-run`
    """
    from ichx.experiments.gc import delete, find_garbage, unregistered

    with session() as project:
        found = find_garbage(project)
        if as_json:
            print_json(found)
            return
        for path in unregistered(project):
            warn(
                f"{path} contains a training that the store does not know. It stays, and so do all caches and unknown "
                "folders. `ichx store rebuild` registers it; otherwise move it away."
            )
        if not found:
            info("Nothing to delete.")
            return
        root = project.workspace.root
        rows = [
            (
                g.kind,
                g.path.relative_to(root) if g.path.is_relative_to(root) else g.path,
                format_bytes(g.nbytes),
                g.reason,
            )
            for g in found
        ]
        total = f"{format_count(len(found), 'item')}, {format_bytes(sum(g.nbytes for g in found))}"
        print_table("", ("type", "path", "size", "reason"), rows, caption=total)
        if dry_run or not confirmed("Delete all of these items?", "ichx gc", yes=yes):
            return
        still = {(g.kind, g.path, g.experiment) for g in find_garbage(project)}  # the user may answer hours later
        for garbage in found:
            if (garbage.kind, garbage.path, garbage.experiment) in still:
                delete(project, garbage)
    info(f"Deleted {total}.")
