"""`ichx exp promote`: a tuning trial becomes an experiment."""

from typing import Annotated

import typer

from ichx.cli.formatting import format_value
from ichx.cli.output import console, info, print_json
from ichx.cli.parameters import Number
from ichx.cli.session import session
from ichx.cli.tune_show import named


def promote(
    number: Number,
    name: Annotated[str | None, typer.Option("--name", help="A name of your own.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Register what a tuning trial tried as an experiment: all patients, whole stages, all folds.

    Example: `ichx exp promote 17`
    """
    from ichx.tuning.promote import promote as register

    with session() as project:
        found = register(project, number, name)
        tuned = project.store.experiment(number).parent
    made = found.experiment
    if as_json:
        print_json(made)
        return
    if not found.created:
        info(f"experiment {number} had been promoted before")
    console.print(f"experiment {made.number}: {made.name} on {made.dataset} v{made.dataset_version}", markup=False)
    assert made.tuned is not None
    assert tuned is not None
    study = named(made.tuned.study, tuned)
    had = f"{format_value(made.tuned.score)} on fold {made.tuned.fold} [selected]"
    info(f"experiment {number}, trial {made.tuned.trial + 1}, had {had}; the other folds say how good its values are")
    info(f"next: `ichx run {made.number}`, then `ichx tune show {tuned}{study}` holds it against others")
