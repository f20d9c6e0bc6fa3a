"""The record of an experiment, `experiment.json` of its folder and of archives: checked values as drafts for the store.

A record may come from another person: values of the wrong type, length or range raise `ValueError` and the like.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ichx.errors import MAX_NAME, NotReadyError
from ichx.evaluation.choices import CALIBRATED
from ichx.evaluation.member_outputs import member_id
from ichx.experiments.pinned_parts import missing_dataset
from ichx.experiments.register import image_facts
from ichx.recipe import Recipe
from ichx.store import EpochRecord, ExperimentDraft, ImportDraft, Note, PredictionDraft, Run, Selection, TuningInfo
from ichx.text import escape

if TYPE_CHECKING:
    from ichx.store import DatasetVersion, FoldSet, Store


def import_draft(
    index: Mapping[str, Any],
    recipe: Recipe,
    pinned: "tuple[DatasetVersion, FoldSet]",
    origin: Mapping[str, Any] | None,
    predictions: Sequence[PredictionDraft],
    members: Sequence[int] = (),
) -> ImportDraft:
    """Return the draft of the experiment that `index` describes. Raises `ValueError` and the like for invalid values.

    Args:
        index: Contents of `experiment.json`.
        recipe: Its recipe.
        pinned: The dataset version and folds to pin it to, see `pinned_version`.
        origin: Its number and workspace before an import.
        predictions: Those of its predictions whose files are there.
        members: Numbers of its members, see `find_members`.
    """
    facts, (version, fold_set) = index["experiment"], pinned
    size, window_kind = image_facts(recipe)
    return ImportDraft(
        experiment=ExperimentDraft(
            name=_name(facts["name"]),
            plugin=recipe.plugin,
            size=size,
            window_kind=window_kind,
            recipe=str(facts["recipe"]),
            recipe_digest=str(facts["recipe_digest"]),
            version_id=version.id,
            label_digest=version.label_digest or "",
            fold_set_id=fold_set.id,
            fold_digest=fold_set.digest,
            epochs=0 if facts.get("external") else recipe.epochs,
            kind="trial" if facts["kind"] == "trial" else "experiment",
            selected=bool(facts["selected"]),
            origin=origin,
            tuned=_tuned(facts.get("tuned")),
            subset=_share(facts.get("subset", 1.0)),
            external=bool(facts.get("external")),
            members=tuple(members),
        ),
        runs=tuple(_run(entry, fold_set.k) for entry in index["runs"]),
        history={fold: _history(index["history"].get(str(fold), [])) for fold in range(fold_set.k)},
        predictions=tuple(predictions),
        tags=tuple(map(_name, index["tags"])),
        notes=tuple(
            Note(id=0, experiment=0, created=parse_date(note["created"]), text=str(note["text"]))
            for note in index["notes"]
        ),
    )


def find_members(store: "Store", index: Mapping[str, Any]) -> list[int]:
    """Return the numbers that the members of the experiment of `index` have in this store.

    Raises:
        NotReadyError: One is missing.
    """
    wanted = [
        (str(facts["id"]), record_number(facts["number"]), _name(facts["name"])) for facts in index.get("members", ())
    ]
    if not wanted:
        return []
    summaries = store.experiments(Selection(kind=None), limit=None)
    known = {member_id(e): e.number for e in (store.experiment(s.number) for s in summaries)}
    missing = [f"{number} ({name})" for id, number, name in wanted if id not in known]
    if missing:
        raise NotReadyError(
            f"The experiment reads experiments that are not in this workspace: {', '.join(missing)}.",
            "Import these first; `ichx exp export NUMBER FILE --weights` writes them in the other workspace.",
        )
    return [known[id] for id, _, _ in wanted]


def pinned_version(store: "Store", pinned: Mapping[str, Any]) -> "tuple[DatasetVersion, FoldSet]":
    """Return the dataset version and folds of this workspace with the same slices, labels and assignment.

    Raises:
        NotReadyError: There is none; the error names the missing parts of a mixture and the commands that add them.
    """
    same_labels = None
    wanted = (pinned["name"], pinned["version"])
    for dataset in store.datasets():
        numbers = store.version_numbers(dataset.name)
        for number in sorted(numbers, key=lambda n: ((dataset.name, n) != wanted, -n)):
            version = store.version(dataset.name, number)
            if version.label_digest != pinned["label_digest"]:
                continue
            same_labels = version
            for fold_set in version.folds:
                if fold_set.digest == pinned["fold_digest"]:
                    return version, fold_set
    if same_labels is None:
        raise missing_dataset(store, pinned)
    raise NotReadyError(
        f"{same_labels.dataset} has the slices and labels of the experiment, but not its {pinned['folds']} folds "
        f"{pinned['fold_set']!r} (digest {str(pinned['fold_digest'])[:12]}).",
        f"Import them first: `ichx data folds {same_labels.dataset} --import FILE`.",
    )


def record_number(value: Any) -> int:
    """Return the number of an experiment or ensemble in an archive. Raises `ValueError` unless it is positive."""
    if type(value) is not int or value < 1:
        raise ValueError(f"invalid number {value!r}")
    return value


def workspace_name(index: Mapping[str, Any]) -> str:
    """Return the name of the workspace from which an experiment was exported."""
    return escape(str(index["workspace"]), lines=True)[:MAX_NAME]


def finite_score(value: Any) -> float:
    """Return `value` as a score. Raises `ValueError` and the like if it is not a finite number."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"it has a score {number}")
    return number


