"""Which experiments are blended: those that were named, or the complete ones that share data and folds.

Experiments belong together when their dataset versions have the same files and labels and their folds the same slices;
a version made by importing other folds changes none of that. Not for their predictions (`ichx.evaluation.oof`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from ichx.datasets.dataset import load_folds, load_version
from ichx.errors import IchxError, raise_problems
from ichx.labels import LABELS
from ichx.store import Selection
from ichx.text import format_count, format_examples

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import DatasetVersion, Experiment, ExperimentSummary, Store


@dataclass(frozen=True)
class Chosen:
    """Experiments to blend, on a dataset version's folds of one digest; only their `folds` count, of `k`."""

    version: "DatasetVersion"
    fold_digest: str
    experiments: "tuple[Experiment, ...]"
    folds: tuple[int, ...]
    k: int
    notes: tuple[str, ...]

    @property
    def partial(self) -> str | None:
        """Which folds are blended, where these are not all."""
        return None if len(self.folds) == self.k else f"{len(self.folds)} of {self.k} folds"


def named(project: "Project", numbers: Sequence[int], dataset: str | None) -> Chosen:
    """Return the experiments with these `numbers`, and the folds that all of them have finished.

    Raises `IchxError` for experiments that do not belong together, with what differs and how much.
    """
    twice = sorted({n for n in numbers if numbers.count(n) > 1})
    if twice:
        raise IchxError(f"named more than once: {', '.join(map(str, twice))}", "name each experiment once")
    experiments = [project.store.experiment(number) for number in numbers]
    trials = [f"{e.number} is a tuning trial, which predicts no test set" for e in experiments if e.kind == "trial"]
    raise_problems(
        trials, "`ichx exp promote NUMBER` makes a trial an experiment, which can be blended once it has run"
    )
    first = experiments[0]
    problems = [
        f"{e.number} is on {e.dataset}, not on {dataset}" for e in experiments if dataset not in (None, e.dataset)
    ]
    raise_problems(problems, "blend experiments on one dataset")
    problems = [
        f"{e.number} and {first.number} do not belong together: {_difference(project, e, first)}"
        for e in experiments
        if _pinned(project.store, e) != _pinned(project.store, first)
    ]
    raise_problems(problems, "members of an ensemble share files, labels and folds")
    finished = [{p.fold for p in project.store.predictions(e.number, role="oof")} for e in experiments]
    unfinished = [
        f"experiment {e.number} has no finished fold" for e, f in zip(experiments, finished, strict=True) if not f
    ]
    raise_problems(unfinished, "run it first: `ichx run NUMBER`")
    common = sorted(set.intersection(*finished))
    if not common:
        raise IchxError("no fold is finished by every member", "run one fold for all: `ichx run NUMBER --fold 0`")
    chosen = Chosen(
        version=project.store.version_by_id(first.version_id),
        fold_digest=first.fold_digest,
        experiments=tuple(experiments),
        folds=tuple(common),
        k=first.folds,
        notes=(f"the folds {first.fold_set} split patients: every score here flatters",) if first.leaked else (),
    )
    if chosen.partial is None:
        return chosen
    return replace(chosen, notes=(*chosen.notes, f"blended on the folds that every member has: {chosen.partial}"))


def candidates(store: "Store", dataset: str | None) -> Chosen:
    """Return the complete experiments that share data and folds with the newest, and a line for each one left out."""
    if dataset is not None:
        store.dataset(dataset)
    summaries = store.experiments(Selection(dataset=dataset, archived=False), limit=None)
    names = sorted({e.dataset for e in summaries})
    if len(names) > 1:
        raise IchxError(f"experiments on {len(names)} datasets: {', '.join(names)}", "choose one with --dataset NAME")
    done = [e for e in summaries if e.state == "done" and not e.leaked]
    if not done:
        where = f" on {dataset}" if dataset else ""
        leaked = any(e.leaked and e.state == "done" for e in summaries)
        raise IchxError(
            "\n".join(
                [f"no experiment{where} is complete" + " and fit to be ranked" * leaked, *_incomplete(summaries)]
            ),
            "run one with `ichx run NUMBER`" + ", or blend leaky ones, marked, with `--members`" * leaked,
        )
    complete = [store.experiment(e.number) for e in done]
    newest = max(complete, key=lambda e: e.number)
    pinned = _pinned(store, newest)
    same = [e for e in complete if _pinned(store, e) == pinned]
    version = store.version_by_id(newest.version_id)
    apart = [_titled(e) for e in sorted(complete, key=lambda e: e.number) if e not in same]
    notes = _told(apart, f"left out: other data or folds than {newest.number}, the newest")
    return Chosen(
        version=version,
        fold_digest=newest.fold_digest,
        experiments=tuple(same),
        folds=tuple(range(newest.folds)),
        k=newest.folds,
        notes=(*notes, *_incomplete(summaries)),
    )


def _incomplete(summaries: "Sequence[ExperimentSummary]") -> list[str]:
    """Return a line for the experiments whose folds leak, and one for those that are not complete."""
    ordered = sorted(summaries, key=lambda e: e.number)
    leaky = [_titled(e) for e in ordered if e.leaked]
    undone = [
        f"{_titled(e)}: {e.folds_done} of {e.folds} folds, {e.state}"
        for e in ordered
        if e.state != "done" and not e.leaked
    ]
    return _told(leaky, "left out: their folds leak patients") + _told(undone, "not complete")


def _told(found: Sequence[str], what: str) -> list[str]:
    """Return a line that counts experiments and names the first, nothing where there are none."""
    return [f"{format_count(len(found), 'experiment')} {what}{format_examples(found, len(found))}"] if found else []


def _titled(experiment: "Experiment | ExperimentSummary") -> str:
    return f"{experiment.number} ({experiment.name})"


def _pinned(store: "Store", experiment: "Experiment") -> tuple[str, str, str]:
    """Return the digests of files, labels and folds that members of one ensemble share."""
    return store.version_by_id(experiment.version_id).digest, experiment.label_digest, experiment.fold_digest


def _difference(project: "Project", one: "Experiment", other: "Experiment") -> str:
    """Return in what two experiments differ, and in how many slices."""
    slices, folds = [], []
    for experiment in (one, other):
        version = project.store.version_by_id(experiment.version_id)
        fold_set = next(f for f in version.folds if f.id == experiment.fold_set_id)
        table = load_version(project.workspace, version).slices
        folds.append(
            load_folds(project.workspace, version, fold_set, table)[np.argsort(table["slice_id"].to_numpy(str))]
        )
        slices.append(table.sort_values("slice_id", ignore_index=True))
    ids = [table["slice_id"].to_numpy(object) for table in slices]
    if only := len(set(ids[0]) ^ set(ids[1])):
        return f"{format_count(only, 'slice')} {'is' if only == 1 else 'are'} only in one of their datasets"
    labels = [table[list(LABELS)].to_numpy() for table in slices]
    told = [
        (int((labels[0] != labels[1]).any(axis=1).sum()), "other labels"),
        (int((folds[0] != folds[1]).sum()), f"another fold ({one.fold_set}, {other.fold_set})"),
    ]
    parts = [f"{format_count(count, 'slice')} with {what}" for count, what in told if count]
    return ", ".join(parts) or f"the files of {one.dataset} have other headers or sizes"
