"""Launches of folds of several experiments: each fold has its result, whatever happens to the others."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from conftest import SHORT
from inline_engine import InlineEngine

from ichx.errors import IchxError, NotFoundError, StoreError
from ichx.evaluation.scorecard import update_scores
from ichx.experiments.provenance import run_draft
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.jobs import Engine, Job, JobResult, LocalEngine
from ichx.jobs.launch import launch
from ichx.jobs.launch_report import LaunchCallbacks, LaunchReport, LaunchRequest, Unit, UnitProgress, UnitResult
from ichx.plugins import load_registry
from ichx.process_identity import is_process_alive, process_identity
from ichx.project import Project
from ichx.store import Prediction, PredictionDraft, ScoreDraft, Store, open_store
from ichx.training.run_options import RunOptions
from ichx.workspace import open_workspace

pytestmark = pytest.mark.slow

CPU = RunOptions(device="cpu")
BROKEN = "precision=fp16"
"""A precision without CPU support: the run fails."""


@pytest.fixture
def project(dataset_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    monkeypatch.setenv("ICHX_WORKSPACE", str(dataset_copy))
    monkeypatch.setenv("COLUMNS", "200")
    workspace = open_workspace(dataset_copy)
    with open_store(workspace) as store:
        yield Project(workspace, store)


def register(project: Project, *settings: str) -> int:
    experiment = new_experiment(
        project.store,
        load_registry(),
        ExperimentRequest(plugin="tiny_resnet", size=32, settings=[*SHORT, *settings]),
    )
    return experiment.number


def run(
    project: Project,
    numbers: list[int],
    engine: Engine,
    *,
    callbacks: LaunchCallbacks | None = None,
    stop_level: Callable[[], int] = lambda: 0,
    **request: Any,
) -> LaunchReport:
    """Launch experiments on the CPU."""
    return launch(
        project,
        LaunchRequest(tuple(numbers), **{"options": CPU, **request}),
        engine,
        callbacks=callbacks,
        stop_level=stop_level,
    )


class Recorder(LaunchCallbacks):
    """Records what the callbacks receive."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.ended: list[UnitResult] = []

    def planned(self, count: int, jobs: int, shares: str) -> None:
        self.calls.append((count, jobs))

    def unit_started(self, unit: Unit, device: str, log: str) -> None:
        self.calls.append(unit)

    def unit_progressed(self, unit: Unit, progress: UnitProgress) -> None:
        self.calls.append(progress)

    def unit_ended(self, result: UnitResult) -> None:
        self.ended.append(result)

    def stopping(self, running: int, at_once: bool) -> None:
        self.calls.append((running, at_once))


def states(report: LaunchReport) -> list[tuple[int, int, str]]:
    return [(unit.experiment, unit.fold, unit.state) for unit in report.units]


def test_a_failed_fold_stops_no_other_and_done_folds_are_skipped(project: Project) -> None:
    good, bad, other = register(project), register(project, BROKEN), register(project, "seed=5")
    seen, engine = Recorder(), InlineEngine()
    report = run(project, [good, bad, other, good], engine, folds=(1, 0), callbacks=seen)
    units = [Unit(number, fold) for number in (good, bad, other) for fold in (1, 0)]
    assert states(report) == [(u.experiment, u.fold, "failed" if u.experiment == bad else "done") for u in units]
    assert seen.calls == [(6, 1), *units]
    assert sorted(seen.ended, key=lambda result: units.index(result.unit)) == list(report.units)
    for result in report.units:
        assert result.log == f"experiments/{result.experiment}/fold-{result.fold}/run.log"
        assert (project.workspace.root / result.log).is_file()
        if result.experiment == bad:
            assert result.score is None
            assert (result.reason or "").startswith("exit code 1: ")
            assert "fp16" in (result.reason or "")
        else:
            predictions = project.store.predictions(result.experiment, role="oof", view="identity")
            (oof,) = [p for p in predictions if p.fold == result.fold]
            assert (result.score, result.reason) == (oof.score, None)
    assert not report.complete
    assert [(p.experiment, p.folds_done, p.folds, p.score is None) for p in report.experiments] == [
        (good, 2, 2, False),
        (bad, 0, 2, True),
        (other, 2, 2, False),
    ]

    rerun = run(project, [good, other], InlineEngine(), jobs=2)
    assert rerun.complete
    assert [state for *_, state in states(rerun)] == ["already done"] * 4
    assert rerun.experiments == (report.experiments[0], report.experiments[2])


def test_the_pooled_score_does_not_depend_on_the_order_of_the_folds(project: Project) -> None:
    pooled = []
    for order in ((0, 1), (1, 0)):
        report = run(project, [register(project)], InlineEngine(), folds=order)
        pooled.append([getattr(report.experiments[0], name) for name in ("score", "spread", "score_tta")])
    assert pooled[0] == pooled[1]


