"""What a user usually does next with a version of a dataset: a sentence with a command between backticks."""

from typing import TYPE_CHECKING

from ichx.labels import PSEUDO

if TYPE_CHECKING:
    from ichx.store import DatasetVersion


def next_step(version: "DatasetVersion") -> str:
    """Return what usually follows after `version` was added."""
    name, summary = version.dataset, version.summary
    if version.test_of:
        return f"`ichx run NUMBER` predicts it with an experiment on {version.test_of}."
    if PSEUDO in summary:
        labelled = summary[PSEUDO]["trained_on"]["labelled"]
        return f"`ichx exp new --plugin NAME --dataset {labelled}+{name}` trains on it, next to labels."
    if not summary.get("prevalences") and not summary.get("mixture"):
        return f"`ichx data show {name}`; to train on {name}, add it again with --labels."
    if not version.folds:
        return f"`ichx evaluate NUMBER --dataset {name}` scores an experiment on it; it has no folds."
    if summary.get("label_counts", {}).get("groups"):
        settings = "--set 'stage.*.sampling=grouped' --set 'stage.*.per_study=16'"
        return f"`ichx exp new --plugin resnext50 --dataset {name} {settings}`"
    return f"`ichx exp new --plugin resnext50 --dataset {name}`; `ichx plugin list` lists all models."
