"""Parts of a cache that several machines build: which missing shards belong to part K of N."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ichx.errors import InvalidInputError
from ichx.files import create_once
from ichx.text import parse_json

PARTS_PATTERN: Final = "parts-of-*"
"""Matches the files with the shards that were missing when the first of N parts began."""

MAX_PARTS: Final = 100_000


@dataclass(frozen=True)
class Part:
    """Part `number` (from 1) of `of` parts."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Return the part that `text`, e.g. `2/8`, names. Raises `InvalidInputError`."""
        number, slash, of = text.partition("/")
        if slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of) <= MAX_PARTS:
            return cls(int(number), int(of))
        raise InvalidInputError(f"Invalid part: {text!r}.", "Use K/N with K from 1 to N, e.g. 2/8.")

    def shards(self, missing: Sequence[tuple[Path, Sequence[int]]]) -> set[int]:
        """Return the numbers of the shards that this part builds.

        All parts of N use the shards that were missing when the first of them began, so each of those has one part,
        and the parts are equal.

        Args:
            missing: The folder of each unfinished cache with the numbers of its missing shards.

        Raises:
            OSError: A folder is not writable.
        """
        listed = {shard for folder, shards in missing for shard in self._listed(folder, shards)}
        others = {shard for _, shards in missing for shard in shards} - listed  # damaged since then
        return {*sorted(listed)[self.number - 1 :: self.of], *(s for s in others if s % self.of == self.number - 1)}

    def _listed(self, folder: Path, missing: Sequence[int]) -> list[int]:
        path = folder / f"parts-of-{self.of}.json"
        try:
            create_once(path, json.dumps(list(missing)).encode())
            return [int(shard) for shard in parse_json(path.read_bytes())]
        except (FileNotFoundError, ValueError):  # the last part has just finished the cache; damaged
            return list(missing)
