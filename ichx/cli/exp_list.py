"""`ichx exp list`: find experiments, and choose what is shown of them."""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ichx.cli.formatting import format_duration, format_score, format_value, marks_of
from ichx.cli.output import console, info, print_json
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.errors import IchxError
from ichx.store import Selection, marks
from ichx.store.selection import KINDS, is_recipe_value, recipe_values
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.store import ExperimentSummary, Store

NEWEST = 50
"""How many a list shows."""
DEFAULT_COLUMNS = ("number", "name", "dataset", "folds_done", "state", "score")
HEADS = {"number": "exp", "folds_done": "folds", "score": "OOF score", "score_tta": "with hflip", "seconds": "time"}
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_REMEMBERED = "exp list columns"


def list_experiments(
    dataset: Annotated[str | None, typer.Option("--dataset", help="Only experiments on this dataset.")] = None,
    parent: Annotated[
        int | None, typer.Option("--parent", help="Only those made from this one, its tuning trials too.")
    ] = None,
    where: Annotated[
        str | None,
        typer.Option("--where", help="""A condition, such as 'plugin == "resnext50" and size >= 378'."""),
    ] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", help="Only those with this tag; repeatable.")] = None,
    states: Annotated[
        list[str] | None, typer.Option("--state", help="Only those in this state: running, done, ...; repeatable.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Only those made since then: 12h, 3d, 2w, or a date.")
    ] = None,
    sort: Annotated[
        str | None, typer.Option("--sort", help="By this value, the smallest first; -score: the largest.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option("--columns", help="What to show from now on, such as number,name,input.size,score; or `default`."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="How many; default: 50.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    archived: Annotated[bool, typer.Option("--archived", help="Those in the archive, too.")] = False,
    trashed: Annotated[bool, typer.Option("--trash", help="What is in the trash.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="CSV on standard output.")] = False,
    as_md: Annotated[bool, typer.Option("--md", help="A Markdown table on standard output.")] = False,
) -> None:
    """List experiments, the newest first; tuning trials only with --parent.

    Example: `ichx exp list --where 'plugin == "resnext50" and size >= 378' --sort score`
    """
    if as_json + as_csv + as_md > 1:
        raise typer.BadParameter("give one of --json, --csv and --md")
    selection = Selection(
        dataset=dataset,
        kind="experiment" if parent is None else None,
        parent=parent,
        tags=tuple(tags or ()),
        states=tuple(states or ()),
        since=_since(since),
        archived=None if archived or trashed else False,
        trashed=trashed,
        where=where,
        sort=sort,
    )
    with session() as project:
        if parent is not None:
            project.store.experiment(parent)
        if dataset is not None:
            project.store.dataset(dataset)
        shown = _columns(project.store, columns)
        found, total = project.store.listing(selection, limit=None if everything else limit or NEWEST)
        recipes = _of_recipes(project.store, found, shown)
        there = total or project.store.listing(Selection(kind=None, trashed=None), limit=1)[1]
    if as_json:
        print_json(found)
        return
    if as_csv or as_md:
        rows_of_text = [[*(_plain(e, name, recipes) for name in shown), "; ".join(marks(e))] for e in found]
        _print_text(rows_of_text, [*shown, "marks"], markdown=as_md)
        return
    if not found:
        _say_nothing(parent, there > 0)
        return
    rows = [[_told(e, name, recipes) for name in shown] for e in found]
    caption = f"{len(found)} of " * (len(found) < total) + format_count(total, "experiment")
    heads = [HEADS.get(name, name.replace("_", " ")) for name in shown]
    print_table("", heads, rows, caption=caption, cut={"name": 16, "plugin": 16, "tags": 12, "dataset": 10})


def _say_nothing(parent: int | None, others: bool) -> None:
    if parent is not None:
        info(f"nothing was made from experiment {parent}")
    elif others:
        info("no experiment is like that; `ichx exp list --all --archived` lists all")
    else:
        info("no experiment yet; register one: `ichx exp new --plugin NAME`, or six: `ichx exp new --reference`")


def _since(text: str | None) -> datetime | None:
    """Return the moment that `2w`, `3d`, `12h` ago or a date names."""
    if text is None:
        return None
    ago = re.fullmatch(r"(\d{1,5})([hdw])", text)
    if ago is not None:
        return datetime.now(UTC) - int(ago[1]) * _UNITS[ago[2]]
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError as error:
        raise IchxError(f"{text!r} is no time", "write 12h, 3d or 2w, or a date such as 2026-11-24") from error


def _columns(store: "Store", given: str | None) -> tuple[str, ...]:
    """Return the columns to show, and remember those that are `given`."""
    if given is None:
        return tuple(store.choice(_REMEMBERED) or DEFAULT_COLUMNS)
    if given.strip() == "default":
        store.remember(_REMEMBERED, None)
        return DEFAULT_COLUMNS
    names = tuple(dict.fromkeys(name.strip() for name in given.split(",") if name.strip()))
    for name in names:
        if name not in KINDS and not is_recipe_value(name):
            from ichx.store.expression import unknown_name

            raise unknown_name(name, KINDS)
    if not names:
        raise IchxError("--columns names nothing", "name some, such as number,name,score; or `default`")
    store.remember(_REMEMBERED, list(names))
    info("lists have these columns from now on; `--columns default` goes back")
    return names


def _of_recipes(
    store: "Store", found: Sequence["ExperimentSummary"], shown: Sequence[str]
) -> dict[int, dict[str, Any]]:
    """Return by number the shown values that stand in recipes."""
    wanted = {name for name in shown if name not in KINDS}
    if not wanted:
        return {}
    return {e.number: recipe_values(store.experiment(e.number).recipe, wanted) for e in found}


def _plain(e: "ExperimentSummary", name: str, recipes: dict[int, dict[str, Any]]) -> str:
    """Return a value as a file has it."""
    value = getattr(e, name) if name in KINDS else recipes[e.number][name]
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, tuple):
        return " ".join(map(str, value)) if name == "tags" else json.dumps(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _told(e: "ExperimentSummary", name: str, recipes: dict[int, dict[str, Any]]) -> object:
    """Return a value as a table shows it, a score with what must follow it everywhere."""
    if name not in KINDS:
        value = recipes[e.number][name]
        return json.dumps(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else value
    if name == "folds_done":
        return f"{e.folds_done}/{e.folds}"
    if name == "dataset":
        return f"{e.dataset} v{e.dataset_version}"
    if name == "score":
        return format_score(e)
    if name == "score_tta" and e.score_tta is not None:
        return format_value(e.score_tta) + marks_of(e)
    if name == "seconds":
        return None if e.seconds is None else format_duration(e.seconds)
    if name == "tags":
        return ", ".join(e.tags) or None
    return getattr(e, name)


def _print_text(rows: Sequence[Sequence[str]], heads: Sequence[str], *, markdown: bool) -> None:
    """Print rows as CSV or as a Markdown table."""
    if not markdown:
        import csv
        import sys

        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(heads)
        writer.writerows(rows)
        return
    for row in (heads, ["---"] * len(heads), *rows):
        line = " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in row)
        console.print(f"| {line} |", markup=False, soft_wrap=True)
