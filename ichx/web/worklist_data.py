"""Worklists of a request: predictions of a source, prepared in the helper process, and the filters of the user.

A list of 750,000 slices takes tenths of a second. The server keeps the predictions as mapped files, and the last lists.
"""

import hashlib
import shutil
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from starlette.datastructures import QueryParams

from ichx.errors import InvalidInputError, NotReadyError
from ichx.evaluation.worklist import (
    ALL_LABELS,
    AT_THRESHOLD,
    KINDS,
    UNITS,
    Worklist,
    WorklistData,
    WorklistRequest,
    make_worklist,
)
from ichx.labels import LABELS
from ichx.store import Review
from ichx.web.numbers import parse_number, query_number
from ichx.web.sources import Source, Sources
from ichx.web.waiting import BackgroundResults

PREPARED: Final = 8
"""Predictions that are kept as files."""
LISTS: Final = 6
"""Lists that are kept for their next pages."""
PREPARE_SECONDS: Final = 900.0
DEFAULT_RULE: Final = "sensitivity >= 0.95"
"""The threshold of a list whose threshold the user has not chosen."""


@dataclass(frozen=True)
class Prepared:
    """Predictions of all slices of a source."""

    key: str
    """Changes with the stored predictions."""
    predicted: npt.NDArray[np.float32]
    """`(N, 6)` by place in the index; NaN without a prediction."""
    facts: Mapping[str, Any]
    """`predicted`, `out_of_fold`, `note`, `thresholds`; see `helper_tasks.predict_worklist`."""


@dataclass(frozen=True)
class WorklistChoice:
    """The query of a worklist, checked."""

    request: WorklistRequest
    source: str
    of: str
    """Empty if there are no predictions."""
    versus: str
    """The predictor to compare with, for `disagreement`."""
    fold: int | None
    scanner: str
    reviewed: str
    """`yes`, `no` or empty."""
    threshold: float | None
    """As the user chose it; None for `DEFAULT_RULE`."""


def parse_choice(query: QueryParams, source: str, predictors: list[str]) -> WorklistChoice:
    """Return the checked query of a worklist.

    Args:
        query: Parameters of the URL; missing ones have defaults.
        source: The source.
        predictors: What has predicted it, the best first.

    Raises:
        InvalidInputError: A value is invalid.
    """

    def choose(name: str, choices: tuple[str, ...], default: str) -> str:
        text = query.get(name) or default
        if text not in choices:
            raise InvalidInputError(f"Invalid value for `{name}`: {text[:40]!r}.", f"Use {', '.join(choices)}.")
        return text

    kind = choose("kind", KINDS, "false-negatives" if predictors else "reviewed")
    label = choose("label", (*LABELS, ALL_LABELS), "any")
    truth = {"positive": True, "negative": False}.get(choose("truth", ("positive", "negative", "all"), "all"))
    threshold = _threshold(query.get("threshold", ""))
    of = query.get("of") or (predictors[0] if predictors else "")
    others = [one for one in predictors if one != of]
    request = WorklistRequest(
        kind=kind,  # type: ignore[arg-type]
        label="any" if label == ALL_LABELS and kind in AT_THRESHOLD else label,
        threshold=0.5 if threshold is None else threshold,
        truth=None if kind in AT_THRESHOLD else truth,
        unit=choose("per", UNITS, "slice"),  # type: ignore[arg-type]
    )
    return WorklistChoice(
        request=request,
        source=source,
        of=of,
        versus=(query.get("versus") or (others[0] if others else "")) if kind == "disagreement" else "",
        fold=query_number(query, "fold"),
        scanner=query.get("scanner", ""),
        reviewed="" if kind == "reviewed" else choose("reviewed", ("yes", "no", "all"), "all").replace("all", ""),
        threshold=threshold,
    )


