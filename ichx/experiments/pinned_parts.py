"""The parts of a mixture in the record of an experiment, and what another workspace lacks of them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ichx.datasets.mixture import mixture_parts
from ichx.errors import MAX_NAME, NotReadyError
from ichx.labels import PSEUDO
from ichx.text import escape, format_command, format_count

if TYPE_CHECKING:
    from ichx.store import DatasetVersion, Store

_FACTS = ("weight", "train_only", "folds", "separate", "label_digest", "slices")


def describe_parts_of(store: "Store", version: "DatasetVersion") -> list[dict[str, Any]]:
    """Return the parts of a mixture as JSON values: how they are mixed, and the origin of pseudo-labels.

    Nothing for other datasets.
    """
    found = []
    for part in mixture_parts(version):
        facts: dict[str, Any] = {"name": part.dataset, "version": part.number}
        facts |= {name: getattr(part, name) for name in _FACTS}
        origin = store.version(part.dataset, part.number).summary.get(PSEUDO)
        if origin is not None:
            by = origin["by"]
            facts["pseudo"] = {"of": origin["of"]["dataset"], "by": f"{by['kind']}:{by['number']}"}
        found.append(facts)
    return found


def missing_dataset(store: "Store", pinned: Mapping[str, Any]) -> NotReadyError:
    """Return the error for an experiment whose dataset, recorded as `pinned`, this workspace lacks.

    Raises `ValueError` and the like for invalid values.
    """
    name = _name(pinned["name"])
    parts = list(pinned.get("parts", ()))
    if not parts:
        return NotReadyError(
            f"The experiment was trained on the dataset {_described(pinned)}, which is not in this workspace.",
            f"Add it first: {format_command('ichx data add', name, 'PATH', '--labels', 'CSV')}.",
        )
    here = {_name(part["name"]): _version_here(store, part) for part in parts}
    missing = [part for part in parts if here[_name(part["name"])] is None]
    problem = f"The experiment was trained on the mixture {_described(pinned)}, which is not in this workspace"
    if missing:
        which = "is its part" if len(missing) == 1 else "are its parts"
        problem += f", nor {which} {', '.join(map(_described, missing))}"
    commands = [_addition(part) for part in missing] + [_mixing(name, parts, here)]
    return NotReadyError(f"{problem}.", f"Add them first, with the same labels and folds: {', then '.join(commands)}.")


def _described(facts: Mapping[str, Any]) -> str:
    """Return e.g. `rsna version 2 (752,803 slices, labels 0123456789ab)`."""
    size = format_count(int(facts["slices"]), "slice")
    return f"{_name(facts['name'])} version {int(facts['version'])} ({size}, labels {str(facts['label_digest'])[:12]})"


def _version_here(store: "Store", part: Mapping[str, Any]) -> str | None:
    """Return the dataset with the labels of a part, e.g. `ours@2`; None if there is none."""
    for dataset in store.datasets():
        for number in store.version_numbers(dataset.name):
            if store.version(dataset.name, number).label_digest == part["label_digest"]:
                newest = number == store.version(dataset.name).number
                return dataset.name if newest else f"{dataset.name}@{number}"
    return None


def _addition(part: Mapping[str, Any]) -> str:
    """Return the command that adds a part."""
    name, pseudo = _name(part["name"]), part.get("pseudo")
    if pseudo is not None:
        return format_command("ichx data pseudo", name, "--of", _name(pseudo["of"]), "--by", _name(pseudo["by"]))
    return format_command("ichx data add", name, "PATH", "--labels", "CSV")


def _mixing(name: str, parts: list[Mapping[str, Any]], here: Mapping[str, str | None]) -> str:
    """Return the command that mixes the parts; those of this workspace may have other names."""
    arguments = list[str]()
    for part in parts:
        own = here[_name(part["name"])] or _name(part["name"])
        weight = float(part["weight"])
        pseudo = part.get("pseudo") is not None
        arguments += ["--train-only" if part["train_only"] and not pseudo else "--of"]
        arguments += [own if weight == 1 else f"{own}={weight:g}"]
        if part["separate"]:
            arguments += ["--separate-patients", own.partition("@")[0]]
    folds = {str(part["folds"]) for part in parts if part["folds"]} - {"default"}
    for fold_set in sorted(folds)[:1]:
        arguments += ["--folds", _name(fold_set)]
    return format_command("ichx data mix", name, *arguments)


def _name(value: object) -> str:
    """Return a name of a record that may come from another person, safe to print."""
    return escape(str(value), lines=True)[:MAX_NAME]
