"""What changes on the page of an experiment while it runs, and which part of it a browser does not have yet."""

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ichx.errors import IchxError, NotFoundError
from ichx.experiments.progress import remaining_seconds
from ichx.formatting import format_duration, format_score, format_value
from ichx.store.runs import LIVE_STATES
from ichx.web.curves import MAX_POINTS, Stage, curves, planned_stages
from ichx.web.numbers import parse_number

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import EpochRecord, Experiment, Run

DIGEST_DIGITS: Final = 10
"""Maximum number of digits of a checksum of 32 bits."""
COLUMNS: Final = ("run", "state", "stage", "epochs", "score", "rate", "memory", "left", "took", "error", "job")
"""What the page shows of the newest run of a fold."""


@dataclass(frozen=True)
class FoldHistory:
    """The epochs of a fold."""

    version: tuple[Any, ...]
    """Changes when the epochs may have changed."""
    records: "tuple[EpochRecord, ...]"
    digests: tuple[int, ...]
    """Of the first 0, 1, 2, ... records."""

    @classmethod
    def of(cls, version: tuple[Any, ...], records: "list[EpochRecord]") -> "FoldHistory":
        """Return the history with these epochs."""
        digests = [0]
        for record in records:
            text = f"{record.stage_index} {record.epoch} {sorted(record.values.items())}"
            digests.append(zlib.crc32(text.encode(), digests[-1]))
        return cls(version, tuple(records), tuple(digests))


@dataclass(frozen=True)
class LiveState:
    """The state of an experiment."""

    stages: tuple[Stage, ...]
    folds: Mapping[int, FoldHistory]
    """By fold, for folds with an epoch."""
    status: Mapping[str, Any]
    """What the page shows about the runs, as JSON values."""
    over: bool
    """Whether nothing will change any more: all folds are done and scored, or the experiment is gone."""


def read_live(opened: "Callable[[], Project]", number: int, before: LiveState | None) -> LiveState:
    """Return the state of experiment `number`; only the epochs that `before` lacks are read.

    A store that cannot be opened or read is part of the status.
    """
    try:
        project = opened()
        experiment = project.store.experiment(number)
        runs: dict[int, Run] = {run.fold: run for run in project.store.runs(number)}  # the newest run wins
        folds = {}
        for fold, run in runs.items():
            version = (run.id, run.heartbeat, run.state)
            known = before.folds.get(fold) if before is not None else None
            if known is None or known.version != version:
                known = FoldHistory.of(version, project.store.history(number, fold))
            folds[fold] = known
    except NotFoundError as error:
        return LiveState((), {}, {"problem": error.problem, "runs": []}, over=True)
    except IchxError as error:
        kept = before or LiveState((), {}, {"runs": []}, over=False)
        return LiveState(kept.stages, kept.folds, {**kept.status, "problem": error.problem}, over=False)
    stages = before.stages if before is not None and before.stages else planned_stages(experiment)
    status = _status(project, experiment, runs, folds)
    over = experiment.external or experiment.trashed is not None
    over |= experiment.folds_done == experiment.folds and experiment.score is not None and experiment.state == "done"
    return LiveState(stages, {fold: one for fold, one in folds.items() if one.records}, status, over)


def _status(
    project: "Project", experiment: "Experiment", runs: "Mapping[int, Run]", folds: Mapping[int, FoldHistory]
) -> dict[str, Any]:
    files = project.workspace.experiment_files(experiment.number)
    rows = []
    for fold in range(experiment.folds):
        size = 0
        with suppress(OSError):
            size = files.fold(fold).log.stat().st_size
        run = runs.get(fold)
        row: dict[str, Any] = {**dict.fromkeys(COLUMNS), "fold": fold, "state": "new", "log": size}
        rows.append(row if run is None else row | _run_row(experiment, run, folds[fold].records))
    return {
        "state": experiment.state,
        "folds": f"{experiment.folds_done} of {experiment.folds}",
        "score": format_score(experiment),
        "tta": format_value(experiment.score_tta),
        "time": None if experiment.seconds is None else format_duration(experiment.seconds),
        "runs": rows,
        "problem": None,
    }


def _run_row(experiment: "Experiment", run: "Run", records: "tuple[EpochRecord, ...]") -> dict[str, Any]:
    values = records[-1].values if records else {}
    live = run.state in LIVE_STATES
    left = remaining_seconds(experiment, run, records) if live else None
    return {
        "state": run.state,
        "run": run.attempt,
        "stage": run.stage,
        "epochs": f"{run.epochs_done}/{experiment.epochs}",
        "score": format_value(values["score"]) if "score" in values else None,
        "rate": f"{values['images_per_second']:,.0f}/s" if "images_per_second" in values else None,
        "memory": f"{values['memory_gb']:.2f} GB" if "memory_gb" in values else None,
        "left": None if left is None else format_duration(left),
        "took": None if live else format_duration(((run.ended or run.heartbeat) - run.started).total_seconds()),
        "error": run.error,
        "job": run.job,
    }


@dataclass
class Client:
    """A browser with a part of the state."""

    sent: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Number and digest of the epochs that it has, by fold."""
    _status: Mapping[str, Any] | None = None

    @classmethod
    def at(cls, cursor: str) -> "Client":
        """Return the browser that has received the update `cursor`; an invalid one has nothing."""
        sent = {}
        for part in cursor.split(","):
            numbers = [parse_number(text, DIGEST_DIGITS) for text in part.split(":")]
            match numbers:
                case [int(fold), int(count), int(digest)]:
                    sent[fold] = (count, digest)
        return cls(sent)

    @property
    def cursor(self) -> str:
        """The update that it has received, in a form that another server process understands, too."""
        return ",".join(f"{fold}:{count}:{digest}" for fold, (count, digest) in sorted(self.sent.items()))

    def updates(self, state: LiveState) -> Iterator[dict[str, Any]]:
        """Yield what it does not have: nothing, or one update. `folds` are new epochs, or all with `replace`."""
        folds, replace = {}, []
        for fold, history in state.folds.items():
            count, digest = self.sent.get(fold, (0, -1))
            new = (len(history.records), history.digests[-1])
            if (count, digest) == new:
                continue
            appends = 0 < count < new[0] and history.digests[count] == digest and new[0] <= MAX_POINTS
            folds[str(fold)] = curves(state.stages, history.records[count if appends else 0 :])
            if not appends:
                replace.append(fold)
            self.sent[fold] = new
        gone = [fold for fold in self.sent if fold not in state.folds] if state.folds else []
        for fold in gone:
            folds[str(fold)] = {}
            replace.append(fold)
            del self.sent[fold]
        update: dict[str, Any] = {"folds": folds, "replace": replace} if folds else {}
        if state.status != self._status:
            self._status = update["status"] = state.status
        if update:
            yield update


def event(name: str, cursor: str, value: object) -> str:
    """Return a server-sent event; `cursor` is its id, with which a browser reconnects."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return f"event: {name}\nid: {cursor}\ndata: {text}\n\n"
