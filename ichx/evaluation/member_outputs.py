"""What the members of a sequence experiment have predicted: logits of each slice, and which files they come from.

Pooled features are in `ichx.experiments.member_features`.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.errors import ChangedDataError, CorruptFileError
from ichx.evaluation.choices import views_of
from ichx.evaluation.oof import fold_problems
from ichx.evaluation.predictions import read_predictions
from ichx.files import sha256_file, write_text
from ichx.labels import LABELS
from ichx.recipe_text import from_toml
from ichx.text import parse_json

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Experiment, Prediction

Float32Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class MemberInputs:
    """What a fold of a sequence experiment has read of one member."""

    id: str
    """Id of the member, the same in copies of its store."""
    number: int
    name: str
    weights: str | None
    """SHA-256 of the weights of the member's fold; None without features among the inputs."""
    predictions: dict[str, str]
    """SHA-256 of its OOF predictions by fold and view, e.g. `0/identity`; empty without logits among the inputs."""


@dataclass(frozen=True)
class FoldInputs:
    """What a fold of a sequence experiment has read. It is recorded with the weights of the fold."""

    members: tuple[MemberInputs, ...]

    @property
    def digest(self) -> str:
        """A digest of all of it, whatever the numbers and names of the members."""
        facts = [[member.id, member.weights, sorted(member.predictions.items())] for member in self.members]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def write(self, path: Path) -> None:
        """Write the record. Raises `StorageError`."""
        text = json.dumps({"members": [asdict(member) for member in self.members]}, indent=1) + "\n"
        write_text(path, text, "the record of the inputs")

    def differences(self, now: "FoldInputs") -> list[str]:
        """Return in which members `now` differs."""
        changed = [
            f"experiment {new.number} ({new.name})"
            for old, new in zip(self.members, now.members, strict=False)
            if (old.id, old.weights, old.predictions) != (new.id, new.weights, new.predictions)
        ]
        return changed if len(self.members) == len(now.members) else [*changed, "other members"]


