"""The store: datasets, experiments, runs, predictions and ensembles in a SQL database. Files are not in it.

The contract, which `ichx.store.testing.StoreContract` checks:

- Each method is one short transaction: all of it takes effect, or nothing. Numbers are never reused.
- Methods return frozen snapshots, which do not change with the store.
- Dataset versions, and the recipe and pins of an experiment, are immutable. Only these are removed: predictions that
  are replaced, experiments in the trash, and unused datasets with their predictions and reviews.
- Several threads may share a `Store`, and several processes a database. A forked child needs its own `Store`.
- A transaction on a server is repeated while the server is away for up to two minutes, and takes effect once.
- Failures that a user can fix raise `IchxError` (an unknown name, a locked database, a fold that another process runs).
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from sqlalchemy import Connection

from ichx.errors import StoreError
from ichx.store import (
    annotations,
    binding,
    clock,
    database,
    datasets,
    deletion,
    ensembles,
    evaluations,
    experiments,
    jobs,
    list_values,
    reviews,
    runs,
)
from ichx.store.connection import Query, StoreConnection
from ichx.store.counters import raise_counter, take_numbers
from ichx.store.dataset_snapshots import Dataset, DatasetVersion, VersionDraft
from ichx.store.ensemble_snapshots import Ensemble, EnsembleDraft
from ichx.store.evaluations import EvaluationDraft, EvaluationRecord
from ichx.store.prediction_snapshots import (
    FeatureTableDraft,
    FeatureTableRecord,
    Prediction,
    PredictionDraft,
    StoredPredictor,
)
from ichx.store.predictions import (
    add_feature_table,
    add_predictions,
    list_feature_tables,
    list_predictions,
    list_predictors,
    remove_feature_tables,
)
from ichx.store.reviews import Review, ReviewDraft
from ichx.store.run_snapshots import (
    EndState,
    EpochRecord,
    JobChange,
    JobDraft,
    JobRecord,
    JobRecordState,
    Run,
    RunDraft,
)
from ichx.store.selection import EXPERIMENTS, Selection
from ichx.store.snapshots import Experiment, ExperimentDraft, ExperimentSummary, ImportDraft, Note, ScoreDraft
from ichx.workspace import Workspace

if TYPE_CHECKING:
    from ichx.store.maintenance import CheckResult, QueryLimits, QueryResult


P = ParamSpec("P")
T = TypeVar("T")


def open_store(
    workspace: Workspace, *, tied: bool = True, create: bool = True, patience: float | None = None
) -> "Store":
    """Open the store of `workspace`, and create or upgrade it if needed. A relative SQLite file is in the workspace.

    Args:
        workspace: The workspace.
        tied: Check that the store belongs to the workspace; see `ichx.store.binding`. Otherwise use it only to read.
        create: Create a SQLite file that does not exist.
        patience: See `database.connect`.

    Raises:
        InvalidInputError: The URL is invalid.
        ConflictError: The store belongs to another workspace, or is an older copy of its store.
        StoreError: The database cannot be opened.
    """
    url = database.resolve_url(workspace.store_url, workspace.root)
    file = database.sqlite_file(url) if database.is_sqlite(url) else None
    if not create and file is not None and not file.exists():
        raise StoreError(f"The store {file} does not exist.", "Restore the file, or set ICHX_STORE.")
    if tied:
        binding.check_missing(url, workspace)
    store = Store(url, patience=patience)
    try:
        if tied:
            store.tie(workspace)
    except BaseException:
        store.close()
        raise
    return store


class Store(StoreConnection):
    """The store at a SQLAlchemy URL; see the contract in this module."""

    def _change(self, numbers: Sequence[int], query: Query[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a query that changes experiments; raise `NotFoundError` unless all of `numbers` exist."""

        def change(connection: Connection) -> T:
            experiments.check_numbers(connection, numbers)
            return query(connection, *args, **kwargs)

        result = self._count(change)
        self.changed.update(numbers)
        return result

    # Datasets

    def add_version(self, draft: VersionDraft) -> DatasetVersion:
        """Record the next version of a dataset, and the dataset if it is new.

        Raises:
            NotFoundError: `test_of` is unknown.
            InvalidInputError: `test_of` is a test set, or the dataset itself.
            ConflictError: `test_of` differs from that of earlier versions.
        """
        return self._record(datasets.add_version, draft)

    def restore_version(self, draft: VersionDraft, *, number: int, created: datetime) -> DatasetVersion:
        """Record a version that this store has lost, under its old number; raises like `add_version`."""
        return self._record(datasets.restore_version, draft, number, created)

    def version_numbers(self, name: str) -> list[int]:
        """Return the numbers of the recorded versions of a dataset, none if it is unknown."""
        return self._read(datasets.version_numbers, name)

    def datasets(self) -> list[Dataset]:
        """Return all datasets, sorted by name."""
        return self._read(datasets.datasets)

    def dataset(self, name: str) -> Dataset:
        """Return the dataset `name`; raise `NotFoundError` with the nearest names if it is unknown."""
        return self._read(datasets.get_dataset, name)

    def version(self, name: str, number: int | None = None) -> DatasetVersion:
        """Return version `number` of the dataset `name`, by default the latest."""
        return self._read(datasets.version, name, number)

    def version_by_id(self, id: int) -> DatasetVersion:
        """Return the dataset version with the `version_id` of an experiment or prediction."""
        return self._read(datasets.version_by_id, id)

    def test_sets(self, name: str) -> list[DatasetVersion]:
        """Return the latest version of each test set of the dataset `name`."""
        return self._read(datasets.test_sets, name)

    def predictions_of(self, name: str) -> list[Prediction]:
        """Return all predictions for slices of the dataset `name`, sorted by experiment."""
        return self._read(deletion.predictions_of, name)

    def check_unused(self, name: str) -> None:
        """Raise `ConflictError` if experiments (even in the trash), ensembles, test sets or runs use a dataset."""
        self._read(deletion.check_unused, name)

    def delete_dataset(self, name: str) -> None:
        """Delete the dataset `name` with its versions, predictions and reviews; raises like `check_unused`."""
        self._record(deletion.delete_dataset, name)

    # Experiments

    def add_experiments(
        self,
        drafts: Sequence[ExperimentDraft],
        *,
        members: Mapping[int, Sequence[int]] | None = None,
        tag: str | None = None,
    ) -> list[Experiment]:
        """Register all experiments, or none, under consecutive numbers.

        Args:
            drafts: The experiments.
            members: By place in `drafts`, the places of a draft's members, which have no numbers yet.
            tag: A tag of all of them.

        Raises:
            ValueError: The digests of a draft differ from those of its dataset version and folds.
        """
        return self._record(experiments.add_experiments, drafts, self._is_used, members, tag)

    def import_experiment(self, draft: ImportDraft, *, place: Callable[[int], object], root: str) -> Experiment:
        """Register an experiment of another store, with everything recorded about it, under the next number.

        Args:
            draft: The experiment.
            place: Is called with the number and moves the files; if it raises, nothing is recorded.
            root: Folder of all experiments, relative to the workspace.

        Raises:
            ValueError: A run has not ended.
        """

        def add(connection: Connection) -> Experiment:
            added = experiments.add_experiments(connection, [draft.experiment], self._is_used)[0]
            self._add_records(connection, added.number, draft, root)
            place(added.number)
            return added

        return self._count(add, repeatable=False)

    def restore_experiment(self, draft: ImportDraft, *, number: int, created: datetime, root: str) -> Experiment:
        """Register an experiment that this store has lost, with everything recorded about it, under its old number.

        Raises:
            ConflictError: The number belongs to another experiment.
            ValueError: A run has not ended.
        """

        def add(connection: Connection) -> Experiment:
            experiments.check_free(connection, number)
            added = experiments.add_experiment(connection, draft.experiment, number, created)
            raise_counter(connection, "experiment", number)
            self._add_records(connection, number, draft, root)
            return added

        return self._count(add)

    @staticmethod
    def _add_records(connection: Connection, number: int, draft: ImportDraft, root: str) -> None:
        runs.add_ended(connection, number, draft.runs, draft.history)
        moved = [replace(p, experiment=number, path=f"{root}/{number}/{p.path}") for p in draft.predictions]
        add_predictions(connection, moved)
        annotations.change_tags(connection, number, draft.tags, ())
        for note in draft.notes:
            annotations.add_note(connection, number, note.text, note.created)

    def experiment(self, number: int) -> Experiment:
        """Return experiment `number`; raise `NotFoundError` if it is unknown."""
        return self._read(experiments.get_experiment, number)

    def trials(self, parent: int) -> list[Experiment]:
        """Return the tuning trials of experiment `parent`, oldest first, including those in the trash."""
        return self._read(experiments.get_trials, parent)

    def experiments(self, selection: Selection = EXPERIMENTS, *, limit: int | None = 50) -> list[ExperimentSummary]:
        """Return the first `limit` experiments of `selection`, or all of them for None."""
        return self.listing(selection, limit=limit)[0]

    def listing(
        self, selection: Selection = EXPERIMENTS, *, limit: int | None = 50, offset: int = 0
    ) -> tuple[list[ExperimentSummary], int]:
        """Return the same as `experiments`, after the first `offset` ones, and the number of all that match."""
        return self._read(experiments.list_experiments, selection, limit, offset)

    def list_values(self, numbers: Sequence[int], names: Collection[str]) -> dict[int, dict[str, Any]]:
        """Return values of experiments that summaries lack: of recipes by dotted name, and those of `OTHER_VALUES`."""
        return self._read(list_values.list_values, numbers, names)

    def recipes(self, numbers: Sequence[int]) -> dict[int, str]:
        """Return the recipe of each of `numbers` as TOML."""
        return self._read(list_values.recipes, numbers)

    def set_scores(self, number: int, plain: ScoreDraft, tta: ScoreDraft) -> None:
        """Record the OOF scores of an experiment, plain and with test-time augmentation; raise `ValueError` for NaN."""
        scores = {"score": plain.score, "spread": plain.spread, "score_low": plain.low, "score_high": plain.high}
        scores |= {"score_tta": tta.score, "spread_tta": tta.spread}
        scores |= {"score_tta_low": tta.low, "score_tta_high": tta.high}
        invalid = {name: value for name, value in scores.items() if value is not None and not math.isfinite(value)}
        if invalid:
            raise ValueError(f"scores must be finite: {invalid}")
        self._write(experiments.set_scores, number, scores)

    # Maintenance

    def time(self) -> datetime:
        """Return the present time of the store's clock; all times in the store are of that clock."""
        return self._read(clock.store_time)

    def check_file(self) -> "list[CheckResult]":
        """Check the tables, rows and references of the store, and the file of a SQLite store."""
        from ichx.store import maintenance

        return maintenance.check_file(self._engine, self.network_file_system())

    def back_up(self, target: Path) -> int:
        """Copy the store to the SQLite file `target`, while others may write to it; return the size in bytes.

        Raises:
            ConflictError: `target` exists.
            StorageError: `target` cannot be written.
            CorruptFileError: The store is damaged.
            UnsupportedError: The store is not a file, nor on a server.
        """
        from ichx.store import maintenance

        return maintenance.back_up(self._engine, target)

    def query(self, sql: str, limits: "QueryLimits | None" = None) -> "QueryResult":
        """Return the result of one SELECT statement.

        Raises:
            InvalidInputError: It is another statement, or invalid.
            ResourceError: It takes longer, or needs more memory, than `limits` allow.
        """
        from ichx.store import maintenance

        return maintenance.query(self._engine, sql, limits or maintenance.QueryLimits())

    # Names, tags, notes, archive, trash, settings

    def rename(self, number: int, name: str) -> None:
        """Rename experiment `number`."""
        self._change([number], annotations.rename, number, name)

    def change_tags(self, numbers: int | Sequence[int], *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> None:
        """Add and remove tags of one or more experiments; tags that are present, or missing, already are ignored."""
        changed = [numbers] if isinstance(numbers, int) else numbers

        def change(connection: Connection) -> None:
            for number in changed:
                annotations.change_tags(connection, number, add, remove)

        self._change(changed, change)

    def tags(self) -> dict[str, int]:
        """Return the number of experiments outside the trash by tag."""
        return self._read(annotations.all_tags)

    def add_note(self, number: int, text: str) -> Note:
        """Record a note about experiment `number`."""
        return self._change([number], annotations.add_note, number, text)

    def notes(self, number: int) -> list[Note]:
        """Return the notes about experiment `number`, oldest first."""
        return self._read(annotations.notes, number)

    def archive(self, numbers: Sequence[int], archived: bool = True) -> None:
        """Archive experiments, or unarchive them."""
        self._change(numbers, annotations.archive, numbers, archived)

    def trash(self, numbers: Sequence[int]) -> None:
        """Move all experiments to the trash, or none; raise `ConflictError` while one is running."""
        self._change(numbers, deletion.trash, numbers)

    def restore(self, numbers: Sequence[int]) -> None:
        """Restore experiments from the trash."""
        self._change(numbers, deletion.restore, numbers)

    def ensembles_containing(self, numbers: Sequence[int]) -> dict[int, list[int]]:
        """Return the ensembles that have a member among `numbers`, by number of the member."""
        return self._read(deletion.ensembles_containing, numbers)

    def sequences_of(self, numbers: Sequence[int]) -> dict[int, list[int]]:
        """Return the sequence experiments that have a member among `numbers`, by number of the member."""
        return self._read(experiments.sequences_of, numbers)

    def purge(self, number: int) -> None:
        """Delete experiment `number` permanently, with everything recorded about it.

        Raises:
            ConflictError: It is not in the trash, or is a member of an ensemble or of a sequence experiment.
        """
        self._change([number], deletion.purge, number)

    def setting(self, name: str) -> Any:
        """Return the setting `name`, or None."""
        return self._read(annotations.get_setting, name)

    def set_setting(self, name: str, value: Any) -> None:
        """Save `value`, a JSON value, as the setting `name`; None removes it."""
        self._write(annotations.set_setting, name, value)

    # Runs

    def start_run(self, draft: RunDraft) -> Run:
        """Record that a process starts a run of a fold; of several concurrent processes exactly one succeeds.

        Raises:
            NotFoundError: The experiment or the fold is unknown.
            ConflictError: A live run occupies the fold, or the experiment is in the trash.
        """

        def start(connection: Connection) -> Run:
            experiments.check_fold(connection, draft.experiment, draft.fold)
            return runs.start_run(connection, draft)

        return self._count(start)

    def heartbeat(
        self, run_id: int, *, stage: str | None = None, epoch: int | None = None, epochs_done: int | None = None
    ) -> None:
        """Record that a run is alive, and its progress. At least every 30 s: other hosts consider it dead after 90 s.

        Raises:
            RunEndedError: The run has ended, e.g. because another process took over its fold.
        """
        self._write(runs.heartbeat, run_id, {"stage": stage, "epoch": epoch, "epochs_done": epochs_done})

    def record_epoch(self, run_id: int, record: EpochRecord) -> None:
        """Record the metrics of an epoch, replacing earlier ones of the same run; also a heartbeat."""
        self._write(runs.record_epoch, run_id, record)

    def finish_run(
        self, run_id: int, state: EndState, *, error: str | None = None, predictions: Sequence[PredictionDraft] = ()
    ) -> None:
        """End a run in the state `done`, `failed` or `stopped`, and record its predictions in the same transaction."""

        def finish(connection: Connection) -> None:
            runs.finish_run(connection, run_id, state, error)
            add_predictions(connection, predictions)

        self._count(finish)

    def runs(self, experiment: int, fold: int | None = None) -> list[Run]:
        """Return the runs of an experiment (of one fold), sorted by fold and attempt."""
        return self._read(runs.list_runs, experiment, fold)

    def live_runs(self, experiments: Sequence[int]) -> list[Run]:
        """Return the runs that occupy a fold of one of `experiments` now."""
        return self._read(runs.live_runs, experiments)

    def history(self, experiment: int, fold: int) -> list[EpochRecord]:
        """Return the epochs of a fold in order of training; the latest run wins for an epoch that was trained twice."""
        return self._read(runs.history, experiment, fold)

    # Jobs of schedulers

    def add_jobs(self, drafts: Sequence[JobDraft]) -> list[JobRecord]:
        """Record jobs before they are queued, in the state `submitting`.

        Raises:
            ConflictError: A fold or command among them has an active job.
        """
        return self._write(jobs.add_jobs, drafts)

    def remove_jobs(self, submission: str) -> None:
        """Delete the jobs of a submission that the scheduler refused: those in the state `submitting`."""
        self._write(jobs.remove_jobs, submission)

    def set_handles(self, submission: str, handles: Sequence[str]) -> None:
        """Record that the jobs of a submission are queued; `handles` are in the order of their positions."""
        self._write(jobs.set_handles, submission, handles)

    def update_jobs(self, changes: Mapping[int, JobChange]) -> None:
        """Record new states of jobs by id; a job that has ended stays as it is. Its running runs become `dead`."""
        self._write(jobs.update_jobs, changes)

    def jobs(
        self,
        states: Sequence[JobRecordState] | None = None,
        *,
        experiments: Sequence[int] | None = None,
        submission: str | None = None,
        newest: int | None = None,
    ) -> list[JobRecord]:
        """Return recorded jobs in order of submission.

        Args:
            states: Only jobs in one of these states.
            experiments: Only jobs of these experiments.
            submission: Only the jobs of this submission.
            newest: Only so many, the newest ones.
        """
        return self._read(jobs.list_jobs, states, experiments, submission, newest)

    # Predictions

    def add_predictions(self, drafts: Sequence[PredictionDraft]) -> None:
        """Record predictions; each replaces one of the same experiment, fold, version and view."""
        self._record(add_predictions, drafts)

    def predictions(
        self, experiment: int, *, role: str | None = None, view: str | None = None, version_id: int | None = None
    ) -> list[Prediction]:
        """Return the matching predictions of an experiment, sorted by version, view and fold."""
        return self._read(list_predictions, experiment, role, view, version_id)

    def predictors(self, version_id: int | None, limit: int = 500) -> list[StoredPredictor]:
        """Return the experiments outside the trash that have predicted a dataset version, the best first.

        None for those with a finished fold, whatever their dataset.
        """
        return self._read(list_predictors, version_id, limit)

    def add_feature_table(self, draft: FeatureTableDraft) -> None:
        """Record a feature table; it replaces one of the same experiment, fold, version and view."""
        self._record(add_feature_table, draft)

    def feature_tables(self, experiment: int | None = None) -> list[FeatureTableRecord]:
        """Return the feature tables of an experiment, or of all, sorted by experiment, version, view and fold."""
        return self._read(list_feature_tables, experiment)

    def remove_feature_tables(self, experiment: int) -> None:
        """Remove the records of the feature tables of an experiment."""
        self._record(remove_feature_tables, experiment)

    # Reviews of slices

    def add_review(self, draft: ReviewDraft) -> Review:
        """Record a reader's review of a slice."""
        return self._record(reviews.add_review, draft)

    def withdraw_review(self, id: int) -> Review:
        """Withdraw a review, which stays in the store; one that is withdrawn already is returned unchanged.

        Raises:
            NotFoundError: There is no such review.
        """
        return self._record(reviews.withdraw_review, id)

    def reviews(
        self, dataset: str, *, number: int | None = None, slices: Sequence[str] | None = None, withdrawn: bool = False
    ) -> list[Review]:
        """Return the reviews of slices of a dataset, oldest first.

        Args:
            dataset: Name of the dataset.
            number: Only those of this version.
            slices: Only those of these slices, a few hundred at most.
            withdrawn: Include those that were withdrawn.
        """
        return self._read(reviews.list_reviews, dataset, number, slices, withdrawn)

    def restore_reviews(self, version_id: int, found: Sequence[Review]) -> int:
        """Record the reviews among `found` that this store has lost; return the number of changes."""
        return self._record(reviews.restore_reviews, version_id, found)

    # Evaluations on test sets and external datasets

    def add_evaluation(self, draft: EvaluationDraft) -> EvaluationRecord:
        """Record that labels of a test set or external dataset were used to score predictions."""
        return self._record(evaluations.add_evaluation, draft)

    def evaluations(self, dataset: str | None = None, *, labels: str | None = None) -> list[EvaluationRecord]:
        """Return recorded evaluations, oldest first.

        Args:
            dataset: Those on any version of this dataset.
            labels: Those on labels with this digest, too.
        """
        return self._read(evaluations.list_evaluations, dataset, labels)

    # Ensembles

    def reserve_ensemble(self) -> int:
        """Return a number for an ensemble whose files are written before it is recorded."""
        return self._record(take_numbers, "ensemble", 1, self._is_used)[0]

    def restore_ensemble(self, draft: EnsembleDraft, *, number: int, created: datetime) -> Ensemble:
        """Record an ensemble from its folder, with the number and date that it had."""
        return self._count(lambda connection: ensembles.add_ensemble(connection, draft, number, created))

    def add_ensemble(self, draft: EnsembleDraft, number: int | None = None) -> Ensemble:
        """Record an ensemble under a reserved `number`, or the next one."""

        def add(connection: Connection) -> Ensemble:
            new = take_numbers(connection, "ensemble", 1, self._is_used)[0] if number is None else number
            return ensembles.add_ensemble(connection, draft, new)

        return self._count(add)

    def rename_ensemble(self, number: int, name: str | None) -> None:
        """Name ensemble `number`; None removes its name."""
        self._record(ensembles.rename_ensemble, number, name)

    def add_submission(self, number: int, path: str) -> None:
        """Record the `path` of a submission of ensemble `number`, if it is not recorded yet."""
        self._record(ensembles.add_submission, number, path)

    def delete_ensemble(self, number: int) -> None:
        """Delete the record of ensemble `number`, which is not reused."""
        self._record(ensembles.delete_ensemble, number)

    def ensembles(self) -> list[Ensemble]:
        """Return all ensembles, oldest first."""
        return self._read(ensembles.list_ensembles)

    def ensemble(self, number: int) -> Ensemble:
        """Return ensemble `number`; raise `NotFoundError` if it is unknown."""
        return self._read(ensembles.get_ensemble, number)
