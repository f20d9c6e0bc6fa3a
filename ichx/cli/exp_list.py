"""`ichx exp list`: find experiments and choose the columns of the list."""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ichx.cli.output import console, info, print_csv, print_json, warn
from ichx.cli.parameters import AsCsv, AsJson
from ichx.cli.preferences import read_preference, save_preference
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.errors import InvalidInputError, StorageError
from ichx.formatting import format_duration, format_score, format_value, marks_of
from ichx.store import Selection, marks
from ichx.store.selection import FIELD_TYPES, is_recipe_value, recipe_values
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.store import ExperimentSummary, Store

LIMIT = 50
"""Experiments in a list unless `--limit` or `--all` is given."""
DEFAULT_COLUMNS = ("number", "name", "dataset", "folds_done", "state", "score")
HEADS = {"number": "exp", "folds_done": "folds", "score": "OOF score", "score_tta": "with hflip", "seconds": "time"}
RUN_VALUES = ("host", "device")
"""Further columns: the machines and devices of the experiment's runs."""
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_COLUMNS_KEY = "exp list columns"


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
        recipes = _recipe_and_run_values(project.store, found, shown)
        any_registered = total or project.store.listing(Selection(kind=None, trashed=None), limit=1)[1]
    if as_json:
        print_json(found)
        return
    if as_csv or as_md:
        texts = [[*(_plain(e, name, recipes) for name in shown), "; ".join(marks(e))] for e in found]
        (print_csv if as_csv else _print_markdown)([*shown, "marks"], texts)
        return
    if not found:
        _print_empty(parent, any_registered > 0)
        return
    rows = [[_cell(e, name, recipes, folds_shown="folds_done" in shown) for name in shown] for e in found]
    caption = f"{len(found)} of " * (len(found) < total) + format_count(total, "experiment")
    heads = [HEADS.get(name, name.replace("_", " ")) for name in shown]
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
        # Version 0.1 saved them in the store, for all users of it.
        saved = read_preference(_COLUMNS_KEY) or store.setting(_COLUMNS_KEY)
        known = map(str, saved if isinstance(saved, list) else ())
        return tuple(filter(_is_column, known)) or DEFAULT_COLUMNS
    if text.strip() == "default":
        _save_columns(DEFAULT_COLUMNS)
        return DEFAULT_COLUMNS
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        if not _is_column(name):
            from ichx.store.expression import unknown_name

            raise unknown_name(name, (*FIELD_TYPES, *RUN_VALUES))
    if not names:
        raise InvalidInputError(f"Invalid value for --columns: {text!r}.", "Use e.g. number,name,score, or `default`.")
    if _save_columns(names):
        info("Saved the columns for all further lists. Reset them with `--columns default`.")
    return names


def _save_columns(names: tuple[str, ...]) -> bool:
    """Save the columns for further lists; return False after a warning if that fails, e.g. without a home directory."""
    try:
        save_preference(_COLUMNS_KEY, list(names))
    except StorageError as error:
        warn(f"{error.problem} The columns apply to this list only.")
        return False
    return True


def _is_column(name: str) -> bool:
    return name in FIELD_TYPES or name in RUN_VALUES or is_recipe_value(name)


def _recipe_and_run_values(
    store: "Store", found: Sequence["ExperimentSummary"], shown: Sequence[str]
) -> dict[int, dict[str, Any]]:
    """Return by experiment number the shown values that come from recipes and runs."""
    names = {name for name in shown if name not in FIELD_TYPES}
    if not names:
        return {}
    found_values = {}
    for e in found:
        values = recipe_values(store.experiment(e.number).recipe, names.difference(RUN_VALUES))
        runs = store.runs(e.number) if names.intersection(RUN_VALUES) else ()
        values |= {name: ", ".join(dict.fromkeys(getattr(run, name) for run in runs)) or None for name in RUN_VALUES}
        found_values[e.number] = values
    return found_values


def _plain(e: "ExperimentSummary", name: str, recipes: dict[int, dict[str, Any]]) -> str:
    """Return a value for CSV and Markdown."""
    value = getattr(e, name) if name in FIELD_TYPES else recipes[e.number][name]
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, tuple):
        return " ".join(map(str, value)) if name == "tags" else json.dumps(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _cell(e: "ExperimentSummary", name: str, recipes: dict[int, dict[str, Any]], *, folds_shown: bool) -> object:
    """Return a value for the table; scores carry their marks, except those that the column of folds shows."""
    if name not in FIELD_TYPES:
        value = recipes[e.number][name]
        return json.dumps(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else value
    if name == "folds_done":
        return f"{e.folds_done}/{e.folds}"
    if name == "dataset":
        return f"{e.dataset} v{e.dataset_version}"
    if name == "score":
        return format_score(e, folds_shown=folds_shown)
    if name == "score_tta" and e.score_tta is not None:
        return format_value(e.score_tta) + marks_of(e, folds_shown=folds_shown)
    if name == "seconds":
        return None if e.seconds is None else format_duration(e.seconds)
    if name == "tags":
        return ", ".join(e.tags) or None
    return getattr(e, name)


def _print_markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    for row in (heads, ["---"] * len(heads), *rows):
        line = " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in row)
        console.print(f"| {line} |", markup=False, soft_wrap=True)