class Worklists:
    """The prepared predictions and the last lists of a site. Threads may share it."""

    def __init__(self, sources: Sources) -> None:
        """Prepare predictions in the helper of `sources`."""
        self._sources = sources
        self._lock = Lock()
        self._prepared = BackgroundResults[Prepared]("ichx-worklist", PREPARED, self._remove)
        self._lists: OrderedDict[tuple[Any, ...], Worklist] = OrderedDict()
        sources.site.closing.callback(self._prepared.close)

    def prepare(self, source: Source, of: str, seconds: float = PREPARE_SECONDS) -> Prepared:
        """Return the predictions `of` an experiment or ensemble for all slices of `source`.

        Raises:
            NotReadyError: They are not read within `seconds`, or do not exist.
            IchxError: They cannot be read.
        """
        key = hashlib.sha256(repr((source.name, str(source.index.folder), of, self._state(source, of))).encode())
        name = key.hexdigest()[:16]
        try:
            return self._prepared.get(name, lambda: self._read(source, of, name), seconds)
        except TimeoutError:
            raise NotReadyError(f"The predictions of {of} are being read.", "Wait a moment.") from None

    def _remove(self, name: str) -> None:
        shutil.rmtree(self._sources.folder / f"predicted-{name}", ignore_errors=True)

    def make(self, source: Source, choice: WorklistChoice, reviews: list[Review], prepared: list[Prepared]) -> Worklist:
        """Return the list of `choice`; `prepared` are the predictions of `of` and `versus`, none for `reviewed`."""
        ids = tuple(review.id for review in reviews) if choice.reviewed or choice.request.kind == "reviewed" else ()
        key = (str(source.index.folder), choice, ids, *(one.key for one in prepared))
        with self._lock:
            found = self._lists.get(key)
        if found is None:
            found = _make(source, choice, reviews, prepared)
        with self._lock:
            self._lists[key] = found
            self._lists.move_to_end(key)
            while len(self._lists) > LISTS:
                self._lists.popitem(last=False)
        return found

    def _state(self, source: Source, of: str) -> list[str]:
        """Return what changes when the stored predictions change."""
        kind, _, number = of.partition(":")
        experiment = parse_number(number)
        if kind != "experiment" or experiment is None or source.version is None:
            return []
        stored = self._sources.site.project.store.predictions(experiment, version_id=source.version.id)
        return [p.digest for p in stored]

    def _read(self, source: Source, of: str, name: str) -> Prepared:
        assert source.version is not None
        folder = self._sources.folder / f"predicted-{name}"
        folder.mkdir(exist_ok=True)
        arguments = {"dataset": source.version.dataset, "number": source.version.number, "of": of}
        arguments |= {"index": str(source.index.folder), "folder": str(folder)}
        facts = self._sources.data.call("predict_worklist", arguments, seconds=PREPARE_SECONDS)
        return Prepared(name, np.load(folder / "predicted.npy", mmap_mode="r"), facts)


def default_threshold(facts: Mapping[str, Any], request: WorklistRequest) -> float:
    """Return the threshold with a sensitivity of 95 % at least; 0.5 without positive and negative rows."""
    points = facts["thresholds"].get(request.unit, {}).get(request.label, [])
    found = [point["threshold"] for point in points if point["rule"] == DEFAULT_RULE]
    return float(found[0]) if found and found[0] is not None else 0.5


def scanners_of(source: Source) -> list[str]:
    """Return the scanners of a source, or pixel formats, which distinguish them."""
    return sorted(set(source.index.studies["scanner"].to_pylist()))


def _make(source: Source, choice: WorklistChoice, reviews: list[Review], prepared: list[Prepared]) -> Worklist:
    from ichx.datasets.arrow_columns import column_values

    index = source.index
    studies = index.studies
    keep = np.ones(index.n, bool)
    if choice.fold is not None:
        keep &= index.column("fold") == choice.fold
    if choice.scanner:
        wanted = np.array([text == choice.scanner for text in studies["scanner"].to_pylist()], bool)
        keep &= wanted[index.column("study")]
    places = [place for place in (index.place(review.slice) for review in reversed(reviews)) if place is not None]
    if choice.reviewed:
        has_review = np.zeros(index.n, bool)
        has_review[places] = True
        keep &= has_review if choice.reviewed == "yes" else ~has_review
    first = column_values(studies["first"])
    if choice.request.kind == "reviewed":
        return _reviewed(index.column("study"), [place for place in dict.fromkeys(places) if keep[place]], choice)
    labels = np.column_stack([index.column(label) for label in LABELS])
    other = prepared[1].predicted if len(prepared) > 1 else None
    data = WorklistData(labels, prepared[0].predicted, first, other, index.study_labels())
    return make_worklist(data, choice.request, keep)


def _reviewed(study: npt.NDArray[Any], places: list[int], choice: WorklistChoice) -> Worklist:
    """Return the reviewed slices, the newest review first, or one of each study."""
    if choice.request.unit == "study":
        places = list({int(study[place]): place for place in reversed(places)}.values())[::-1]
    return Worklist(np.array(places, np.int64), np.full(len(places), np.nan))


def _threshold(text: str) -> float | None:
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise InvalidInputError(f"Invalid value for `threshold`: {text[:40]!r}.", "Use a number from 0 to 1.")
    return value
