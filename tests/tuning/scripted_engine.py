"""An engine for tests of studies: its jobs record epochs as a run does, one each time they are polled."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ichx.jobs import Engine, Job, JobResult, JobState
from ichx.process_identity import host_name
from ichx.project import Project
from ichx.recipe import Recipe
from ichx.recipe_text import from_toml
from ichx.store import EpochRecord, PredictionDraft, Run, RunDraft, Store
from ichx.training.run_options import RunOptions
from ichx.tuning.budget import Value
from ichx.tuning.study import TuneRequest, tune
from ichx.tuning.trial import Budget
from ichx.tuning.trial_view import TrialView
from ichx.tuning.tune_report import TuneCallbacks, TuneReport

SEARCHES = ("stage.balanced.lr=log:1e-4..1e-2", "batch=16,32")
CPU = Budget(fold=1, options=RunOptions(device="cpu"))


class Recorder(TuneCallbacks):
    """Records what the callbacks receive."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.ended: list[TrialView] = []
        self.notes: list[str] = []
        self.problems: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def trouble(self, problem: str) -> None:
        self.problems.append(problem)

    def trial_started(self, trial: int, trials: int, experiment: int, values: Mapping[str, Value]) -> None:
        self.started.append(experiment)

    def trial_ended(self, trial: TrialView, best: TrialView | None) -> None:
        self.ended.append(trial)


def search(
    project: Project,
    engine: Engine,
    trials: int,
    *,
    experiment: int = 1,
    callbacks: TuneCallbacks | None = None,
    stop_level: Callable[[], int] = lambda: 0,
    **settings: Any,
) -> TuneReport:
    """Tune an experiment with `settings` of the request."""
    request = TuneRequest(experiment, trials, **{"warm_start": False, **settings})
    return tune(project, request, engine, callbacks=callbacks, stop_level=stop_level)


def far_from(rate: float) -> Callable[[Recipe, float], float]:
    """Return a score that decreases during training, the lower the nearer the first stage's rate is to `rate`."""
    return lambda recipe, part: 0.7 - 0.5 * part + 0.1 * abs(math.log10(recipe.stage[0].lr / rate))


Score = Callable[[Recipe, float], float]
"""The score of a training by a recipe when a part of it, 0 to 1, is done."""


@dataclass
class _ScriptedRun:
    run: Run
    recipe: Recipe
    epochs: list[tuple[int, int]]
    at: int = 0
    result: JobResult | None = None
    cancelled: bool = False


@dataclass
class ScriptedEngine:
    """Trains nothing: `score` and `seconds` define an epoch, `fails` which jobs fail."""

    store: Store
    score: Score
    seconds: Callable[[Recipe], float] = lambda recipe: 1.0
    fails: Callable[[int], bool] = lambda job: False
    before: Callable[[int], None] = lambda job: None
    memory: float = 1.0
    jobs: list[Job] = field(default_factory=list)
    _runs: list[_ScriptedRun] = field(default_factory=list)

    name: ClassVar[str] = "scripted"
    outlives_submitter: ClassVar[bool] = False

    def submit(self, jobs: Sequence[Job], *, at_once: int | None = None, submission: str | None = None) -> list[str]:
        return [self._submit(job) for job in jobs]

    def _submit(self, job: Job) -> str:
        number, fold = int(job.argv[4]), int(job.argv[6])
        self.before(len(self.jobs))
        recipe = from_toml(self.store.experiment(number).recipe)
        run = self.store.start_run(RunDraft(number, fold, host_name(), os.getpid(), "test", {}, "cpu", "test"))
        done = {(r.stage_index, r.epoch) for r in self.store.history(number, fold)}
        epochs = [(s, e) for s, stage in enumerate(recipe.stage) for e in range(1, stage.epochs + 1)]
        job.log.parent.mkdir(parents=True, exist_ok=True)
        (job.log.parent / "checkpoint-1.pt").write_bytes(b"x")
        self._runs.append(_ScriptedRun(run, recipe, epochs, at=len(done)))
        self.jobs.append(job)
        return f"{self.name}:{len(self.jobs) - 1}"

    def find(self, submission: str) -> None:
        pass

    def states(self, handles: Sequence[str]) -> dict[str, JobState]:
        return {handle: "ended" if self.poll(handle) else "running" for handle in handles}

    def poll(self, handle: str) -> JobResult | None:
        index = self._index(handle)
        scripted = self._runs[index]
        if scripted.result is None:
            if scripted.cancelled:
                self._end(index, "stopped", 143)
            elif self.fails(index):
                with self.jobs[index].log.open("a") as log:
                    log.write("error: out of luck\n")
                self._end(index, "failed", 1)
            elif scripted.at < len(scripted.epochs):
                self._train(scripted)
            else:
                self._finish(index, scripted)
        return scripted.result

    def _train(self, scripted: _ScriptedRun) -> None:
        index, epoch = scripted.epochs[scripted.at]
        scripted.at += 1
        score = self.score(scripted.recipe, scripted.at / len(scripted.epochs))
        values = {
            "score": score,
            "calibrated_score": score,
            "seconds": self.seconds(scripted.recipe),
            "memory_gb": self.memory,
        }
        stage = scripted.recipe.stage[index].name
        self.store.record_epoch(scripted.run.id, EpochRecord(stage, index, epoch, values))

    def _finish(self, index: int, scripted: _ScriptedRun) -> None:
        experiment = self.store.experiment(scripted.run.experiment)
        folder = self.jobs[index].log.parent
        drafts = []
        for view in ("identity", "hflip"):
            path = Path("experiments") / str(experiment.number) / folder.name / f"{view}.parquet"
            drafts.append(
                PredictionDraft(
                    experiment.number,
                    scripted.run.fold,
                    experiment.version_id,
                    "oof",
                    view,
                    path.as_posix(),
                    10,
                    "digest",
                    self.score(scripted.recipe, 1.0),
                )
            )
        self.store.finish_run(scripted.run.id, "done", predictions=drafts)
        scripted.result = JobResult(0, 1.0)

    def _end(self, index: int, state: str, code: int) -> None:
        self.store.finish_run(self._runs[index].run.id, state)
        self._runs[index].result = JobResult(code, 1.0)

    def wait(self, handle: str, timeout: float | None = None) -> JobResult | None:
        while (result := self.poll(handle)) is None:
            pass
        return result

    def cancel(self, handle: str) -> None:
        self._runs[self._index(handle)].cancelled = True

    def _index(self, handle: str) -> int:
        return int(handle.partition(":")[2])

    kill = cancel

    def close(self) -> None:
        """Nothing is open."""
