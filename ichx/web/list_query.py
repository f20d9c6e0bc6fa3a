"""The URL of the list of experiments: what it selects, which columns it shows, and what is wrong with it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self
from urllib.parse import urlencode

from starlette.datastructures import QueryParams

from ichx.errors import IchxError, NotFoundError, check_choice
from ichx.experiments.listing import check_columns
from ichx.store import Selection, Store
from ichx.web.numbers import page_number, parse_number

PAGE = 100
"""Experiments on a page."""
MAX_PAGE = 10**6
PLACES = {"": "current", "all": "current and archived", "archived": "archived", "trash": "trash"}
"""Which experiments a list has, by the value of `show`."""


@dataclass(frozen=True)
class ListQuery:
    """The query; each field is a parameter of the URL, and empty ones are left out."""

    where: str = ""
    """A condition, see `ichx.store.expression`."""
    dataset: str = ""
    tag: tuple[str, ...] = ()
    state: tuple[str, ...] = ()
    show: str = ""
    """One of `PLACES`."""
    parent: str = ""
    """Number of the experiment whose clones and trials are listed."""
    sort: str = ""
    columns: tuple[str, ...] = ()
    """In the URL separated by commas; empty for those that the user has saved."""
    differing: str = ""
    """`1` to show only columns that differ."""
    page: int = 1

    @classmethod
    def of(cls, parameters: QueryParams) -> Self:
        """Return the query of a URL; unknown parameters are ignored."""
        columns = ",".join(parameters.getlist("columns")).split(",")
        return cls(
            where=parameters.get("where", "").strip(),
            dataset=parameters.get("dataset", ""),
            tag=tuple(filter(None, dict.fromkeys(parameters.getlist("tag")))),
            state=tuple(filter(None, dict.fromkeys(parameters.getlist("state")))),
            show=parameters.get("show", ""),
            parent=parameters.get("parent", ""),
            sort=parameters.get("sort", ""),
            columns=tuple(filter(None, (name.strip() for name in columns))),
            differing="1" if parameters.get("differing") == "1" else "",
            page=page_number(parameters.get("page"), MAX_PAGE),
        )

    @property
    def filtered(self) -> bool:
        """Whether the list has only some of the current experiments."""
        return bool(self.where or self.dataset or self.tag or self.state or self.parent or self.show)

    def url(self, path: str = "/experiments", **changes: Any) -> str:
        """Return the URL of the list with changed values; the page is the first one unless it is among them."""
        query = replace(self, **{"page": 1, **changes})
        values = {spec.name: getattr(query, spec.name) for spec in fields(self)}
        values["columns"] = ",".join(query.columns)
        values["page"] = "" if query.page == 1 else str(query.page)
        shown = {name: value for name, value in values.items() if value}
        return f"{path}?{urlencode(shown, doseq=True)}" if shown else path

    def sort_url(self, name: str) -> str:
        """Return the URL of the list sorted by a column: ascending at first, then descending."""
        return self.url(sort=f"-{name}" if self.direction(name) == "ascending" else name)

    def direction(self, name: str) -> str:
        """Return how a column is sorted: `ascending`, `descending` or `none`."""
        sort = self.sort or "-number"
        return {name: "ascending", f"-{name}": "descending"}.get(sort, "none")

    def selection(self) -> Selection:
        """Return the experiments that the list has.

        Raises:
            InvalidInputError: A value is invalid.
        """
        parent = int(self.parent) if self.parent else None
        return Selection(
            dataset=self.dataset or None,
            kind="experiment" if parent is None else None,
            parent=parent,
            tags=self.tag,
            states=self.state,
            archived={"": False, "archived": True}.get(self.show),
            trashed=self.show == "trash",
            where=self.where or None,
            sort=self.sort or None,
        )

    def problems(self, store: Store) -> dict[str, IchxError]:
        """Return what is wrong with the values, by parameter."""
        checks: Mapping[str, Callable[[], object]] = {
            "where": lambda: Selection(where=self.where or None),
            "dataset": lambda: self.dataset and store.dataset(self.dataset),
            "state": lambda: Selection(states=self.state),
            "show": lambda: check_choice("show", self.show, PLACES),
            "parent": lambda: self.parent and store.experiment(_number(self.parent)),
            "sort": lambda: Selection(sort=self.sort or None),
            "columns": lambda: self.columns and check_columns(self.columns),
        }
        found: dict[str, IchxError] = {}
        for name, check in checks.items():
            try:
                check()
            except IchxError as error:
                found[name] = error
        return found


def _number(text: str) -> int:
    number = parse_number(text)
    if number is None:
        raise NotFoundError(f"There is no experiment {text[:20]!r}.", "Use the number of an experiment.")
    return number
