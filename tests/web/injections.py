"""Names, notes and ids of an attacker, e.g. from an imported archive, for the tests of all pages.

Each text that a browser would execute sets `window.owned`, or creates an element with the class or name `owned`.
"""

import re
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from starlette.routing import Route

if TYPE_CHECKING:
    import httpx
    from playwright.sync_api import Page

MARKUP = (
    "<script>window.owned=1</script>",
    "<img src=x class=owned onerror=window.owned=1>",
    '"><svg class=owned onload=window.owned=1>',
    "' class=owned onmouseover='window.owned=1",
    '" class=owned autofocus onfocus="window.owned=1',
    "` class=owned onclick=window.owned=1 `",
    "</script><script>window.owned=1</script>",
    "</title></textarea></style></noscript><b class=owned>",
    "--><b class=owned><!--",
    "]]><b class=owned>",
    "<iframe class=owned srcdoc='<script>parent.owned=1</script>'>",
    "<base class=owned href=//evil.example/>",
    "<meta class=owned http-equiv=refresh content='0;url=//evil.example'>",
    "<form class=owned action=//evil.example><input name=owned>",
    "<a class=owned href=javascript:window.owned=1>x</a>",
    "&lt;b class=owned&gt;&#60;b class=owned&#62;",
    "\\u003cb class=owned\\u003e \\x3cb class=owned\\x3e",
    "+ADw-script+AD4-window.owned=1+ADw-/script+AD4-",
    "{{ 7*7 }}{% raw %}<b class=owned>{% endraw %}${window.owned=1}#{7*7}",
    "';window.owned=1;//\";window.owned=1;//`;window.owned=1;//",
    "javascript:window.owned=1",
    "data:text/html,<script>parent.owned=1</script>",
)
"""Texts that become markup or code if they are not escaped."""
ODD = (
    "__proto__",
    "constructor",
    "toString",
    "../../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "\\..\\..\\windows",
    "%00%0d%0aSet-Cookie:%20owned=1",
    "%ff%fe",
    "//evil.example/",
    "\\\\evil.example\\x",
    "=1+cmd|' /C calc'!A0",
    "'; DROP TABLE experiment; --",
    "a@b/c?d=e&f#g;h",
    "\u202egnp.exe\u202c\u2028\u2029\x1b]0;owned\x07\x9b2J",
    "e\u0301\u0323\U0001f9e0 \u05d0\u05d1\u05d2",
    "x" * 200,
)
"""Texts with a meaning in paths, URLs, HTTP, SQL, spreadsheets, terminals and JavaScript objects."""
INJECTIONS = MARKUP + ODD
QUERY = (
    *("where", "sort", "page", "of", "versus", "slice", "window", "label", "fold", "limit", "columns", "kind", "size"),
    *("dataset", "tag", "state", "show", "parent", "exp", "ensemble", "first", "second", "tta", "source", "study"),
    *("threshold", "truth", "per", "scanner", "reviewed", "from", "since", "view", "experiment", "at", "flag", "a"),
)
"""Names of parameters of pages; others are ignored."""
NOT_IN_A_DATABASE = ("999999999", "9" * 10, "a\0b", "a\0b@1", "ph@999999999", "experiment:999999999", "\u0661")
"""Numbers, names, sources and predictors that databases do not have, or refuse to read."""
ODD_IDS = (
    *NOT_IN_A_DATABASE,
    *("", "0", "-1", "1", "nan", "1e400", "\u00b2", "..%2f..", "a" * 300, "9" * 30, "9" * 5000, "experiment:a\0b"),
    *("ph@1", "ph@" + "9" * 30, "experiment:1"),
)
"""Other values of ids."""

_COLUMNS = {
    "experiment": ("name",),
    "tag": ("tag",),
    "note": ("text",),
    "run": ("error", "host", "command", "device"),
    "dataset_version": ("source",),
    "fold_set": ("source",),
    "ensemble": ("name", "partial"),
    "job": ("name", "handle", "reason"),
    "review": ("note",),
}
"""Columns with text that other people choose; those that the store does not have are skipped."""


def poison(root: Path) -> None:
    """Put all injections into the store and the logs of a workspace; each text column of each row gets all of them."""
    text = " ".join(INJECTIONS)
    with closing(sqlite3.connect(root / "db" / "ichx.db")) as store, store:
        for table, columns in _COLUMNS.items():
            existing = {row[1] for row in store.execute(f"PRAGMA table_info({table})")}
            for column in existing & set(columns):
                store.execute(f"UPDATE {table} SET {column} = coalesce({column}, '') || ?", (text,))
        numbers = [row[0] for row in store.execute("SELECT number FROM experiment")]
        for number in numbers:
            store.execute("INSERT OR IGNORE INTO tag (experiment, tag) VALUES (?, ?)", (number, text))
            store.execute(
                "INSERT INTO note (experiment, text, created) VALUES (?, ?, ?)", (number, text, "2026-01-01 00:00:00")
            )
        newest = max(numbers)
        for text in MARKUP:
            store.execute("INSERT INTO tag (experiment, tag) VALUES (?, ?)", (newest, text))
    for log in root.glob("experiments/*/fold-*/run.log"):
        log.write_text(log.read_text() + text)


def all_routes() -> list[Route]:
    """Return the routes of all pages."""
    from ichx.web import app

    return [route for module in app.PAGES for route in module.ROUTES if isinstance(route, Route)]


def check_route(client: "httpx.Client", route: Route, texts: Iterable[str] = ODD + ODD_IDS + MARKUP[::5]) -> None:
    """Assert that a route answers, without an error of the server, if its ids or parameters are any of `texts`."""
    methods = route.methods or {"GET"}
    usual = _path(route.path.replace("{source}", "ph@1"), "1")
    keys = ("tag", "text", "note", "name", "source", "slice", "finding", "of", "study", "reader", "label")
    paths = {_path(route.path, text): {} for text in texts}
    if "GET" in methods:
        requests = [*paths.items(), *((usual, dict.fromkeys(QUERY, text[:1000])) for text in texts)]
        for path, query in requests:
            # without reading streams of events to their end, which they do not have
            with client.stream("GET", path, params=query) as answer:
                assert answer.status_code < 500, (path, query, answer.read())
    if "POST" in methods:
        bodies = [b for t in texts for b in (dict.fromkeys(keys, t), {"experiments": [t]}, {"columns": [t]})]
        for path, body in [*((path, {}) for path in paths), *((usual, body) for body in ({}, [], *bodies))]:
            response = client.post(path, json=body)
            assert response.status_code < 500, (path, body, response.text)


def _path(pattern: str, text: str) -> str:
    """Return the path of a route with `text` as each id; numbers must be decimal to match."""
    path = re.sub(r"\{[^}]*:number\}", text if text.isdecimal() else "1", pattern)
    return re.sub(r"\{[^}]*\}", quote(text, safe=""), path)


def check_page(page: "Page") -> None:
    """Assert that no injection has become part of a page."""
    assert page.evaluate("typeof window.owned") == "undefined"
    assert page.locator(".owned, [name=owned]").count() == 0
    assert page.locator("main script:not([type='application/json']):not([src])").count() == 0
    assert page.locator("[href^='javascript:'], [src^='data:text'], [href^='//'], [src^='//'], base").count() == 0
