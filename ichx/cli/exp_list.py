"""`ichx exp list`: find experiments and choose the columns of the list."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from ichx.cli.output import console, info, print_csv, print_json, warn
from ichx.cli.parameters import AsCsv, AsJson
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.errors import InvalidInputError, StorageError
from ichx.experiments.listing import (
    DEFAULT_COLUMNS,
    OtherValues,
    cell,
    check_columns,
    head_of,
    other_values,
    plain_table,
    save_columns,
    saved_columns,
)
from ichx.formatting import format_marks, format_value
from ichx.store import Selection
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.store import ExperimentSummary, Store

LIMIT = 50
"""Experiments in a list unless `--limit` or `--all` is given."""
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def list_experiments(
    dataset: Annotated[str | None, typer.Option("--dataset", help="Only experiments on this dataset.")] = None,
    parent: Annotated[
        int | None, typer.Option("--parent", help="Only clones and tuning trials of this experiment.")
    ] = None,
    where: Annotated[
        str | None, typer.Option("--where", help="""Condition, e.g. 'plugin == "resnext50" and size >= 378'.""")
    ] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", help="Only with this tag; repeatable.")] = None,
    states: Annotated[
        list[str] | None, typer.Option("--state", help="Only in this state: new, running, done, ...; repeatable.")
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Only registered since then: 12h, 3d, 2w, or a date.")
    ] = None,
    sort: Annotated[
        str | None, typer.Option("--sort", help="Sort by this value, ascending; -score: descending.")
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option("--columns", help="Columns of all your further lists, e.g. number,name,score; or `default`."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Maximum number; default: 50.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="List all instead of the newest 50.")] = False,
    archived: Annotated[bool, typer.Option("--archived", help="Include archived experiments.")] = False,
    trashed: Annotated[bool, typer.Option("--trash", help="List the trash.")] = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    as_md: Annotated[bool, typer.Option("--md", help="Print a Markdown table on standard output.")] = False,
) -> None:
    """List experiments, the newest first.

    Tuning trials are listed only with --parent.

    Example: `ichx exp list --where 'plugin == "resnext50" and size >= 378' --sort score`
    """
    if as_json + as_csv + as_md > 1:
        raise typer.BadParameter("Use one of --json, --csv and --md.")
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
        found, total = project.store.listing(selection, limit=None if everything else limit or LIMIT)
        if as_csv or as_md:
            heads, texts = plain_table(project.store, found, shown)
        elif not as_json:
            others = other_values(project.store, found, shown)
        any_registered = total or project.store.listing(Selection(kind=None, trashed=None), limit=1)[1]
    if as_json:
        print_json(found)
        return
    if as_csv or as_md:
        (print_csv if as_csv else _print_markdown)(heads, texts)
        return
    if not found:
        _print_empty(parent, any_registered > 0)
        return
    rows = [[_cell(e, name, others, folds_shown="folds_done" in shown) for name in shown] for e in found]
    caption = f"{len(found)} of " * (len(found) < total) + format_count(total, "experiment")
    heads = [head_of(name) for name in shown]
    print_table(
        "", heads, rows, caption=caption, cut={"name": 16, "plugin": 16, "tags": 12, "dataset": 10, "device": 16}
    )


def _print_empty(parent: int | None, any_registered: bool) -> None:
    if parent is not None:
        info(f"Experiment {parent} has no clones or trials.")
    elif any_registered:
        info("No experiment matches. List all: `ichx exp list --all --archived`")
    else:
        info("No experiment yet. Register one: `ichx exp new --plugin NAME`, or six: `ichx exp new --reference`")


def _since(text: str | None) -> datetime | None:
    """Return the time that a date or an age such as `2w`, `3d` or `12h` names."""
    if text is None:
        return None
    age = re.fullmatch(r"(\d{1,5})([hdw])", text)
    if age is not None:
        return datetime.now(UTC) - int(age[1]) * _UNITS[age[2]]
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        problem = f"Invalid time: {text!r}. Use e.g. 12h, 3d, 2w or 2026-11-24."
        raise typer.BadParameter(problem, param_hint="--since") from None


def _columns(store: "Store", text: str | None) -> tuple[str, ...]:
    """Return the columns to show; save those that `text` names, for all further lists of this user."""
    if text is None:
        return saved_columns(store)
    if text.strip() == "default":
        _save_columns(DEFAULT_COLUMNS)
        return DEFAULT_COLUMNS
    if not text.strip(" ,"):
        raise InvalidInputError(f"Invalid value for --columns: {text!r}.", "Use e.g. number,name,score, or `default`.")
    names = check_columns(text.split(","))
    if _save_columns(names):
        info("Saved the columns for all further lists. Reset them with `--columns default`.")
    return names


def _save_columns(names: tuple[str, ...]) -> bool:
    """Save the columns for further lists; return False after a warning if that fails, e.g. without a home directory."""
    try:
        save_columns(names)
    except StorageError as error:
        warn(f"{error.problem} The columns apply to this list only.")
        return False
    return True


def _cell(e: "ExperimentSummary", name: str, others: OtherValues, *, folds_shown: bool) -> object:
    found = cell(e, name, others, folds_shown=folds_shown)
    return format_value(found.value) + format_marks(found.marks) if found.marks else found.value


def _print_markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in (heads, ["---"] * len(heads), *rows):
        line = " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in row)
        console.print(f"| {line} |", markup=False, soft_wrap=True)
