"""The contract for runs, heartbeats, history and predictions."""

import math
import os
import socket
from collections.abc import Callable
from dataclasses import replace

import pytest

from ichx.errors import ConflictError, NotFoundError, RunEndedError
from ichx.store import DatasetVersion, EpochRecord, ImportDraft, JobChange, JobDraft, ScoreDraft, Store
from ichx.store.testing.datasets import StoreFixtures
from ichx.store.testing.drafts import experiment_draft, prediction_draft, run_draft, version_draft


class RunContract(StoreFixtures):
    """Rules for runs."""

    @pytest.fixture
    def registered(self, store: Store, version: DatasetVersion) -> Store:
        """Return a store with experiment 1, which has three folds."""
        store.add_experiments([experiment_draft(version)])
        return store

    def test_a_live_run_occupies_only_its_fold(self, registered: Store) -> None:
        store = registered
        run = store.start_run(run_draft(fold=1))
        assert (run.fold, run.attempt, run.state, run.ended, run.epochs_done) == (1, 1, "running", None, 0)
        with pytest.raises(ConflictError) as caught:
            store.start_run(run_draft(fold=1))
        for part in (socket.gethostname(), str(os.getpid()), f"{run.started:%Y-%m-%d %H:%M}"):
            assert part in caught.value.problem
        assert store.start_run(run_draft(fold=2)).attempt == 1
        store.finish_run(run.id, "stopped")
        second = store.start_run(run_draft(fold=1))
        assert second.attempt == 2
        assert [(r.fold, r.attempt, r.state) for r in store.runs(1)] == [
            (1, 1, "stopped"),
            (1, 2, "running"),
            (2, 1, "running"),
        ]
        assert store.runs(1, fold=1)[1] == second
        with pytest.raises(NotFoundError, match="3"):
            store.start_run(run_draft(fold=3))

    def test_heartbeats_record_progress(self, registered: Store) -> None:
        store = registered
        run = store.start_run(run_draft())
        store.heartbeat(run.id, stage="balanced", epoch=1, epochs_done=1)
        store.heartbeat(run.id)
        (found,) = store.runs(1)
        assert (found.stage, found.epoch, found.epochs_done) == ("balanced", 1, 1), "omitted values stay"
        assert found.heartbeat > run.heartbeat
        assert store.experiments()[0].stage == "balanced"
        assert found.libraries == {"torch": "2.6.0"}

    def test_an_ended_run_cannot_be_changed(self, registered: Store, version: DatasetVersion) -> None:
        store = registered
        run = store.start_run(run_draft())
        with pytest.raises(ValueError, match="dead"):
            store.finish_run(run.id, "dead")  # type: ignore[arg-type]
        store.finish_run(run.id, "failed", error="out of memory")
        changes: tuple[Callable[[], None], ...] = (
            lambda: store.heartbeat(run.id),
            lambda: store.record_epoch(run.id, EpochRecord("full", 2, 0, {"loss": 1.0})),
            lambda: store.finish_run(run.id, "done", predictions=[prediction_draft(version.id)]),
        )
        for change in changes:
            with pytest.raises(RunEndedError, match="failed"):
                change()
        (found,) = store.runs(1)
        assert (found.state, found.error) == ("failed", "out of memory")
        assert found.ended is not None
        assert store.history(1, 0) == []
        assert store.predictions(1) == []

    def test_the_state_of_an_experiment_follows_its_runs(self, registered: Store) -> None:
        store = registered

        def state() -> tuple[str, int]:
            found = store.experiments()[0]
            assert store.experiment(1).state == found.state
            return found.state, found.folds_done

        assert state() == ("new", 0)
        run = store.start_run(run_draft(fold=0))
        assert state() == ("running", 0)
        store.finish_run(run.id, "done")
        assert state() == ("partial", 1)
        store.finish_run(store.start_run(run_draft(fold=1)).id, "failed")
        assert state() == ("failed", 1)
        store.finish_run(store.start_run(run_draft(fold=2)).id, "stopped")
        assert state() == ("stopped", 1)
        store.finish_run(store.start_run(run_draft(fold=2)).id, "done")
        assert state() == ("failed", 2)
        store.finish_run(store.start_run(run_draft(fold=1)).id, "done")
        assert state() == ("done", 3)

    def test_history_joins_runs_in_order_of_training(self, registered: Store) -> None:
        store = registered
        first = store.start_run(run_draft())
        store.record_epoch(first.id, EpochRecord("balanced", 0, 0, {"loss": 0.9, "score": 0.5}))
        store.record_epoch(first.id, EpochRecord("balanced", 0, 1, {"loss": 0.8, "lost": 1.0}))
        store.finish_run(first.id, "stopped")
        second = store.start_run(run_draft())
        store.record_epoch(second.id, EpochRecord("full", 1, 0, {"loss": math.inf}))
        store.record_epoch(second.id, EpochRecord("balanced", 0, 1, {"loss": 0.75}))
        store.record_epoch(second.id, EpochRecord("balanced", 0, 1, {"loss": 0.7, "score": math.nan}))
        found = store.history(1, 0)
        assert [(r.stage, r.stage_index, r.epoch) for r in found] == [
            ("balanced", 0, 0),
            ("balanced", 0, 1),
            ("full", 1, 0),
        ]
        assert found[0].values == {"loss": 0.9, "score": 0.5}
        assert found[1].values == {"loss": 0.7, "score": pytest.approx(math.nan, nan_ok=True)}, "the latest run wins"
        assert found[2].values == {"loss": math.inf}
        assert store.history(1, 1) == []
        assert store.runs(1)[1].stage == "balanced"

    def test_predictions_with_the_same_key_are_replaced(self, registered: Store, version: DatasetVersion) -> None:
        store = registered
        hidden = store.add_version(version_draft("hidden", test_of="train"))
        run = store.start_run(run_draft())
        views = [prediction_draft(version.id, view=view) for view in ("identity", "hflip")]
        store.finish_run(run.id, "done", predictions=views)
        store.add_predictions([prediction_draft(hidden.id, role="test"), replace(views[0], digest="p2", score=0.05)])
        assert [(p.version_id, p.view, p.digest) for p in store.predictions(1)] == [
            (version.id, "hflip", "p1"),
            (version.id, "identity", "p2"),
            (hidden.id, "identity", "p1"),
        ]
        assert [p.view for p in store.predictions(1, role="oof", view="hflip")] == ["hflip"]
        assert [p.score for p in store.predictions(1, version_id=hidden.id)] == [None]
        assert store.predictions(2) == []

    def test_predictors_are_listed_with_their_folds_the_best_first(self, store: Store, version: DatasetVersion) -> None:
        hidden = store.add_version(version_draft("hidden", test_of="train"))
        store.add_experiments([experiment_draft(version)] * 4)
        for number, score, folds in ((1, None, (0,)), (2, 0.2, (1, 0)), (3, 0.1, (2,)), (4, 0.05, (0,))):
            if score is not None:
                store.set_scores(number, ScoreDraft(score), ScoreDraft())
            drafts = [prediction_draft(version.id, fold, view) for fold in folds for view in ("identity", "hflip")]
            store.add_predictions([replace(one, experiment=number, path=f"{number}/{one.path}") for one in drafts])
        store.add_predictions([prediction_draft(hidden.id, role="test")])
        store.trash([4])
        found = store.predictors(version.id)
        assert [(one.experiment, one.score, one.folds) for one in found] == [
            (3, 0.1, (2,)),
            (2, 0.2, (0, 1)),
            (1, None, (0,)),
        ]
        assert store.predictors(None) == found
        assert [(one.experiment, one.role) for one in store.predictors(hidden.id)] == [(1, "test")]
        assert [one.experiment for one in store.predictors(version.id, limit=2)] == [3, 2]

    def test_jobs_are_queued_followed_and_ended_once(self, registered: Store) -> None:
        drafts = [JobDraft("first", n, "slurm", "fold", f"fold {n}", "log", experiment=1, fold=n) for n in range(2)]
        added = registered.add_jobs([*drafts, JobDraft("other", 0, "ray", "cache", "part 1 of 8", "log")])
        assert [(j.submission, j.state, j.handle, j.fold) for j in added] == [
            ("first", "submitting", None, 0),
            ("first", "submitting", None, 1),
            ("other", "submitting", None, None),
        ]
        registered.update_jobs({added[0].id: JobChange("running")})
        registered.set_handles("first", ["slurm:7_0", "slurm:7_1"])
        first = registered.jobs(submission="first")
        assert [(j.handle, j.state, j.ended) for j in first] == [
            ("slurm:7_0", "running", None),
            ("slurm:7_1", "queued", None),
        ]
        with pytest.raises(ConflictError):
            registered.set_handles("other", ["ray:a", "ray:b"])
        registered.update_jobs({first[1].id: JobChange("failed", 1, "TIMEOUT", 2.5)})
        registered.update_jobs({first[1].id: JobChange("running")})
        (ended,) = registered.jobs(["failed"])
        assert (ended.exit_code, ended.reason, ended.seconds, ended.ended is not None) == (1, "TIMEOUT", 2.5, True)
        assert [j.id for j in registered.jobs(["submitting", "running"])] == [added[0].id, added[2].id]
        assert len(registered.jobs(experiments=[1])) == 2
        assert [(j.submission, j.position) for j in registered.jobs(newest=2)] == [("first", 1), ("other", 0)]
        with pytest.raises(ConflictError, match="slurm:7_0"):
            registered.trash([1])
        registered.update_jobs({added[0].id: JobChange("lost")})
        registered.trash([1])
        registered.purge(1)
        assert [j.submission for j in registered.jobs()] == ["other"]
        registered.remove_jobs("other")
        assert registered.jobs() == []

    def test_a_fold_has_one_active_job(self, registered: Store) -> None:
        draft = JobDraft("one", 0, "slurm", "fold", "fold 0", "log", experiment=1, fold=0)
        (first,) = registered.add_jobs([draft])
        others = [replace(draft, submission="two", fold=1), replace(draft, submission="two", position=1)]
        with pytest.raises(ConflictError, match="one"):
            registered.add_jobs(others)
        assert registered.jobs() == [first]
        registered.set_handles("one", ["slurm:7_0"])
        registered.remove_jobs("one")  # it is queued: only refused jobs are removed
        registered.update_jobs({first.id: JobChange("cancelled")})
        assert len(registered.add_jobs(others)) == 2

    def test_a_command_has_one_active_job_of_an_engine(self, registered: Store) -> None:
        draft = JobDraft("one", 0, "slurm", "predict", "ichx predict scans", "log")
        (first,) = registered.add_jobs([draft])
        again = replace(draft, submission="two")
        with pytest.raises(ConflictError, match="one"):
            registered.add_jobs([replace(again, position=1, name="ichx predict others"), again])
        assert registered.jobs() == [first]
        registered.add_jobs([replace(again, submission="three", engine="ray")])
        registered.update_jobs({first.id: JobChange("done", 0)})
        registered.add_jobs([again])

    def test_a_job_is_not_lost_if_its_handle_is_recorded_late(self, registered: Store) -> None:
        (draft,) = registered.add_jobs([JobDraft("one", 0, "slurm", "fold", "fold 0", "log", experiment=1, fold=0)])
        registered.update_jobs({draft.id: JobChange("lost", reason="its submission ended before it was queued")})
        registered.set_handles("one", ["slurm:7_0"])
        (late,) = registered.jobs()
        assert (late.handle, late.state, late.reason, late.ended) == ("slurm:7_0", "queued", None, None)
        registered.update_jobs({draft.id: JobChange("lost")})
        registered.set_handles("one", ["slurm:7_0"])
        assert [job.state for job in registered.jobs()] == ["lost"]

    def test_the_runs_of_an_ended_job_are_dead(self, registered: Store) -> None:
        """Their processes cannot be checked from here, and their last heartbeats are recent."""
        drafts = [JobDraft("one", n, "slurm", "fold", f"fold {n}", "log", experiment=1, fold=n) for n in range(2)]
        jobs = registered.add_jobs(drafts)
        handles = ["slurm:7_0", "slurm:7_1"]
        registered.set_handles("one", handles)
        elsewhere = [replace(run_draft(fold=n), host="node7", job=handle) for n, handle in enumerate(handles)]
        runs = [registered.start_run(draft) for draft in elsewhere]
        assert [(r.id, r.fold) for r in registered.live_runs([1])] == [(r.id, r.fold) for r in runs]
        registered.update_jobs({jobs[0].id: JobChange("lost"), jobs[1].id: JobChange("running")})
        assert [r.fold for r in registered.live_runs([1])] == [1]
        with pytest.raises(RunEndedError):
            registered.heartbeat(runs[0].id)
        assert registered.start_run(replace(elsewhere[0], job="slurm:8_0")).attempt == 2

    def test_a_job_that_is_started_again_takes_its_fold_over(self, registered: Store) -> None:
        first = registered.start_run(replace(run_draft(), host="node7", job="slurm:7_0"))
        with pytest.raises(ConflictError):
            registered.start_run(replace(run_draft(), host="node8", job="slurm:7_1"))
        assert registered.start_run(replace(run_draft(), host="node8", job="slurm:7_0")).attempt == 2
        with pytest.raises(RunEndedError):
            registered.heartbeat(first.id)

    def test_a_run_records_its_job(self, registered: Store) -> None:
        assert registered.start_run(replace(run_draft(), job="slurm:7_0")).job == "slurm:7_0"

    def test_an_imported_experiment_keeps_its_records(self, registered: Store, version: DatasetVersion) -> None:
        store = registered
        for state in ("failed", "done"):
            run = store.start_run(run_draft())
            store.record_epoch(run.id, EpochRecord("full", 0, 1, {"loss": 0.5}))
            store.finish_run(run.id, state)
        store.add_note(1, "weak on epidural")
        draft = ImportDraft(
            experiment=experiment_draft(version, "copy"),
            runs=tuple(store.runs(1)),
            history={0: tuple(store.history(1, 0))},
            predictions=(replace(prediction_draft(version.id), path="fold-0/oof-identity.parquet"),),
            tags=("best",),
            notes=tuple(store.notes(1)),
        )

        def fail(number: int) -> None:
            raise OSError(number)

        with pytest.raises(OSError, match="2"):
            store.import_experiment(draft, place=fail, root="experiments")
        assert store.listing()[1] == 1
        placed: list[int] = []
        added = store.import_experiment(draft, place=placed.append, root="experiments")
        assert placed == [added.number] == [2]
        assert store.experiment(2).tags == ("best",)
        assert [replace(r, id=0, experiment=1) for r in store.runs(2)] == [replace(r, id=0) for r in store.runs(1)]
        assert store.history(2, 0) == store.history(1, 0)
        assert [p.path for p in store.predictions(2)] == ["experiments/2/fold-0/oof-identity.parquet"]
        assert [(n.text, n.created) for n in store.notes(2)] == [(n.text, n.created) for n in store.notes(1)]
        with pytest.raises(ValueError, match="running"):
            store.import_experiment(
                replace(draft, runs=(replace(draft.runs[0], state="running"),)), place=placed.append, root="experiments"
            )