def read_inputs(path: Path) -> FoldInputs | None:
    """Return the record of a fold's inputs; None if there is none. Raises `CorruptFileError`."""
    try:
        found: dict[str, Any] = parse_json(path.read_bytes())
        return FoldInputs(tuple(MemberInputs(**member) for member in found["members"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(
            f"{path} is damaged: {error}.", "Restore it from a backup, or remove the weights of the fold to retrain it."
        ) from error


def inputs_of(experiment: "Experiment") -> tuple[str, ...]:
    """Return what a sequence experiment reads of its members: `logits`, `features`."""
    sequence = from_toml(experiment.recipe).sequence
    return () if sequence is None else sequence.inputs


def current_inputs(project: "Project", experiment: "Experiment", fold: int) -> FoldInputs:
    """Return the inputs that a training of `fold` would read now."""
    kinds = inputs_of(experiment)
    members = []
    for number in experiment.members:
        member = project.store.experiment(number)
        weights = project.workspace.experiment_files(number).fold(fold).weights
        stored = project.store.predictions(number, role="oof") if "logits" in kinds else []
        members.append(
            MemberInputs(
                id=member_id(member),
                number=number,
                name=member.name,
                weights=sha256_file(weights) if "features" in kinds and weights.is_file() else None,
                predictions={f"{p.fold}/{p.view}": p.digest for p in stored},
            )
        )
    return FoldInputs(tuple(members))


def member_id(member: "Experiment") -> str:
    """Return the id by which a member is recognized in any workspace: that of the original for an imported one."""
    return str((member.origin or {}).get("id", member.id))


def trained_inputs(weights: Path) -> str | None:
    """Return the digest of the inputs that the `weights` of a fold were trained on; None if they do not name it.

    Raises:
        CorruptFileError: The file is damaged.
    """
    import safetensors

    try:
        with safetensors.safe_open(weights, framework="numpy") as opened:
            return (opened.metadata() or {}).get("inputs")
    except (OSError, safetensors.SafetensorError) as error:
        raise CorruptFileError(f"Cannot read {weights}: {error}.", "Restore it from a backup.") from error


def check_inputs(project: "Project", experiment: "Experiment", fold: int) -> None:
    """Raise `ChangedDataError` if a member was retrained since a trained `fold` has read it.

    The weights contain the digest of the inputs; the record next to them names the members.
    """
    files = project.workspace.experiment_files(experiment.number).fold(fold)
    recorded, now = read_inputs(files.inputs), current_inputs(project, experiment, fold)
    digests = {None if recorded is None else recorded.digest}
    digests |= {trained_inputs(files.weights)} if files.weights.is_file() else set()
    if digests - {None, now.digest}:
        changed = [] if recorded is None else recorded.differences(now)
        raise ChangedDataError(
            f"Fold {fold} of experiment {experiment.number} was trained on other outputs of "
            f"{', '.join(changed) or 'its members'} than there are now.",
            f"Restore these from a backup, or train on the new ones: `ichx exp clone {experiment.number}`.",
        )


def oof_logits(
    project: "Project",
    members: "Sequence[Experiment]",
    slice_ids: npt.NDArray[np.object_],
    folds: npt.NDArray[np.int16],
) -> Float32Array:
    """Return the OOF logits `(N, M, 6)` of the members, means over their views; NaN where one has none.

    Args:
        project: The open project.
        members: M experiments.
        slice_ids: `(N,)` ids of the slices.
        folds: `(N,)` folds of the slices.

    Raises:
        ChangedDataError: Predictions are missing, changed, or of slices of another fold.
    """
    index = pd.Index(slice_ids)
    found = np.full((len(slice_ids), len(members), len(LABELS)), np.nan, np.float32)
    for at, member in enumerate(members):
        stored = project.store.predictions(member.number, role="oof")
        for fold in sorted({p.fold for p in stored}):
            ids, logits = fold_logits(project, member, stored, fold)
            recorded = next(p.slices for p in stored if p.fold == fold)
            if problems := fold_problems(ids, index, folds, fold, recorded):
                raise ChangedDataError(
                    f"Experiment {member.number}, fold {fold}: {'; '.join(problems)}.",
                    f"These predictions cannot be trusted: `ichx audit {member.number}` checks all of them.",
                )
            found[index.get_indexer(pd.Index(ids)), at] = logits
    return found


def set_logits(
    project: "Project",
    members: "Sequence[Experiment]",
    slice_ids: npt.NDArray[np.object_],
    fold: int,
    version_id: int,
) -> Float32Array:
    """Return the logits `(N, M, 6)` of fold `fold` of the members for another dataset, like `oof_logits`."""
    index = pd.Index(slice_ids)
    found = np.full((len(slice_ids), len(members), len(LABELS)), np.nan, np.float32)
    for at, member in enumerate(members):
        stored = project.store.predictions(member.number, version_id=version_id)
        ids, logits = fold_logits(project, member, stored, fold)
        rows = index.get_indexer(pd.Index(ids))
        if (rows < 0).any():
            raise ChangedDataError(
                f"Experiment {member.number}, fold {fold} predicts {int((rows < 0).sum()):,} slices that are not in "
                "the dataset version.",
                f"Rerun `ichx run {member.number}`.",
            )
        found[rows, at] = logits
    return found


def fold_logits(
    project: "Project", member: "Experiment", stored: "Sequence[Prediction]", fold: int
) -> tuple[npt.NDArray[np.object_], Float32Array]:
    """Return the slice ids and the mean logits over all views, `(n, 6)`, of one fold of a member.

    Raises:
        ChangedDataError: A view is missing or changed, or views are of different slices.
    """
    by_view = {p.view: p for p in stored if p.fold == fold}
    views, ids = list[Float32Array](), None
    for view in views_of(member):
        if view not in by_view:
            raise ChangedDataError(
                f"Experiment {member.number}, fold {fold} has no predictions of the view {view!r}.",
                f"Rerun `ichx run {member.number}`, which predicts what is missing.",
            )
        path = project.workspace.root / by_view[view].path
        read = read_predictions(path)
        if sha256_file(path) != by_view[view].digest:
            raise ChangedDataError(
                f"{path} was changed: its SHA-256 is not {by_view[view].digest[:12]}..., as recorded.",
                "Restore the file, or delete it and rerun `ichx run`, which predicts what is missing.",
            )
        if ids is not None and not np.array_equal(ids, read.slice_ids):
            raise ChangedDataError(
                f"Two views of fold {fold} of experiment {member.number} predict different slices.",
                f"Rerun `ichx run {member.number}`.",
            )
        ids = read.slice_ids
        views.append(read.logits)
    assert ids is not None
    return ids, np.stack(views).mean(axis=0, dtype=np.float64).astype(np.float32)
