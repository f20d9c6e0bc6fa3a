"""Folds of several experiments: what came of each, whatever the others do."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import pytest
from conftest import SHORT
from inline_engine import InlineEngine

from ichx.errors import IchxError
from ichx.evaluation.scorecard import update_scores
from ichx.experiments.provenance import run_draft
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.jobs import Job, JobResult, LocalEngine
from ichx.jobs.launch import launch
from ichx.jobs.launch_events import LaunchEvents, Unit, UnitProgress, UnitResult
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import Prediction, PredictionDraft, ScoreDraft, Store, open_store
from ichx.store.process import is_process_alive, process_identity
from ichx.training.run_options import RunOptions
from ichx.workspace import Workspace, open_workspace

CPU = RunOptions(device="cpu")
BROKEN = "precision=fp16"
"""A precision that no CPU computes: the run says so and fails."""


@pytest.fixture
def workspace(dataset_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setenv("ICHX_WORKSPACE", str(dataset_copy))
    monkeypatch.setenv("COLUMNS", "200")
    return open_workspace(dataset_copy)


@pytest.fixture
def store(workspace: Workspace) -> Iterator[Store]:
    with open_store(workspace) as store:
        yield store


def register(store: Store, *settings: str) -> int:
    made = new_experiment(
        store, load_registry(), ExperimentRequest(plugin="tiny_resnet", size=32, settings=[*SHORT, *settings])
    )
    return made.number


class Told(LaunchEvents):
    def __init__(self) -> None:
        self.said: list[object] = []
        self.ended: list[UnitResult] = []

    def planned(self, units: int, jobs: int, shares: str) -> None:
        self.said.append((units, jobs))

    def unit_started(self, unit: Unit, device: str, log: str) -> None:
        self.said.append(str(unit))

    def unit_moved(self, unit: Unit, progress: UnitProgress) -> None:
        self.said.append(progress)

    def unit_ended(self, result: UnitResult) -> None:
        self.ended.append(result)

    def stopping(self, running: int, at_once: bool) -> None:
        self.said.append((running, at_once))


def states(units: tuple[UnitResult, ...]) -> list[tuple[int, int, str]]:
    return [(unit.experiment, unit.fold, unit.state) for unit in units]


def test_one_that_fails_stops_no_other_and_what_is_done_stays(workspace: Workspace, store: Store) -> None:
    good, bad, other = register(store), register(store, BROKEN), register(store, "seed=5")
    told, engine = Told(), InlineEngine()
    report = launch(Project(workspace, store), [good, bad, other, good], engine, folds=[1, 0], options=CPU, events=told)
    asked = [(number, fold) for number in (good, bad, other) for fold in (1, 0)]
    assert states(report.units) == [(n, k, "failed" if n == bad else "done") for n, k in asked]
    assert told.said == [(6, 1), *(f"experiment {n}, fold {k}" for n, k in asked)]
    assert sorted(told.ended, key=lambda unit: asked.index((unit.experiment, unit.fold))) == list(report.units)
    for unit in report.units:
        assert unit.log == f"experiments/{unit.experiment}/fold-{unit.fold}/run.log"
        assert (workspace.root / unit.log).is_file()
        if unit.experiment == bad:
            assert (unit.score, unit.reason) == (None, "exit code 1: precision fp16 needs a CUDA GPU, not cpu")
        else:
            (oof,) = [p for p in store.predictions(unit.experiment, role="oof", view="identity") if p.fold == unit.fold]
            assert (unit.score, unit.reason) == (oof.score, None)
    assert not report.complete
    assert [(p.experiment, p.folds_done, p.folds, p.score is None) for p in report.experiments] == [
        (good, 2, 2, False),
        (bad, 0, 2, True),
        (other, 2, 2, False),
    ]

    again = launch(Project(workspace, store), [good, other], InlineEngine(), jobs=2, options=CPU)
    assert again.complete
    assert [state for *_, state in states(again.units)] == ["already done"] * 4
    assert again.experiments == (report.experiments[0], report.experiments[2])


def test_the_pooled_score_does_not_depend_on_the_order_of_the_folds(workspace: Workspace, store: Store) -> None:
    pooled = []
    for order in ((0, 1), (1, 0)):
        number = register(store)
        report = launch(Project(workspace, store), [number], InlineEngine(), folds=order, options=CPU)
        pooled.append([getattr(report.experiments[0], name) for name in ("score", "spread", "score_tta")])
    assert pooled[0] == pooled[1]


@pytest.mark.parametrize("when", ["before", "in between"])
def test_a_fold_that_another_process_holds_is_told_and_the_others_go_on(
    when: str, workspace: Workspace, store: Store
) -> None:
    number = register(store)
    held = run_draft(number, 0, "cpu", 0, workspace.experiment_dir(number) / "fold-0")

    def take(job: int) -> None:
        if job == 0:
            store.start_run(held)

    if when == "before":
        store.start_run(held)
    engine = InlineEngine(take) if when == "in between" else InlineEngine()
    report = launch(Project(workspace, store), [number], engine, options=CPU)
    (run,) = store.runs(number, 0)
    assert states(report.units) == [(number, 0, "held"), (number, 1, "done")]
    holder = report.units[0].holder
    assert holder is not None
    assert (holder.host, holder.pid, holder.since) == (held.host, held.pid, run.started)
    assert not report.complete
    assert (report.experiments[0].folds_done, report.experiments[0].marks) == (1, ("partial (1 of 2 folds)",))


def test_a_job_that_dies_after_its_fold_is_finished_leaves_it_done(workspace: Workspace, store: Store) -> None:
    class Dying(InlineEngine):
        def submit(self, job: Job) -> int:
            handle = super().submit(job)
            self.results[handle] = JobResult(-9, 1.0)
            return handle

    number = register(store)
    report = launch(Project(workspace, store), [number], Dying(), options=CPU)
    assert report.complete
    assert states(report.units) == [(number, 0, "done"), (number, 1, "done")]


def test_a_store_that_is_busy_when_a_job_ends_does_not_end_the_others(workspace: Workspace, store: Store) -> None:
    class Busy(Store):
        """A store that fails once when it is asked for predictions after the first job."""

        left = 1

        def predictions(self, *given: object, **named: object) -> list[Prediction]:
            if engine.jobs and self.left:
                self.left -= 1
                raise IchxError("the store is locked", "wait")
            return super().predictions(*given, **named)  # type: ignore[arg-type]

    number, engine = register(store), InlineEngine()
    with Busy(workspace.store_url) as busy:
        report = launch(Project(workspace, busy), [number], engine, options=CPU)
        assert busy.left == 0
    assert states(report.units) == [(number, 0, "done"), (number, 1, "done")]


def test_mistakes_are_told_before_anything_runs(workspace: Workspace, store: Store, tmp_path: Path) -> None:
    number, engine = register(store), InlineEngine()
    wrong: list[tuple[Callable[[], object], str]] = [
        (lambda: launch(Project(workspace, store), [number, 9], engine), "no experiment 9"),
        (
            lambda: launch(Project(workspace, store), [number], engine, folds=[0, 2]),
            "has no fold 2; its folds are 0 to 1",
        ),
        (
            lambda: launch(
                Project(workspace, store), [number], engine, options=RunOptions(weights=tmp_path / "none.pth")
            ),
            "cannot read the weights file",
        ),
    ]
    for ask, problem in wrong:
        with pytest.raises(IchxError, match=problem):
            ask()
    assert engine.jobs == []


def test_asked_to_stop_it_begins_no_more_and_asked_again_it_kills(workspace: Workspace, store: Store) -> None:
    number = register(store, "stage.balanced.epochs=1000")
    other = register(store)
    told = Told()
    seen: list[tuple[int, str | None]] = []

    def stops() -> int:
        seen.extend((run.pid, process_identity(run.pid)) for run in store.runs(number, 0) if not seen)
        return 2 if seen else 0

    with closing(LocalEngine(1, grace=None)) as engine:
        report = launch(
            Project(workspace, store), [number, other], engine, folds=[0], options=CPU, events=told, stops=stops
        )
    assert report.stopped
    assert states(report.units) == [(number, 0, "stopped"), (other, 0, "not begun")]
    assert (1, True) in told.said
    ((pid, mark),) = seen
    assert mark is not None
    assert is_process_alive(pid, mark) is False
    assert [run.state for run in store.runs(number, 0)] == ["dead"]

    late = launch(Project(workspace, store), [other], InlineEngine(), folds=[0], options=CPU, stops=lambda: 1)
    assert states(late.units) == [(other, 0, "not begun")]


class Interleaved(Store):
    """A store in which another process finishes fold 1 and updates the score just before this one writes its own."""

    other: Callable[[], None] | None = None

    def set_scores(self, number: int, plain: ScoreDraft, tta: ScoreDraft) -> None:
        other, self.other = self.other, None
        if other is not None:
            other()
        super().set_scores(number, plain, tta)


def test_a_score_that_was_overtaken_is_made_again(trained_root: Path, tmp_path: Path) -> None:
    workspace = open_workspace(Path(shutil.copytree(trained_root, tmp_path / "trained")))
    with open_store(workspace) as store, Interleaved(workspace.store_url) as late:
        whole = store.experiment(1)
        names = [field.name for field in fields(PredictionDraft)]
        taken = [
            PredictionDraft(**{name: getattr(p, name) for name in names}) for p in store.predictions(1) if p.fold == 1
        ]
        with closing(sqlite3.connect(workspace.root / "db" / "ichx.db")) as connection, connection:
            connection.execute("DELETE FROM prediction WHERE experiment = 1 AND fold = 1")
        update_scores(Project(workspace, store), 1)
        half = store.experiment(1)
        assert half.score != whole.score

        def finish_other() -> None:
            run = store.start_run(run_draft(1, 1, "cpu", 0, workspace.experiment_dir(1) / "fold-1"))
            store.finish_run(run.id, "done", predictions=taken)
            update_scores(Project(workspace, store), 1)
            assert store.experiment(1).score == whole.score

        late.other = finish_other
        update_scores(Project(workspace, late), 1)
        after = store.experiment(1)
    assert (after.score, after.spread, after.score_tta) == (whole.score, whole.spread, whole.score_tta)
