"""For tests of a study: an engine whose jobs record epochs as a run does, one each time they are looked at."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ichx.jobs import Job, JobResult
from ichx.recipe import Recipe
from ichx.recipe_text import from_toml
from ichx.store import EpochRecord, PredictionDraft, Run, RunDraft, Store
from ichx.store.process import host_name
from ichx.training.run_options import RunOptions
from ichx.tuning.budget import Value
from ichx.tuning.study_events import TrialResult, TuneEvents
from ichx.tuning.trial import Budget

SEARCH = ("stage.balanced.lr=log:1e-4..1e-2", "batch=16,32")
CPU = Budget(fold=1, options=RunOptions(device="cpu"))


class Told(TuneEvents):
    def __init__(self) -> None:
        self.started: list[int] = []
        self.ended: list[TrialResult] = []
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def trial_started(self, trial: int, trials: int, experiment: int, values: Mapping[str, Value]) -> None:
        self.started.append(experiment)

    def trial_ended(self, result: TrialResult, best: TrialResult | None) -> None:
        self.ended.append(result)


def far_from(rate: float) -> Callable[[Recipe, float], float]:
    """Return a score that falls while it is trained, the deeper the nearer the first stage's rate is to `rate`."""
    return lambda recipe, part: 0.7 - 0.5 * part + 0.1 * abs(math.log10(recipe.stage[0].lr / rate))


Score = Callable[[Recipe, float], float]
"""The score of a training by a recipe at a part of it, from 0 to 1."""


@dataclass
class _Scripted:
    run: Run
    recipe: Recipe
    epochs: list[tuple[int, int]]
    at: int = 0
    result: JobResult | None = None
    asked: bool = False


@dataclass
class ScriptedEngine:
    """Trains nothing: `score` says what an epoch comes to, `seconds` what it takes, `fails` which jobs fail."""

    store: Store
    score: Score
    seconds: Callable[[Recipe], float] = lambda recipe: 1.0
    fails: Callable[[int], bool] = lambda job: False
    before: Callable[[int], None] = lambda job: None
    memory: float = 1.0
    jobs: list[Job] = field(default_factory=list)
    _scripted: list[_Scripted] = field(default_factory=list)

    def submit(self, job: Job) -> int:
        number, fold = int(job.argv[4]), int(job.argv[6])
        self.before(len(self.jobs))
        recipe = from_toml(self.store.experiment(number).recipe)
        run = self.store.start_run(RunDraft(number, fold, host_name(), os.getpid(), "test", {}, "cpu", "test"))
        done = {(r.stage_index, r.epoch) for r in self.store.history(number, fold)}
        epochs = [(s, e) for s, stage in enumerate(recipe.stage) for e in range(1, stage.epochs + 1)]
        job.log.parent.mkdir(parents=True, exist_ok=True)
        (job.log.parent / "checkpoint-1.pt").write_bytes(b"x")
        self._scripted.append(_Scripted(run, recipe, epochs, at=len(done)))
        self.jobs.append(job)
        return len(self.jobs) - 1

    def poll(self, handle: int) -> JobResult | None:
        told = self._scripted[handle]
        if told.result is None:
            if told.asked:
                self._end(handle, "stopped", 143)
            elif self.fails(handle):
                with self.jobs[handle].log.open("a") as log:
                    log.write("error: out of luck\n")
                self._end(handle, "failed", 1)
            elif told.at < len(told.epochs):
                self._train(told)
            else:
                self._finish(handle, told)
        return told.result

    def _train(self, told: _Scripted) -> None:
        index, epoch = told.epochs[told.at]
        told.at += 1
        values = {
            "score": self.score(told.recipe, told.at / len(told.epochs)),
            "seconds": self.seconds(told.recipe),
            "memory_gb": self.memory,
        }
        self.store.record_epoch(told.run.id, EpochRecord(told.recipe.stage[index].name, index, epoch, values))

    def _finish(self, handle: int, told: _Scripted) -> None:
        experiment = self.store.experiment(told.run.experiment)
        folder = self.jobs[handle].log.parent
        drafts = []
        for view in ("identity", "hflip"):
            path = Path("experiments") / str(experiment.number) / folder.name / f"{view}.parquet"
            drafts.append(
                PredictionDraft(
                    experiment.number,
                    told.run.fold,
                    experiment.version_id,
                    "oof",
                    view,
                    path.as_posix(),
                    10,
                    "digest",
                    self.score(told.recipe, 1.0),
                )
            )
        self.store.finish_run(told.run.id, "done", predictions=drafts)
        told.result = JobResult(0, 1.0)

    def _end(self, handle: int, state: str, code: int) -> None:
        self.store.finish_run(self._scripted[handle].run.id, state)
        self._scripted[handle].result = JobResult(code, 1.0)

    def wait(self, handle: int, timeout: float | None = None) -> JobResult | None:
        while self._scripted[handle].result is None:
            self.poll(handle)
        return self._scripted[handle].result

    def cancel(self, handle: int) -> None:
        self._scripted[handle].asked = True

    kill = cancel

    def close(self) -> None:
        """Nothing is left."""
