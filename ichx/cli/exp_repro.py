"""`ichx exp repro`: how to repeat an experiment."""

from typing import Annotated

import typer

from ichx.cli.formatting import format_value
from ichx.cli.output import console, info, print_json
from ichx.cli.parameters import Number
from ichx.cli.session import session
from ichx.cli.tables import print_table


def repro(
    number: Number,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Print the command lines that repeat an experiment, and what here differs from where it ran.

    Example: `ichx exp repro 6`
    """
    with session() as project:
        project.store.experiment(number)  # report an unknown number before torch is imported
        from ichx.experiments.repro import repro as find

        found = find(project, number)
    if as_json:
        print_json(found)
        return
    for line in found.preparations:
        info(f"before: {line}")
    for line in found.commands:
        console.print(line, markup=False, soft_wrap=True)
    if found.run is None:
        info("it has not run yet: there is nothing to compare this machine with")
    elif not found.differences:
        info("nothing that was written down differs here")
    else:
        rows = [(d.what, _told(d.then), _told(d.now)) for d in found.differences]
        print_table("what differs here", ("what", "then", "now"), rows)


def _told(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else format_value(value)
