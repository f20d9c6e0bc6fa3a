"""Requests for mixtures, and whether the datasets that they name can be mixed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ichx.datasets.mixture import mixture_parts
from ichx.datasets.new_version import check_name
from ichx.errors import ConflictError, raise_problems
from ichx.labels import PSEUDO
from ichx.store import DatasetVersion, FoldSet, Store

JOINT: Final = "+"
"""Between the names of the parts in the name of a mixture of equal parts, e.g. `rsna+ours`."""
MAX_WEIGHT: Final = 1000.0


@dataclass(frozen=True)
class PartRequest:
    """A part of a requested mixture."""

    dataset: str
    number: int | None = None
    """Version; None for the newest."""
    weight: float = 1.0
    train_only: bool = False
    """Its slices train in every fold and are scored in none; it needs no folds."""
    separate: bool = False
    """Its patients are other people even where their ids are those of patients of other parts."""


@dataclass(frozen=True)
class MixRequest:
    """What `mix_datasets` creates."""

    name: str
    parts: tuple[PartRequest, ...]
    folds: str | None = None
    """Name of the folds of each part that is scored; None for the default ones."""


def joint_request(name: str) -> MixRequest:
    """Return the request for a mixture of equal parts with a name such as `rsna+ours`."""
    return MixRequest(name, tuple(PartRequest(part) for part in name.split(JOINT)))


def check_request(store: Store, request: MixRequest) -> None:
    """Raise an error that names all problems of a request."""
    names = [part.dataset for part in request.parts]
    if request.name != JOINT.join(names):
        check_name(request.name, "a mixture")
    problems = [f"Dataset {name!r} is named twice." for name in sorted({n for n in names if names.count(n) > 1})]
    if len(names) < 2:
        problems.append(f"A mixture has at least two parts, not {len(names)}.")
    for part in request.parts:
        if not 0 < part.weight <= MAX_WEIGHT:
            problems.append(f"Invalid weight of {part.dataset}: {part.weight:g}. Use a number over 0, up to 1000.")
    if request.parts and all(part.train_only for part in request.parts):
        problems.append("All parts train only: no slice would be scored.")
    raise_problems(problems, "Name each part once, e.g. `ichx data mix both --of rsna --of ours=0.5`.")
    datasets = {dataset.name: dataset for dataset in store.datasets()}
    for name in names:
        if not store.dataset(name).trainable:
            problems.append(f"Dataset {name!r} has no labels.")
        elif mixture_parts(store.version(name)):
            problems.append(f"Dataset {name!r} is a mixture itself: name its parts.")
    if request.name in datasets and not mixture_parts(store.version(request.name)):
        problems.append(f"Dataset {request.name!r} exists and is not a mixture.")
    if problems:
        raise ConflictError("\n".join(problems), "Mix labelled datasets under a new name.")


def fold_sets_of(request: MixRequest, versions: Sequence[DatasetVersion]) -> list[FoldSet | None]:
    """Return the folds of each part, None for one that trains only."""
    pairs = list(zip(request.parts, versions, strict=True))
    without = [version.dataset for part, version in pairs if not part.train_only and not version.folds]
    if without:
        raise ConflictError(
            f"{', '.join(without)} has no folds, so that its slices cannot be scored out of fold.",
            f"Let it train only (`--train-only {without[0]}`), or give it folds (`ichx data add ... --folds 5`).",
        )
    found = [
        None if part.train_only or PSEUDO in version.summary else version.fold_set(request.folds)
        for part, version in pairs
    ]
    if not any(found):
        raise ConflictError("All parts train only: no slice would be scored.", "Mix with a labelled dataset.")
    sizes = {part.dataset: fold_set.k for part, fold_set in zip(request.parts, found, strict=True) if fold_set}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {k}" for name, k in sizes.items())
        raise ConflictError(
            f"The parts have different numbers of folds: {listed}.",
            "Add one again with the folds of the other (`ichx data add ... --folds`), import folds and name them with "
            "--folds, or let it train only (`--train-only`).",
        )
    return found
