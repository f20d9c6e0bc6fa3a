"""Members of an ensemble: the requested experiments, or the complete ones that share data and folds.

Their predictions are read in `ichx.evaluation.oof`. Experiments can be blended if their dataset versions have the same
files and labels, and their folds the same slices; a version made by importing other folds changes none of that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ichx.datasets.dataset import load_folds, load_version
from ichx.errors import ConflictError, InvalidInputError, NotReadyError, raise_problems
from ichx.labels import LABELS
from ichx.store import Selection
from ichx.text import format_count, format_examples

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import DatasetVersion, Experiment, ExperimentSummary, Store


@dataclass(frozen=True)
class MemberSet:
    """Experiments to blend, on folds of one digest."""

    version: "DatasetVersion"
    fold_digest: str
    experiments: "tuple[Experiment, ...]"
    folds: tuple[int, ...]
    """The folds that are blended, of `k`."""
    k: int
    notes: tuple[str, ...]

    @property
    def partial(self) -> str | None:
        """How many folds are blended, e.g. `1 of 5 folds`; None: all."""
        return None if len(self.folds) == self.k else f"{len(self.folds)} of {self.k} folds"


def requested_members(project: "Project", numbers: Sequence[int], dataset: str | None) -> MemberSet:
    """Return the experiments with these `numbers` and the folds that all of them have finished.

    Args:
        project: The open project.
        numbers: The experiments.
        dataset: The training dataset that they must be on; None: any.

    Raises:
        InvalidInputError: A number is repeated, an experiment is a trial or on another dataset.
        NotFoundError: There is no such experiment.
        ConflictError: The experiments have different files, labels or folds.
        NotReadyError: An experiment has no finished fold, or there is none in common.
    """
    experiments = open_members(project, numbers)
    first = experiments[0]
    raise_problems(
        [
            f"Experiment {e.number} is on {e.dataset}, not on {dataset}."
            for e in experiments
            if dataset not in (None, e.dataset)
        ],
        "Blend experiments on one dataset.",
    )
    check_combined(project, experiments)
    finished = [{p.fold for p in project.store.predictions(e.number, role="oof")} for e in experiments]
    unfinished = [
        f"Experiment {e.number} has no finished fold." for e, f in zip(experiments, finished, strict=True) if not f
    ]
    if unfinished:
        raise NotReadyError("\n".join(unfinished), "Run `ichx run NUMBER` first.")
    common = sorted(set.intersection(*finished))
    if not common:
        raise NotReadyError(
            "The members have no finished fold in common.", "Run one fold of each: `ichx run NUMBER --fold 0`."
        )
    notes = [f"The folds {first.fold_set} split patients: every score here is too good."] if first.leaked else []
    if len(common) < first.folds:
        notes.append(f"Blended on the folds that all members have finished: {len(common)} of {first.folds} folds.")
    return MemberSet(
        version=project.store.version_by_id(first.version_id),
        fold_digest=first.fold_digest,
        experiments=tuple(experiments),
        folds=tuple(common),
        k=first.folds,
        notes=tuple(notes),
    )


def open_members(project: "Project", numbers: Sequence[int]) -> "list[Experiment]":
    """Return the experiments with these `numbers`, which are different. Raises like `requested_members`."""
    repeated = sorted({n for n in numbers if numbers.count(n) > 1})
    if repeated:
        raise InvalidInputError(f"Repeated members: {', '.join(map(str, repeated))}.", "List each experiment once.")
    return [project.store.experiment(number) for number in numbers]


def check_combined(project: "Project", experiments: "Sequence[Experiment]") -> None:
    """Raise unless all `experiments` are trained on all patients, and on the same files, labels and folds.

    Raises:
        InvalidInputError: One is a trial, or trained on a part of the patients.
        ConflictError: They have different files, labels or folds.
    """
    raise_problems(
        [
            f"Experiment {e.number} is a tuning trial and predicts no test set."
            for e in experiments
            if e.kind == "trial"
        ],
        "Promote the trial with `ichx exp promote NUMBER` and run the new experiment.",
    )
    raise_problems(
        [
            f"Experiment {e.number} is trained on {100 * e.subset:.3g} % of the patients."
            for e in experiments
            if e.subset < 1
        ],
        "Use experiments that are trained on all patients.",
    )
    first = experiments[0]
    different = [
        f"Experiments {e.number} and {first.number} cannot be combined: {describe_difference(project, e, first)}."
        for e in experiments
        if experiment_pins(project.store, e) != experiment_pins(project.store, first)
    ]
    if different:
        raise ConflictError("\n".join(different), "Use experiments with the same files, labels and folds.")


def complete_members(store: "Store", dataset: str | None) -> MemberSet:
    """Return the complete experiments that share data and folds with the newest, with notes on those left out.

    Args:
        store: The open store.
        dataset: The training dataset; None: the only one.

    Raises:
        NotFoundError: There is no such dataset.
        InvalidInputError: There are experiments on several datasets, and `dataset` is None.
        NotReadyError: No experiment is complete.
    """
    if dataset is not None:
        store.dataset(dataset)
    summaries = sorted(
        store.experiments(Selection(dataset=dataset, archived=False), limit=None), key=lambda e: e.number
    )
    names = sorted({e.dataset for e in summaries})
    if len(names) > 1:
        raise InvalidInputError(
            f"There are experiments on {len(names)} datasets: {', '.join(names)}.", "Choose one with `--dataset NAME`."
        )
    parts = [_title(e) for e in summaries if e.subset < 1]
    summaries = [e for e in summaries if e.subset == 1]
    left_out = [
        *_note("left out, trained on a part of the patients", parts),
        *_note("left out, as their folds leak patients", [_title(e) for e in summaries if e.leaked]),
        *_note(
            "not complete",
            [
                f"{_title(e)}: {e.folds_done} of {e.folds} folds, {e.state}"
                for e in summaries
                if e.state != "done" and not e.leaked
            ],
        ),
    ]
    complete = [store.experiment(e.number) for e in summaries if e.state == "done" and not e.leaked]
    if not complete:
        where = f" on {dataset}" if dataset else ""
        leaked = any(e.leaked and e.state == "done" for e in summaries)
        raise NotReadyError(
            "\n".join([f"No experiment{where} is complete{' and without leaky folds' * leaked}.", *left_out]),
            f"Run one with `ichx run NUMBER`{', or blend leaky ones with `--members`' * leaked}.",
        )
    newest = complete[-1]
    pins = experiment_pins(store, newest)
    same = [e for e in complete if experiment_pins(store, e) == pins]
    others = [_title(e) for e in complete if e not in same]
    return MemberSet(
        version=store.version_by_id(newest.version_id),
        fold_digest=newest.fold_digest,
        experiments=tuple(same),
        folds=tuple(range(newest.folds)),
        k=newest.folds,
        notes=(*_note(f"left out, on other data or folds than {newest.number}, the newest", others), *left_out),
    )


def _note(what: str, experiments: Sequence[str]) -> list[str]:
    """Return a note that counts experiments and names the first ones, or nothing if there are none."""
    count = len(experiments)
    return [f"{format_count(count, 'experiment')} {what}{format_examples(experiments, count)}."] if experiments else []


def _title(experiment: "Experiment | ExperimentSummary") -> str:
    return f"{experiment.number} ({experiment.name})"


def experiment_pins(store: "Store", experiment: "Experiment") -> tuple[str, str, str]:
    """Return the digests of files, labels and folds, which the members of an ensemble share."""
    return store.version_by_id(experiment.version_id).digest, experiment.label_digest, experiment.fold_digest


def describe_difference(project: "Project", one: "Experiment", other: "Experiment") -> str:
    """Return in what two experiments differ, and in how many slices."""
    tables = []
    for experiment in (one, other):
        version = project.store.version_by_id(experiment.version_id)
        fold_set = version.fold_set_of(experiment)
        slices = load_version(project.workspace, version).slices
        folds = load_folds(project.workspace, version, fold_set, slices)
        tables.append(slices.set_index("slice_id")[list(LABELS)].assign(fold=folds).sort_index())
    a, b = tables
    if only := len(a.index.symmetric_difference(b.index)):
        return f"{format_count(only, 'slice')} {'is' if only == 1 else 'are'} only in one of their datasets"
    different = (a.to_numpy() != b.to_numpy()) & ~(a.isna() & b.isna()).to_numpy()
    counts = {
        "different labels": int(different[:, :-1].any(axis=1).sum()),
        f"a different fold ({one.fold_set}, {other.fold_set})": int(different[:, -1].sum()),
    }
    parts = [f"{format_count(count, 'slice')} with {what}" for what, count in counts.items() if count]
    return ", ".join(parts) or f"the files of {one.dataset} have different headers or sizes"