@pytest.mark.parametrize("when", ["before the launch", "before the job"])
def test_a_fold_that_another_process_holds_is_reported(when: str, project: Project) -> None:
    number = register(project)
    held = run_draft(number, 0, "cpu", 0, project.workspace.experiment_dir(number) / "fold-0")

    def take(job: int) -> None:
        if job == 0:
            project.store.start_run(held)

    if when == "before the launch":
        project.store.start_run(held)
    engine = InlineEngine(take) if when == "before the job" else InlineEngine()
    report = run(project, [number], engine)
    (other,) = project.store.runs(number, 0)
    assert states(report) == [(number, 0, "held"), (number, 1, "done")]
    holder = report.units[0].holder
    assert holder is not None
    assert (holder.host, holder.pid, holder.since) == (held.host, held.pid, other.started)
    assert not report.complete
    assert (report.experiments[0].folds_done, report.experiments[0].marks) == (1, ("partial (1 of 2 folds)",))


def test_a_job_that_dies_after_its_fold_is_finished_is_done(project: Project) -> None:
    class Dying(InlineEngine):
        def execute(self, job: Job) -> str:
            handle = super().execute(job)
            self.results[handle] = JobResult(-9, 1.0)
            return handle

    number = register(project)
    report = run(project, [number], Dying())
    assert report.complete
    assert states(report) == [(number, 0, "done"), (number, 1, "done")]


def test_a_busy_store_does_not_end_the_launch(project: Project) -> None:
    class Busy(Store):
        """A store that fails once when predictions are read after the first job."""

        left = 1

        def predictions(self, *args: object, **kwargs: object) -> list[Prediction]:
            if engine.jobs and self.left:
                self.left -= 1
                raise StoreError("The store is locked.", "Wait.")
            return super().predictions(*args, **kwargs)  # type: ignore[arg-type]

    number, engine = register(project), InlineEngine()
    with Busy(project.workspace.store_url) as busy:
        report = run(Project(project.workspace, busy), [number], engine)
        assert busy.left == 0
    assert states(report) == [(number, 0, "done"), (number, 1, "done")]


def test_an_invalid_request_runs_nothing(project: Project, tmp_path: Path) -> None:
    number, engine = register(project), InlineEngine()
    with pytest.raises(NotFoundError, match="9"):
        run(project, [number, 9], engine)
    with pytest.raises(NotFoundError, match="fold 2"):
        run(project, [number], engine, folds=(0, 2))
    with pytest.raises(IchxError, match=r"none\.pth"):
        run(project, [number], engine, options=RunOptions(weights=tmp_path / "none.pth"))
    assert engine.jobs == []


def test_a_second_stop_request_kills(project: Project) -> None:
    number = register(project, "stage.balanced.epochs=1000")
    other = register(project)
    seen = Recorder()
    processes: list[tuple[int, str | None]] = []

    def stop_level() -> int:
        processes.extend((run.pid, process_identity(run.pid)) for run in project.store.runs(number, 0) if not processes)
        return 2 if processes else 0

    with closing(LocalEngine(1, grace=None)) as engine:
        report = run(project, [number, other], engine, folds=(0,), callbacks=seen, stop_level=stop_level)
    assert report.stopped
    assert states(report) == [(number, 0, "stopped"), (other, 0, "not begun")]
    assert (1, True) in seen.calls
    ((pid, mark),) = processes
    assert mark is not None
    assert is_process_alive(pid, mark) is False
    assert [run.state for run in project.store.runs(number, 0)] == ["dead"]

    late = run(project, [other], InlineEngine(), folds=(0,), stop_level=lambda: 1)
    assert (states(late), late.stopped) == ([(other, 0, "not begun")], True)


class Interleaved(Store):
    """A store in which another process finishes fold 1 and updates the score just before this one writes its own."""

    other: Callable[[], None] | None = None

    def set_scores(self, number: int, plain: ScoreDraft, tta: ScoreDraft) -> None:
        other, self.other = self.other, None
        if other is not None:
            other()
        super().set_scores(number, plain, tta)


def test_an_outdated_score_is_computed_again(trained_root: Path, tmp_path: Path) -> None:
    workspace = open_workspace(Path(shutil.copytree(trained_root, tmp_path / "trained")))
    with open_store(workspace) as store, Interleaved(workspace.store_url) as late:
        complete = store.experiment(1)
        names = [field.name for field in fields(PredictionDraft)]
        drafts = [
            PredictionDraft(**{name: getattr(p, name) for name in names}) for p in store.predictions(1) if p.fold == 1
        ]
        with closing(sqlite3.connect(workspace.root / "db" / "ichx.db")) as connection, connection:
            connection.execute("DELETE FROM prediction WHERE experiment = 1 AND fold = 1")
        update_scores(Project(workspace, store), 1)
        partial = store.experiment(1)
        assert partial.score != complete.score

        def finish_other() -> None:
            run = store.start_run(run_draft(1, 1, "cpu", 0, workspace.experiment_dir(1) / "fold-1"))
            store.finish_run(run.id, "done", predictions=drafts)
            update_scores(Project(workspace, store), 1)
            assert store.experiment(1).score == complete.score

        late.other = finish_other
        update_scores(Project(workspace, late), 1)
        after = store.experiment(1)
    assert (after.score, after.spread, after.score_tta) == (complete.score, complete.spread, complete.score_tta)
