"""The runner: executes the folds of an experiment and keeps its score; what is done already is not done again."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from ichx.errors import IchxError
from ichx.evaluation.scorecard import update_scores
from ichx.experiments.fold_files import finished_folds, missing_tests, unpredicted_folds
from ichx.experiments.fold_predictor import missing_features
from ichx.experiments.fold_run import FoldRun
from ichx.experiments.loggers.attach import followed
from ichx.experiments.prepare import prepare_job
from ichx.recipe_text import from_toml
from ichx.store import marks
from ichx.training.callbacks import RunEvents
from ichx.training.device import choose_hardware
from ichx.training.distributed import joined, local_rank, local_size, watching
from ichx.training.run_options import RunOptions
from ichx.training.stop_request import listening
from ichx.training.weights import choose_start

if TYPE_CHECKING:
    from ichx.project import Project


@dataclass(frozen=True)
class RunReport:
    """What `run_experiment` did: folds trained now, folds that had been done, the score, and its `marks`.

    `score_low` and `score_high` bound the score's 95 % interval over patients.
    """

    experiment: int
    trained: tuple[int, ...]
    already_done: tuple[int, ...]
    folds: int
    score: float | None
    score_low: float | None
    score_high: float | None
    spread: float | None
    score_tta: float | None
    marks: tuple[str, ...]


def run_experiment(
    project: "Project",
    number: int,
    *,
    folds: Sequence[int] | None = None,
    options: RunOptions | None = None,
    events: RunEvents | None = None,
) -> RunReport:
    """Train and predict `folds` (all) of experiment `number`; what is done already is kept.

    Started as one of several processes (by torchrun, or `ichx.training.spawn`), it does so together with the
    others. Ctrl-C and SIGTERM are listened to meanwhile. Raises `RunStopped` for them, and `IchxError` for an unknown
    experiment or fold, a fold that another process runs, and all that a fold raises.
    """
    options = options or RunOptions()
    experiment = project.store.experiment(number)
    wanted = list(range(experiment.folds) if folds is None else folds)
    for fold in wanted:
        if not 0 <= fold < experiment.folds:
            raise IchxError(f"experiment {number} has no fold {fold}", f"its folds are 0 to {experiment.folds - 1}")
    recipe = from_toml(experiment.recipe)
    if options.pretrained is not None or options.weights is not None:
        # Told before anything runs, and also where every fold is done and the option would have no effect.
        home = project.workspace.experiment_dir(number)
        choose_start(home, recipe, pretrained=options.pretrained, weights=options.weights)
    hardware = choose_hardware(_own_device(options.device), recipe.precision, recipe.input.pixels)
    with (
        followed(project.workspace, experiment, recipe, events or RunEvents()) as told,
        listening(told.note) as stop,
        joined(hardware.device) as group,
        watching(group, stop, number),
    ):
        if group.size > 1 and options.save_features:
            raise IchxError(
                "features are saved by one process",
                f"train without --save, then run `ichx run {number} --save features` in one process",
            )
        own = told if group.leads else RunEvents()  # the others would say the same
        done = group.share(finished_folds(project, number))
        lost = group.share(unpredicted_folds(project, number))
        trained, kept = [f for f in wanted if f not in done | lost], [f for f in wanted if f in done | lost]
        behind = group.share(
            [
                f
                for f in kept
                if f in lost
                or missing_tests(project, experiment, f)
                or (options.save_features and missing_features(project, number, f))
            ]
        )
        if trained or behind:
            with stop.at_once():  # a cache keeps its finished shards
                job = group.first(partial(prepare_job, project, experiment, own))
            for fold in wanted:
                if fold in trained or fold in behind:
                    stop.heed()
                    if fold in lost:
                        own.note(f"the OOF predictions of fold {fold} are gone: they are made again with its weights")
                    FoldRun(
                        job,
                        project.store,
                        fold,
                        trained=fold in behind,
                        options=options,
                        events=own,
                        hardware=hardware,
                        group=group,
                        stop=stop,
                    ).execute()
        if group.leads:
            update_scores(project, number)
        group.share(None)  # all of them report the same
    after = project.store.experiment(number)
    return RunReport(
        experiment=number,
        trained=tuple(trained),
        already_done=tuple(kept),
        folds=experiment.folds,
        score=after.score,
        score_low=after.score_low,
        score_high=after.score_high,
        spread=after.spread,
        score_tta=after.score_tta,
        marks=marks(after),
    )


def _own_device(device: str) -> str:
    """Return what of `device` this process takes: each on a machine has a GPU of its own."""
    if local_size() == 1:
        return device
    if device not in ("auto", "cuda", "cpu"):
        raise IchxError(f"several processes cannot all compute on {device}", "choose --device auto, cuda or cpu")
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    return f"cuda:{local_rank()}"
