"""The store: what happened, and everything that is known of datasets, experiments, runs, predictions and ensembles.

The contract, which `testing.StoreContract` checks:

- Each method is one short transaction: all of it happens or nothing. Numbers are given once, whatever is deleted.
- Out come frozen snapshots; they do not change when the store does.
- Dataset versions and an experiment's recipe and pins are immutable. Nothing is removed but replaced predictions,
  experiments that were put into the trash before, and datasets that nothing stands on, with the predictions of them.
- One store may be used by several threads, and one database by several processes; an open `Store` is not handed to
  a forked child, which opens its own.
- What a user can mend (a wrong name, a locked or unreadable file, a fold that another process runs) is `IchxError`.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from sqlalchemy import Connection

from ichx.store import database, datasets, ensembles, experiments, migrate, organise, predictions, runs
from ichx.store.numbers import take_numbers
from ichx.store.selection import EXPERIMENTS, Selection
from ichx.store.snapshots import (
    Dataset,
    DatasetVersion,
    Ensemble,
    EnsembleDraft,
    EpochRecord,
    Experiment,
    ExperimentDraft,
    ExperimentSummary,
    ImportDraft,
    Note,
    Prediction,
    PredictionDraft,
    Run,
    RunDraft,
    ScoreDraft,
    VersionDraft,
)
from ichx.workspace import Workspace

if TYPE_CHECKING:
    from ichx.store.maintenance import Answer, Checked


def open_store(workspace: Workspace) -> "Store":
    """Return the workspace's store, made or migrated where needed; a relative SQLite file lies in the workspace."""
    return Store(database.within(workspace.store_url, workspace.root))


