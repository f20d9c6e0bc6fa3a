"""Changes of experiments in the browser: names, tags, notes, archive and trash."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ichx.errors import InvalidInputError, check_name
from ichx.experiments.annotations import check_note, check_tags
from ichx.formatting import format_value
from ichx.project import Project
from ichx.store import Note, Selection
from ichx.text import escape, format_count
from ichx.web.changes import change
from ichx.web.numbers import path_number
from ichx.web.site import site_of

MAX_CHANGED = 1000
"""Experiments that one request can change."""


def annotations(request: Request) -> Response:
    """Return the name, tags and notes of an experiment, and all tags in use."""
    store, number = site_of(request).project.store, path_number(request)
    experiment = store.experiment(number)
    return JSONResponse(
        {
            "name": experiment.name,
            "tags": experiment.tags,
            "notes": [_as_json(note) for note in store.notes(number)],
            "known_tags": list(store.tags()),
        }
    )


def rename(request: Request, body: dict[str, Any]) -> Response:
    """Rename an experiment. The body has `name`."""
    name = check_name("name", _text(body, "name"))
    with site_of(request).changing() as project:
        project.store.rename(path_number(request), name)
    return JSONResponse({"name": name})


def add_note(request: Request, body: dict[str, Any]) -> Response:
    """Add a note to an experiment. The body has `text`."""
    text, number = check_note(_text(body, "text")), path_number(request)
    with site_of(request).changing() as project:
        note = project.store.add_note(number, text)
    return JSONResponse({"note": _as_json(note)})


def tag(request: Request, body: dict[str, Any]) -> Response:
    """Add and remove tags. The body has `experiments`, `add` and `remove`."""
    numbers, add, remove = _numbers(body), check_tags(_texts(body, "add")), _texts(body, "remove")
    with site_of(request).changing() as project:
        project.store.change_tags(numbers, add=add, remove=remove)
        found = project.store.experiments(Selection(kind=None, trashed=None, numbers=tuple(numbers)), limit=None)
    return JSONResponse({"tags": {e.number: e.tags for e in found}})


def archive(request: Request, body: dict[str, Any]) -> Response:
    """Archive experiments, or unarchive them. The body has `experiments` and `archived`."""
    numbers, archived = _numbers(body), body.get("archived")
    if not isinstance(archived, bool):
        raise InvalidInputError(f"Invalid value for `archived`: {archived!r}.", "Use true or false.")
    with site_of(request).changing() as project:
        project.store.archive(numbers, archived)
    verb = "Archived" if archived else "Unarchived"
    return JSONResponse({"message": f"{verb} {format_count(len(numbers), 'experiment')}."})


def trash(request: Request, body: dict[str, Any]) -> Response:
    """Move experiments to the trash, from which `ichx gc` deletes. The body has `experiments`."""
    numbers = _numbers(body)
    with site_of(request).changing() as project:
        project.store.trash(numbers)
        kept = _still_used(project, numbers)
    return JSONResponse({"message": f"Moved {format_count(len(numbers), 'experiment')} to the trash.{kept}"})


def _still_used(project: Project, numbers: list[int]) -> str:
    """Return a sentence about the experiments that others read, so that their files are not deleted."""
    used = sorted({*project.store.ensembles_containing(numbers), *project.store.sequences_of(numbers)})
    if not used:
        return ""
    return f" Ensembles or sequence experiments use {', '.join(map(str, used))}, so `ichx gc` keeps those files."


def restore(request: Request, body: dict[str, Any]) -> Response:
    """Restore experiments from the trash. The body has `experiments`."""
    numbers = _numbers(body)
    with site_of(request).changing() as project:
        project.store.restore(numbers)
    return JSONResponse({"message": f"Restored {format_count(len(numbers), 'experiment')}."})


def _as_json(note: Note) -> dict[str, str]:
    return {"created": format_value(note.created), "text": escape(note.text)}


def _numbers(body: dict[str, Any]) -> list[int]:
    numbers = body.get("experiments")
    valid = isinstance(numbers, list) and all(type(number) is int and 0 < number < 2**31 for number in numbers)
    if not isinstance(numbers, list) or not valid or not 0 < len(numbers) <= MAX_CHANGED:
        raise InvalidInputError(
            f"Invalid value for `experiments`: {str(numbers)[:100]}.", f"Use a list of 1 to {MAX_CHANGED:,} numbers."
        )
    return list(dict.fromkeys(numbers))


def _text(body: dict[str, Any], name: str) -> str:
    text = body.get(name)
    if not isinstance(text, str):
        raise InvalidInputError(f"Invalid value for `{name}`: {str(text)[:100]}.", "Use text.")
    return text


def _texts(body: dict[str, Any], name: str) -> list[str]:
    texts = body.get(name, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidInputError(f"Invalid value for `{name}`: {str(texts)[:100]}.", "Use a list of texts.")
    return texts


ROUTES = (
    Route("/api/experiments/{number:number}/annotations", annotations),
    Route("/api/experiments/{number:number}/name", change(rename), methods=["POST"]),
    Route("/api/experiments/{number:number}/notes", change(add_note), methods=["POST"]),
    Route("/api/experiments/tags", change(tag), methods=["POST"]),
    Route("/api/experiments/archive", change(archive), methods=["POST"]),
    Route("/api/experiments/trash", change(trash), methods=["POST"]),
    Route("/api/experiments/restore", change(restore), methods=["POST"]),
)
