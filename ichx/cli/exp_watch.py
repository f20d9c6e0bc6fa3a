"""`ichx exp watch`: what runs at this moment, renewed until Ctrl-C."""

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group

from ichx.cli.formatting import format_duration
from ichx.cli.output import console, print_json
from ichx.cli.session import session
from ichx.cli.tables import build_table

if TYPE_CHECKING:
    from ichx.store import Experiment, Run, Store


def watch(
    every: Annotated[float, typer.Option("--every", min=0.5, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output, once.")] = False,
) -> None:
    """Show the runs that are going on, how far they are and when they end.

    Example: `ichx exp watch`
    """
    from rich.live import Live

    with session() as project:
        if as_json:
            print_json([run for _, run in _live(project.store)])
            return
        if once or not console.is_terminal:
            console.print(_sheet(project.store))
            return
        with Live(_sheet(project.store), console=console, auto_refresh=False) as view:
            while True:
                time.sleep(every)
                view.update(_sheet(project.store), refresh=True)


def _live(store: "Store") -> "list[tuple[Experiment, Run]]":
    from ichx.store import Selection

    busy = store.experiments(Selection(kind=None, states=("running", "stalled")), limit=None)
    return [
        (store.experiment(e.number), run)
        for e in reversed(busy)
        for run in store.runs(e.number)
        if run.state in ("running", "stalled")
    ]


def _sheet(store: "Store") -> Group:
    rows = []
    for experiment, run in _live(store):
        passed = (datetime.now(UTC) - run.started).total_seconds()
        history = store.history(experiment.number, run.fold)
        own = [record.values.get("seconds", 0.0) for record in history[-3:]]
        left = (experiment.epochs - run.epochs_done) * sum(own) / len(own) if own else None
        score = history[-1].values.get("score") if history else None
        rows.append(
            (
                experiment.number,
                experiment.name,
                run.fold,
                run.state,
                run.stage,
                f"{run.epochs_done}/{experiment.epochs}",
                score,
                format_duration(passed),
                None if left is None else format_duration(left),
            )
        )
    heads = ("exp", "name", "fold", "state", "stage", "epochs", "score", "for", "ends in")
    if not rows:
        return Group(f"nothing runs at {datetime.now():%H:%M:%S}")
    return build_table(
        "", heads, rows, caption=f"at {datetime.now():%H:%M:%S}", drop=("stage", "for"), cut={"name": 12}
    )
