"""Runs an experiment: executes its folds and keeps its score; what is done already is not done again."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from ichx.errors import IchxError, InvalidInputError, UnsupportedError
from ichx.evaluation.member_outputs import check_inputs
from ichx.evaluation.scorecard import update_scores
from ichx.experiments.callbacks import RunCallbacks
from ichx.experiments.fold_run import FoldContext, run_fold
from ichx.experiments.fold_status import finished_folds, missing_features, missing_tests, unpredicted_folds
from ichx.experiments.folder_record import check_folder, describe_again, describe_folder
from ichx.experiments.loggers.attach import attach_loggers
from ichx.experiments.member_features import TableOptions
from ichx.experiments.prepare import PreparedFolds, prepare_experiment
from ichx.experiments.prepared_series import prepare_series
from ichx.experiments.sequence_members import require_members
from ichx.recipe_text import from_toml
from ichx.store import PooledScore, pooled_score, require_network
from ichx.training.checkpoint_files import checkpoints
from ichx.training.device import choose_hardware
from ichx.training.distributed import AgreedError, Group, join_group, local_rank, local_size, report_lost_processes
from ichx.training.pooled_features import last_layer
from ichx.training.run_options import RunOptions
from ichx.training.stop_request import StopRequest, stop_on_signals
from ichx.training.weights import choose_start, make_model

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import Experiment


@dataclass(frozen=True, kw_only=True)
class RunReport(PooledScore):
    """What `run_experiment` did, and the score that the experiment has now."""

    trained: tuple[int, ...]
    """Folds that were trained now."""
    already_done: tuple[int, ...]
    """Folds that had been trained before."""


@dataclass(frozen=True)
class _Folds:
    """What has to be done: `train` folds, and `predict` with trained folds that lack predictions."""

    train: tuple[int, ...]
    done: tuple[int, ...]
    predict: tuple[int, ...]
    lost: frozenset[int]


def run_experiment(
    project: "Project",
    number: int,
    *,
    folds: Sequence[int] | None = None,
    options: RunOptions | None = None,
    callbacks: RunCallbacks | None = None,
) -> RunReport:
    """Train and predict folds of an experiment, from where earlier runs ended.

    If this process is one of several (started by torchrun or `ichx.training.spawn`), they train together. Stop
    signals request a stop.

    Args:
        project: The open project.
        number: The experiment.
        folds: The folds to run; None for all.
        options: Device, start weights, loader, checkpoints.
        callbacks: Receives the progress, next to the loggers of the workspace.

    Raises:
        NotFoundError: The experiment or a fold does not exist.
        ConflictError: Another process holds a fold, the options contradict earlier runs, or the folder contains
            another experiment.
        RunStopped: A stop was requested; the progress is saved.
    """
    options = options or RunOptions()
    experiment = project.store.experiment(number)
    require_network(experiment, "run it")
    wanted = list(range(experiment.folds) if folds is None else folds)
    experiment.check_folds(wanted)
    check_folder(project, experiment)
    recipe = from_toml(experiment.recipe)
    if experiment.members:
        _check_members(project, experiment, wanted, options)
    if options.pretrained is not None or options.weights is not None:
        # Checked before anything runs, and also where every fold is done and the option would have no effect.
        folder = project.workspace.experiment_files(number).folder
        choose_start(folder, recipe, pretrained=options.pretrained, weights=options.weights)
    hardware = choose_hardware(_device_of_process(options.device), recipe.precision, recipe.input.pixels)
    with (
        attach_loggers(project.workspace, experiment, recipe, callbacks or RunCallbacks()) as attached,
        stop_on_signals(attached.note) as stop,
        join_group(hardware.device, attached.note) as group,
        report_lost_processes(group, stop, number),
    ):
        if group.size > 1 and options.save_features:
            raise UnsupportedError(
                "Several processes cannot save features.",
                f"Train without --save, then run `ichx run {number} --save features` in one process.",
            )
        receiver = attached if group.leads else RunCallbacks()  # the others would report the same
        todo = _folds_to_run(project, experiment, wanted, group, features=options.save_features)
        if todo.train or todo.predict:
            with stop.interruptible():  # a cache keeps its finished shards
                prepare = partial(_prepare, project, experiment, todo, options, receiver, stop)
                prepared = group.leader_first(prepare)
            if group.leads:
                describe_folder(project, experiment)
            context = FoldContext(prepared, options, hardware, receiver, group, stop, todo.train)
            for fold in wanted:
                if fold in todo.train or fold in todo.predict:
                    stop.raise_if_stopped()
                    if fold in todo.lost:
                        receiver.note(f"the OOF predictions of fold {fold} are gone; predicting again with its weights")
                    run_fold(context, fold, trained=fold in todo.predict)
                    if group.leads:
                        with suppress(IchxError):  # damaged predictions of another fold are reported after all folds
                            update_scores(project, number)
                        describe_folder(project, project.store.experiment(number))
        if group.leads:
            update_scores(project, number)
            describe_again(project, [number])  # a kill before it would leave the record without the last fold
        group.broadcast(None)  # all processes report the same score
    after = pooled_score(project.store.experiment(number))
    return RunReport(**vars(after), trained=todo.train, already_done=todo.done)


def _folds_to_run(
    project: "Project", experiment: "Experiment", wanted: Sequence[int], group: Group, *, features: bool
) -> _Folds:
    """Return what is missing of the `wanted` folds, the same in all processes."""
    number = experiment.number
    lost = group.broadcast(unpredicted_folds(project, experiment))
    trained = group.broadcast(finished_folds(project, experiment)) | lost
    done = [fold for fold in wanted if fold in trained]
    predict = [
        fold
        for fold in done
        if fold in lost
        or missing_tests(project, experiment, fold)
        or (features and missing_features(project, number, fold))
    ]
    train = tuple(fold for fold in wanted if fold not in trained)
    return _Folds(train, tuple(done), tuple(group.broadcast(predict)), frozenset(lost))


def _prepare(
    project: "Project",
    experiment: "Experiment",
    todo: _Folds,
    options: RunOptions,
    callbacks: RunCallbacks,
    stop: StopRequest,
) -> PreparedFolds:
    """Return the experiment ready to train; raise `IchxError` if it cannot be trained or predicted."""
    if experiment.members:
        tables = TableOptions(options.device, options.workers)
        prepared = prepare_series(project, experiment, callbacks, tables, stop)
        prepared.check(sorted({*todo.train, *todo.predict}))
        return prepared
    check = partial(_check_network, project, experiment, todo.train[:1], options, callbacks)
    return prepare_experiment(project, experiment, callbacks, check)


def _check_members(project: "Project", experiment: "Experiment", folds: Sequence[int], options: RunOptions) -> None:
    """Raise `IchxError` if the members of a sequence experiment lack something, or were retrained."""
    if options.save_features:
        raise UnsupportedError(
            f"Experiment {experiment.number} reads features and has none itself.", "Leave out --save features."
        )
    require_members(project, experiment, folds)
    for fold in finished_folds(project, experiment) & set(folds):
        check_inputs(project, experiment, fold)


def _check_network(
    project: "Project", experiment: "Experiment", train: Sequence[int], options: RunOptions, callbacks: RunCallbacks
) -> None:
    """Raise `IchxError` if the first of the folds to `train` cannot start: before its cache is built, not after.

    Pretrained weights are downloaded. A fold with a checkpoint starts from that.
    """
    files = project.workspace.experiment_files(experiment.number)
    if not train or checkpoints(files.fold(train[0]).folder):
        return
    recipe, plugin = from_toml(experiment.recipe), project.registry.get(experiment.plugin)
    start = choose_start(files.folder, recipe, pretrained=options.pretrained, weights=options.weights)
    with torch.random.fork_rng(devices=[]):
        note = callbacks.note if start.kind == "pretrained" else lambda message: None  # the fold reports files
        model = make_model(plugin, recipe, start, note)
    if options.save_features:
        last_layer(model)


def _device_of_process(device: str) -> str:
    """Return the device of this process: each process on a machine has a GPU of its own."""
    size = local_size()
    if size == 1:
        return device
    if device not in ("auto", "cuda", "cpu"):
        raise InvalidInputError(
            f"Several processes cannot share the device {device}.", "Use --device auto, cuda or cpu."
        )
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    gpus = torch.cuda.device_count()
    if size > gpus:  # NCCL refuses two processes on one GPU, where they would not be faster than one
        error = AgreedError if local_rank() else UnsupportedError  # one process of each machine reports it
        raise error(
            f"{size} processes need {size} GPUs; this machine has {gpus}.",
            f"Use --processes {gpus}." if gpus > 1 else "Use one process, or --device cpu.",
        )
    return f"cuda:{local_rank()}"
