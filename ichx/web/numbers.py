"""Numbers in URLs: with a bounded number of ASCII digits, so that they are cheap to read and fit each database."""

from typing import Final

from starlette.convertors import Convertor, register_url_convertor
from starlette.datastructures import QueryParams
from starlette.requests import Request

from ichx.errors import InvalidInputError

MAX_DIGITS: Final = 9
"""Digits of numbers of experiments, pages etc., all of which fit 32 bits."""


class NumberConvertor(Convertor[int]):
    """The segment `{NAME:number}` of a route. A path with a longer number matches no route."""

    regex = f"[0-9]{{1,{MAX_DIGITS}}}"

    def convert(self, value: str) -> int:
        """Return the number that `value` is."""
        return int(value)

    def to_string(self, value: int) -> str:
        """Return the segment for a number."""
        return str(value)


register_url_convertor("number", NumberConvertor())


def path_number(request: Request, name: str = "number") -> int:
    """Return the number in the segment `{NAME:number}` of the path."""
    found = request.path_params[name]
    assert isinstance(found, int)
    return found


def parse_number(text: str | None, digits: int = MAX_DIGITS) -> int | None:
    """Return the number from 0 that `text` is; None for another text, and for more digits."""
    valid = text and len(text) <= digits and text.isascii() and text.isdecimal()
    return int(text) if text and valid else None


def query_number(query: QueryParams, name: str, digits: int = MAX_DIGITS) -> int | None:
    """Return a number of the query; None if it is missing. Raises `InvalidInputError` for another text."""
    text = query.get(name)
    number = parse_number(text, digits)
    if text and number is None:
        raise InvalidInputError(f"Invalid value for `{name}`: {text[:40]!r}.", "Use a number from 0.")
    return number


def page_number(text: str | None, pages: int | None = None) -> int:
    """Return the page from 1 that a query wants; the last of `pages` for a larger number, 1 for another text."""
    number = max(parse_number(text) or 1, 1)
    return number if pages is None else min(number, max(pages, 1))
