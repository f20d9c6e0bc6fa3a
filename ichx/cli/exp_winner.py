"""`ichx exp new --winner`: print a plan after the winners of RSNA 2019, and register it."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from ichx.cli.output import console, info, print_json, warn
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.text import format_bytes

if TYPE_CHECKING:
    from ichx.experiments.winner_plan import PlannedExperiment, WinnerPlan
    from ichx.store import Experiment


def new_winner(dataset: str | None, folds: str | None, *, dry_run: bool, as_json: bool) -> None:
    """Print the plan with its cost; register it unless this is a dry run."""
    from ichx.experiments.winner_plan import plan_winner, register_winner

    with session() as project:
        info("computing the cost of the plan")
        plan = plan_winner(project, dataset=dataset, folds=folds)
        if not as_json:
            _print_plan(plan)
        registered = [] if dry_run else register_winner(project, plan)
    if as_json:
        cost = {"planned": [asdict(one) for one in plan.planned], "cache_bytes": plan.cache_bytes, "hours": plan.hours}
        print_json({**cost, "cache_free": plan.cache_free, "experiments": [e.number for e in registered]})
    elif registered:
        for e in registered:
            console.print(f"experiment {e.number}: {e.name} on {e.dataset} v{e.dataset_version}", markup=False)
    if plan.cache_bytes > plan.cache_free:
        warn(f"The cache needs {format_bytes(plan.cache_bytes)}, {format_bytes(plan.cache_free)} are free.")
    if registered:
        _print_next(registered)
    elif dry_run:
        info("nothing is registered; leave out --dry-run to register the plan")


def _print_next(registered: "list[Experiment]") -> None:
    from ichx.experiments.winner_plan import ensemble_command

    if registered[0].leaked:
        warn(f"The folds {registered[0].fold_set} split patients. All scores will be marked `leaky folds`.")
    info(f"Next: `ichx run {registered[-1].number} --with-members`")
    info(f"Then: `{ensemble_command(registered)}`")


def _print_plan(plan: "WinnerPlan") -> None:
    heads = ("experiment", "reads", "images to train", "to predict", "PMACs", "hours", "features")
    rows = [_row(one) for one in plan.planned]
    rows.append(("ensemble of all", f"predictions of the {len(rows)}", None, None, None, None, None))
    print_table("plan after the winners of RSNA 2019, all folds", heads, rows, drop=("reads",))
    devices = sorted({one.device for one in plan.planned if one.device})
    hours = "not measured" if plan.hours is None else f"{plan.hours:.3g} on {', '.join(devices)}, without loading"
    console.print(f"hours of the networks for images: {hours}", markup=False)
    missing = [one.plugin for one in plan.planned if one.train_images and one.hours is None]
    for name in missing:
        info(f"measure it: `ichx plugin show {name} --preset adjacent --measure`")
    space = f"about {format_bytes(plan.cache_bytes)} to write, {format_bytes(plan.cache_free)} free"
    console.print(f"cache: {space}", markup=False)


def _row(one: "PlannedExperiment") -> tuple[object, ...]:
    if not one.train_images:
        features = format_bytes(one.feature_bytes) if one.feature_bytes else None
        return one.name, one.reads, None, None, None, None, features
    hours = None if one.hours is None else f"{one.hours:.3g}"
    return one.name, one.reads, f"{one.train_images:,}", f"{one.predict_images:,}", f"{one.petamacs:.3g}", hours, None
