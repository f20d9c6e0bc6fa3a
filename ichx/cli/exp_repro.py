"""`ichx exp repro`: the commands that reproduce an experiment."""

from ichx.cli.output import console, info, print_json
from ichx.cli.parameters import AsJson, Number
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.formatting import format_value


def repro(number: Number, as_json: AsJson = False) -> None:
    """Print the commands that reproduce an experiment.

    Lists what differs between this machine and the one of the newest run.

    Example: `ichx exp repro 6`
    """
    with session() as project:
        project.store.experiment(number)  # report an unknown number before torch is imported
        from ichx.experiments.repro import repro as find_commands

        found = find_commands(project, number)
    if as_json:
        print_json(found)
        return
    for line in found.preparations:
        info(f"First: {line}")
    for line in found.commands:
        console.print(line, markup=False, soft_wrap=True)
    if found.run is None:
        info("The experiment has not run yet, so it has no recorded environment.")
    elif not found.differences:
        info("This machine's environment equals the recorded one.")
    else:
        rows = [(d.what, _format(d.then), _format(d.now)) for d in found.differences]
        print_table("differences", ("item", "recorded", "here"), rows)


def _format(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else format_value(value)
