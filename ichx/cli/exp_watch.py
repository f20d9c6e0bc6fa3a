"""`ichx exp watch`: the active runs, refreshed until Ctrl-C."""

import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group

from ichx.cli.output import console, print_json
from ichx.cli.session import session
from ichx.cli.tables import build_table
from ichx.experiments.progress import remaining_seconds
from ichx.formatting import format_duration

if TYPE_CHECKING:
    from ichx.store import Experiment, Run, Store


def watch(
    every: Annotated[float, typer.Option("--every", min=0.5, help="Seconds between refreshes.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print once and exit.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON on standard output once.")] = False,
) -> None:
    """Show active runs with progress and remaining time.

    Example: `ichx exp watch`
    """
    from rich.live import Live

    with session() as project:
        if as_json:
            print_json([run for _, run in _active_runs(project.store)])
            return
        if once or not console.is_terminal:
            console.print(_runs_table(project.store))
            return
        with Live(_runs_table(project.store), console=console, auto_refresh=False) as view:
            while True:
                time.sleep(every)
                view.update(_runs_table(project.store), refresh=True)


def _active_runs(store: "Store") -> "list[tuple[Experiment, Run]]":
    from ichx.store import Selection

    active = store.experiments(Selection(kind=None, states=("running", "stalled")), limit=None)
    return [
        (store.experiment(e.number), run)
        for e in reversed(active)
        for run in store.runs(e.number)
        if run.state in ("running", "stalled")
    ]


def _runs_table(store: "Store") -> Group:
    rows = []
    now = store.time()
    for experiment, run in _active_runs(store):
        elapsed = (now - run.started).total_seconds()
        history = store.history(experiment.number, run.fold)
        left = remaining_seconds(experiment, run, history)
        rows.append(
            (
                experiment.number,
                experiment.name,
                run.fold,
                run.state,
                run.stage,
                f"{run.epochs_done}/{experiment.epochs}",
                history[-1].values.get("score") if history else None,
                format_duration(elapsed),
                None if left is None else format_duration(left),
                run.host,
                run.device.partition(",")[0],
            )
        )
    heads = ("exp", "name", "fold", "state", "stage", "epochs", "score", "elapsed", "remaining", "host", "device")
    at = f"at {datetime.now():%H:%M:%S}"
    if not rows:
        return Group(f"No active runs {at}.")
    return build_table("", heads, rows, caption=at, drop=("stage", "elapsed", "host"), cut={"name": 12})