def parse_date(text: str) -> datetime:
    """Return a date of `experiment.json`."""
    return datetime.fromisoformat(text).astimezone()


def _name(text: object) -> str:
    """Return a name from the archive as the command line would accept it; ichx 0.1 allowed control characters.

    Raises `ValueError` if nothing is left of it.
    """
    name = escape(str(text), lines=True)[:MAX_NAME].strip()
    if not name:
        raise ValueError("it has an empty name")
    return name


def _tuned(facts: Mapping[str, Any] | None) -> TuningInfo | None:
    """Return the trial that the experiment is, if any. Raises `ValueError` and the like for invalid values."""
    if facts is None:
        return None
    if not all(isinstance(value, int | float | str) for value in facts["values"].values()):
        raise ValueError("a trial has values that are neither numbers nor texts")
    return TuningInfo(
        study=_name(facts["study"]),
        trial=int(facts["trial"]),
        fold=int(facts["fold"]),
        values={str(name)[:200]: value for name, value in facts["values"].items()},
        subset=_share(facts["subset"]),
        length=_share(facts["length"]),
        score=None if facts["score"] is None else float(facts["score"]),
        objective=CALIBRATED if facts.get("objective") == CALIBRATED else "score",
    )


def _share(value: Any) -> float:
    """Return `value` as a share of patients or epochs. Raises `ValueError` and the like if it is not in (0, 1]."""
    share = float(value)
    if not 0 < share <= 1:
        raise ValueError(f"invalid share of patients or epochs: {share:g}")
    return share


def _run(entry: Mapping[str, Any], folds: int) -> Run:
    fold, attempt = int(entry["fold"]), int(entry["attempt"])
    if not 0 <= fold < folds:
        raise ValueError(f"it has a run of fold {fold}")
    return Run(
        id=0,
        experiment=0,
        fold=fold,
        attempt=attempt,
        state=str(entry["state"]),
        host=str(entry["host"])[:255],
        pid=int(entry["pid"]),
        started=parse_date(entry["started"]),
        heartbeat=parse_date(entry["heartbeat"]),
        ended=None if entry["ended"] is None else parse_date(entry["ended"]),
        stage=None if entry["stage"] is None else str(entry["stage"])[:200],
        epoch=None if entry["epoch"] is None else int(entry["epoch"]),
        epochs_done=int(entry["epochs_done"]),
        code_version=str(entry["code_version"]),
        device=str(entry["device"]),
        command=str(entry["command"]),
        libraries={str(k): str(v) for k, v in dict(entry["libraries"]).items()},
        provenance=None if entry["provenance"] is None else dict(entry["provenance"]),
        error=None if entry["error"] is None else str(entry["error"]),
    )


def _history(entries: Iterable[Mapping[str, Any]]) -> tuple[EpochRecord, ...]:
    return tuple(
        EpochRecord(
            stage=str(entry["stage"])[:200],
            stage_index=int(entry["stage_index"]),
            epoch=int(entry["epoch"]),
            values={str(k)[:200]: float("nan") if v is None else float(v) for k, v in dict(entry["values"]).items()},
        )
        for entry in entries
    )
