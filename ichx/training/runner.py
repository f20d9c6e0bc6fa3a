"""The runner: executes the folds of an experiment and keeps its score; what is done already is not done again."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from ichx.errors import IchxError
from ichx.recipe_text import from_toml
from ichx.store import marks
from ichx.training.events import RunEvents
from ichx.training.fold import FoldRun
from ichx.training.fold_state import finished_folds, missing_tests, unpredicted_folds
from ichx.training.following.follow import followed
from ichx.training.job import prepare_job
from ichx.training.lasting.stop import listening
from ichx.training.launching.group import AgreedError, joined, local_rank, local_size, watching
from ichx.training.network.device import choose_hardware
from ichx.training.network.weights import choose_start
from ichx.training.options import RunOptions
from ichx.training.pooled import update_scores
from ichx.training.predicting import missing_features

if TYPE_CHECKING:
    from ichx.plugins import Registry
    from ichx.store import Store
    from ichx.workspace import Workspace


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
    workspace: "Workspace",
    store: "Store",
    registry: "Registry",
    number: int,
    *,
    folds: Sequence[int] | None = None,
    options: RunOptions | None = None,
    events: RunEvents | None = None,
) -> RunReport:
    """Train and predict `folds` (all) of experiment `number`; what is done already is kept.

    Started as one of several processes (by torchrun, or `ichx.training.launching.spawn`), it does so together with the
    others. Ctrl-C and SIGTERM are listened to meanwhile. Raises `RunStopped` for them, and `IchxError` for an unknown
    experiment or fold, a fold that another process runs, and all that a fold raises.
    """
    options = options or RunOptions()
    experiment = store.experiment(number)
    wanted = list(range(experiment.folds) if folds is None else folds)
    for fold in wanted:
        if not 0 <= fold < experiment.folds:
            raise IchxError(f"experiment {number} has no fold {fold}", f"its folds are 0 to {experiment.folds - 1}")
    recipe = from_toml(experiment.recipe)
    if options.pretrained is not None or options.weights is not None:
        # Told before anything runs, and also where every fold is done and the option would have no effect.
        home = workspace.experiment_dir(number)
        choose_start(home, recipe, pretrained=options.pretrained, weights=options.weights)
    hardware = choose_hardware(_own_device(options.device), recipe.precision, recipe.input.pixels)
    with (
        followed(workspace, experiment, recipe, events or RunEvents()) as told,
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
        done = group.share(finished_folds(workspace, store, number))
        lost = group.share(unpredicted_folds(workspace, store, number))
        trained, kept = [f for f in wanted if f not in done | lost], [f for f in wanted if f in done | lost]
        behind = group.share(
            [
                f
                for f in kept
                if f in lost
                or missing_tests(workspace, store, experiment, f)
                or (options.save_features and missing_features(workspace, store, number, f))
            ]
        )
        if trained or behind:
            with stop.at_once():  # a cache keeps its finished shards
                job = group.first(partial(prepare_job, workspace, store, registry, experiment, own))
            for fold in wanted:
                if fold in trained or fold in behind:
                    stop.heed()
                    if fold in lost:
                        own.note(f"the OOF predictions of fold {fold} are gone: they are made again with its weights")
                    FoldRun(
                        job,
                        store,
                        fold,
                        trained=fold in behind,
                        options=options,
                        events=own,
                        hardware=hardware,
                        group=group,
                        stop=stop,
                    ).execute()
        if group.leads:
            update_scores(workspace, store, number)
        group.share(None)  # all of them report the same
    after = store.experiment(number)
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
    size = local_size()
    if size == 1:
        return device
    if device not in ("auto", "cuda", "cpu"):
        raise IchxError(f"several processes cannot all compute on {device}", "choose --device auto, cuda or cpu")
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    gpus = torch.cuda.device_count()
    if size > gpus:  # NCCL refuses two processes on one GPU, and they would not be faster than one
        error = AgreedError if local_rank() else IchxError  # one process of each machine reports it
        raise error(
            f"{size} processes need {size} GPUs, and this machine has {gpus} GPU{'s' if gpus != 1 else ''}",
            f"choose --processes {gpus}" if gpus > 1 else "use one process, or --device cpu",
        )
    return f"cuda:{local_rank()}"