class Store:
    """The store at a SQLAlchemy URL; see this module's contract."""

    def __init__(self, url: str) -> None:
        """Open the store at `url`; make it, or bring it to this version's tables, where needed."""
        self._engine = database.connect(url)
        try:
            migrate.prepare(self._engine)
        except BaseException:
            self._engine.dispose()
            raise

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Datasets

    def add_version(self, draft: VersionDraft) -> DatasetVersion:
        """Record the next version of a dataset, and the dataset where it is new.

        Raises `IchxError` when `test_of` names no dataset, a test set, or another dataset than it did before.
        """
        with database.writing(self._engine) as connection:
            return datasets.add_version(connection, draft)

    def datasets(self) -> list[Dataset]:
        """Return all datasets, by name."""
        with database.reading(self._engine) as connection:
            return datasets.datasets(connection)

    def dataset(self, name: str) -> Dataset:
        """Return the dataset called `name`, or raise `NotFoundError` with the nearest names."""
        with database.reading(self._engine) as connection:
            return datasets.get_dataset(connection, name)

    def version(self, name: str, number: int | None = None) -> DatasetVersion:
        """Return version `number` of the dataset called `name`, the latest by default."""
        with database.reading(self._engine) as connection:
            return datasets.version(connection, name, number)

    def version_by_id(self, id: int) -> DatasetVersion:
        """Return the dataset version that experiments and predictions call `version_id`."""
        with database.reading(self._engine) as connection:
            return datasets.version_by_id(connection, id)

    def test_sets(self, name: str) -> list[DatasetVersion]:
        """Return the latest version of each test set of the dataset `name`."""
        with database.reading(self._engine) as connection:
            return datasets.test_sets(connection, name)

    def predictions_of(self, name: str) -> list[Prediction]:
        """Return the predictions that there are of the dataset `name`, by experiment."""
        from ichx.store import dataset_removal as removal

        with database.reading(self._engine) as connection:
            return removal.predictions_of(connection, name)

    def check_unused(self, name: str) -> None:
        """Raise `IchxError` where an experiment, also one in the trash, or a test set stands on the dataset `name`."""
        from ichx.store import dataset_removal as removal

        with database.reading(self._engine) as connection:
            removal.check_unused(connection, name)

    def delete_dataset(self, name: str) -> None:
        """Delete the dataset `name`, all its versions, and the predictions of it; raises as `check_unused` does."""
        from ichx.store import dataset_removal as removal

        with database.writing(self._engine) as connection:
            removal.delete_dataset(connection, name)

    # Experiments

    def add_experiments(self, drafts: Sequence[ExperimentDraft]) -> list[Experiment]:
        """Register experiments, all or none, under consecutive numbers from 1 that are never given again.

        Raises `ValueError` when a draft's digests are not those of the version and the folds that it is pinned to.
        """
        with database.writing(self._engine) as connection:
            return experiments.add_experiments(connection, drafts)

    def import_experiment(self, draft: ImportDraft, *, place: Callable[[int], object], root: str) -> Experiment:
        """Register an experiment of another store with all that is recorded of it, under the next number.

        `place(number)` puts its files where they belong, below `root` (relative to the workspace) and the number; when
        it fails nothing is recorded. Raises `ValueError` for a run that did not end.
        """
        with database.writing(self._engine) as connection:
            made = experiments.add_experiments(connection, [draft.experiment])[0]
            runs.add_ended(connection, made.number, draft.runs)
            _add_predictions(
                connection,
                [replace(p, experiment=made.number, path=f"{root}/{made.number}/{p.path}") for p in draft.predictions],
            )
            organise.change_tags(connection, made.number, draft.tags, ())
            for written in draft.notes:
                organise.add_note(connection, made.number, written.text, written.created)
            place(made.number)
            return made

    def experiment(self, number: int) -> Experiment:
        """Return experiment `number` with its recipe, or raise `NotFoundError`."""
        with database.reading(self._engine) as connection:
            return experiments.get_experiment(connection, number)

    def trials(self, parent: int) -> list[Experiment]:
        """Return the tuning trials of experiment `parent`, oldest first, those in the trash too."""
        with database.reading(self._engine) as connection:
            return experiments.get_trials(connection, parent)

    def experiments(self, selection: Selection = EXPERIMENTS, *, limit: int | None = 50) -> list[ExperimentSummary]:
        """Return the first `limit` experiments of `selection`, by default the newest; all of them when it is None."""
        return self.listing(selection, limit=limit)[0]

    def listing(
        self, selection: Selection = EXPERIMENTS, *, limit: int | None = 50
    ) -> tuple[list[ExperimentSummary], int]:
        """Return what `experiments` does, and how many there are without a limit."""
        with database.reading(self._engine) as connection:
            return experiments.list_experiments(connection, selection, limit)

    def set_scores(self, number: int, plain: ScoreDraft, tta: ScoreDraft) -> None:
        """Record an experiment's OOF scores, without and with test-time augmentation; None is not known."""
        scores = {"score": plain.score, "spread": plain.spread, "score_low": plain.low, "score_high": plain.high}
        scores |= {"score_tta": tta.score, "spread_tta": tta.spread}
        scores |= {"score_tta_low": tta.low, "score_tta_high": tta.high}
        wrong = {name: value for name, value in scores.items() if value is not None and not math.isfinite(value)}
        if wrong:
            raise ValueError(f"a score must be finite, not {wrong}")
        with database.writing(self._engine) as connection:
            experiments.set_scores(connection, number, scores)

    # The store's own file

    def check_file(self) -> "list[Checked]":
        """Return what was looked at in the store's file and what is wrong there; nothing for another database."""
        from ichx.store import maintenance

        return maintenance.check_file(self._engine)

    def back_up(self, target: Path) -> int:
        """Write a whole copy to `target`, while others may write to the store; return its bytes."""
        from ichx.store import maintenance

        return maintenance.back_up(self._engine, target)

    def ask(self, question: str) -> "Answer":
        """Return what one SELECT comes to; everything but reading is refused."""
        from ichx.store import maintenance

        return maintenance.ask(self._engine, question)

    def network_file_system(self) -> str | None:
        """Return the kind of network file system that the store lies on; None on a local disk, or where unknown."""
        from ichx.store import maintenance

        return maintenance.network_file_system(self._engine)

    # Order among experiments

    def rename(self, number: int, name: str) -> None:
        """Give experiment `number` another name."""
        with self._of([number]) as connection:
            organise.rename(connection, number, name)

    def change_tags(self, number: int, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> None:
        """Add tags to experiment `number`, and remove some; those that are there, or not, already are no matter."""
        with self._of([number]) as connection:
            organise.change_tags(connection, number, add, remove)

    def tags(self) -> dict[str, int]:
        """Return every tag with the number of experiments that have it."""
        with database.reading(self._engine) as connection:
            return organise.all_tags(connection)

    def add_note(self, number: int, text: str) -> Note:
        """Write a note about experiment `number` down."""
        with self._of([number]) as connection:
            return organise.add_note(connection, number, text)

    def notes(self, number: int) -> list[Note]:
        """Return the notes about experiment `number`, oldest first."""
        with database.reading(self._engine) as connection:
            return organise.notes(connection, number)

    def archive(self, numbers: Sequence[int], archived: bool = True) -> None:
        """Put experiments into the archive, or take them out of it."""
        with self._of(numbers) as connection:
            organise.archive(connection, numbers, archived)

    def trash(self, numbers: Sequence[int]) -> None:
        """Put experiments into the trash, all or none; raises `IchxError` while one is running."""
        with self._of(numbers) as connection:
            organise.trash(connection, numbers)

    def restore(self, numbers: Sequence[int]) -> None:
        """Take experiments out of the trash."""
        with self._of(numbers) as connection:
            organise.restore(connection, numbers)

    def blended_in(self, numbers: Sequence[int]) -> dict[int, list[int]]:
        """Return by number the ensembles that each of `numbers` is a member of, where it is in any."""
        with database.reading(self._engine) as connection:
            return organise.blended_in(connection, numbers)

    def purge(self, number: int) -> None:
        """Delete experiment `number`, which is in the trash, and all that is recorded of it, for good.

        Raises `IchxError` for one that is not in the trash, or is a member of an ensemble.
        """
        with self._of([number]) as connection:
            organise.purge(connection, number)

    def choice(self, name: str) -> Any:
        """Return what is remembered under `name`; None where nothing is."""
        with database.reading(self._engine) as connection:
            return organise.choice(connection, name)

    def remember(self, name: str, value: Any) -> None:
        """Remember `value`, as JSON has it, under `name`; None forgets."""
        with database.writing(self._engine) as connection:
            organise.remember(connection, name, value)

    @contextmanager
    def _of(self, numbers: Sequence[int]) -> Iterator[Connection]:
        """Yield a transaction on experiments `numbers`; raises `NotFoundError` unless they are all there."""
        with database.writing(self._engine) as connection:
            experiments.check_numbers(connection, numbers)
            yield connection

    # Runs

    def start_run(self, draft: RunDraft) -> Run:
        """Record that a process begins an attempt at a fold; of several at once, exactly one gets it.

        Raises `IchxError`, naming host, process and since when, while a live run holds the fold. A dead one is closed.
        """
        with database.writing(self._engine) as connection:
            experiments.check_fold(connection, draft.experiment, draft.fold)
            return runs.start_run(connection, draft)

    def heartbeat(
        self, run_id: int, *, stage: str | None = None, epoch: int | None = None, epochs_done: int | None = None
    ) -> None:
        """Record that a run lives and where it is; at least every 30 s, as other hosts take it for dead after 90 s.

        Raises `IchxError` when the run was ended meanwhile: its process no longer holds the fold.
        """
        with database.writing(self._engine) as connection:
            runs.heartbeat(connection, run_id, {"stage": stage, "epoch": epoch, "epochs_done": epochs_done})

    def record_epoch(self, run_id: int, record: EpochRecord) -> None:
        """Record an epoch's metrics, in place of the same run's earlier ones of it; a heartbeat as well."""
        with database.writing(self._engine) as connection:
            runs.record_epoch(connection, run_id, record)

    def finish_run(
        self, run_id: int, state: str, *, error: str | None = None, predictions: Sequence[PredictionDraft] = ()
    ) -> None:
        """End a run as `done`, `failed` or `stopped`, and record its predictions in the same transaction."""
        with database.writing(self._engine) as connection:
            runs.finish_run(connection, run_id, state, error)
            _add_predictions(connection, predictions)

    def runs(self, experiment: int, fold: int | None = None) -> list[Run]:
        """Return the runs of an experiment (of one fold), by fold and attempt."""
        with database.reading(self._engine) as connection:
            return runs.list_runs(connection, experiment, fold)

    def history(self, experiment: int, fold: int) -> list[EpochRecord]:
        """Return a fold's epochs over all attempts, in order of training; of one trained twice, the later one."""
        with database.reading(self._engine) as connection:
            return runs.history(connection, experiment, fold)

    # Predictions

    def add_predictions(self, drafts: Sequence[PredictionDraft]) -> None:
        """Record predictions; one of the same experiment, fold, version and view is replaced."""
        with database.writing(self._engine) as connection:
            _add_predictions(connection, drafts)

    def predictions(
        self, experiment: int, *, role: str | None = None, view: str | None = None, version_id: int | None = None
    ) -> list[Prediction]:
        """Return an experiment's predictions that match, by version, view and fold."""
        with database.reading(self._engine) as connection:
            return predictions.list_predictions(connection, experiment, role, view, version_id)

    # Ensembles

    def reserve_ensemble(self) -> int:
        """Return a number for an ensemble whose files are to be written before it is recorded."""
        with database.writing(self._engine) as connection:
            return take_numbers(connection, "ensemble", 1)[0]

    def add_ensemble(self, draft: EnsembleDraft, number: int | None = None) -> Ensemble:
        """Record a blend under a reserved `number`, or the next one."""
        with database.writing(self._engine) as connection:
            number = take_numbers(connection, "ensemble", 1)[0] if number is None else number
            return ensembles.add_ensemble(connection, draft, number)

    def ensembles(self) -> list[Ensemble]:
        """Return all ensembles, oldest first."""
        with database.reading(self._engine) as connection:
            return ensembles.list_ensembles(connection)

    def ensemble(self, number: int) -> Ensemble:
        """Return ensemble `number`, or raise `NotFoundError`."""
        with database.reading(self._engine) as connection:
            return ensembles.get_ensemble(connection, number)


_add_predictions = predictions.add_predictions  # `finish_run` has an argument of the module's name
