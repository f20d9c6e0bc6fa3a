"""The training loop: stages, epochs, train, validate, checkpoint, stop.

`fit` needs a network, a recipe and a feed; it knows no store and no workspace. A fold of an experiment is run in
`ichx.experiments.fold_run`.
"""

from dataclasses import dataclass, field

from torch import nn

from ichx.evaluation.calibrated_score import FoldCalibration
from ichx.evaluation.metric import probabilities
from ichx.recipe import Recipe, StageRecipe
from ichx.training.callbacks import EpochResult
from ichx.training.checkpoint import EpochSums, Position
from ichx.training.compilation import compiler_for
from ichx.training.control import Control
from ichx.training.device import Hardware, choose_hardware
from ichx.training.early_stopping import EarlyStopping
from ichx.training.epoch_loop import plan_epoch, train_epoch, validate
from ichx.training.feed import TrainingFeed
from ichx.training.learner import Learner
from ichx.training.prediction import Logits, PredictionTask, Predictor
from ichx.training.run_options import INFERENCE_BATCH
from ichx.training.runtime import Runtime

FINAL = "oof-identity"
"""Name under which checkpoints hold the final predictions of the validation rows."""


@dataclass(frozen=True)
class FitOptions:
    """How a training is executed; of these, device, precision and the score of patience change what it computes."""

    fold: int = 0
    """Part of the address of random draws."""
    hardware: Hardware | None = None
    """Device and precision; None chooses the best of this machine, as the recipe's `precision` allows."""
    control: Control = field(default_factory=Control)
    """Checkpoints, callbacks, stop requests and the processes that train together."""
    unused_parameters: bool = False
    """Whether parameters of the network get no gradients, e.g. a decoder without masks."""
    calibration: FoldCalibration | None = None
    """Records the calibrated score of each epoch, which then decides about patience, too. For tuning."""


@dataclass(frozen=True)
class FitResult:
    """A trained network and its predictions of the validation rows."""

    network: nn.Module
    """On the device, with averaged weights, or several networks, if the recipe averages weights or predictions."""
    logits: Logits
    """`(N, 6)` float32, of the slices of the feed's validation rows."""
    score: float
    """Weighted log loss of the validation rows."""
    history: tuple[EpochResult, ...]
    """The epochs that were trained by this call, not those before a checkpoint."""
    predictor: Predictor
    """Predicts other rows with the same device, precision and control."""


def fit(model: nn.Module, recipe: Recipe, feed: TrainingFeed, options: FitOptions | None = None) -> FitResult:
    """Train `model` by the stages of `recipe` on the rows of `feed`, from the newest checkpoint if there is one.

    Args:
        model: Maps what the feed delivers, e.g. `(N, C, H, W)` images, to logits. It is trained in place and moved to
            the device.
        recipe: Stages, optimizer, loss, augmentation.
        feed: The data of one fold.
        options: Device, checkpoints, callbacks; by default the best device, no checkpoints and no output.

    Raises:
        RunStopped: A stop was requested; the progress is saved.
        TrainingDivergedError: The loss or the weights are no longer finite.
        StorageError: A checkpoint cannot be written.
        ResourceError: A single image does not fit into memory.
    """
    options = options or FitOptions()
    control, checkpoints = options.control, options.control.checkpoints
    hardware = options.hardware or choose_hardware("auto", recipe.precision, recipe.input.pixels)
    unused = options.unused_parameters or recipe.freezes
    runtime = Runtime(hardware, control.group, unused_parameters=unused)
    # Batches of series vary in length, and each length would be compiled separately. Synchronized batch norms exchange
    # values in the forward pass, so that a process in which that cannot be compiled would keep the others waiting.
    images, exchanges = recipe.sequence is None, recipe.model.sync_bn and control.group.size > 1
    compiler = compiler_for(hardware.device, total_steps(recipe, feed)) if images and not exchanges else None
    learner = Learner(recipe, options.fold, model, runtime, control.callbacks.note, compiler)
    validations = -(-len(feed.validation_rows) // INFERENCE_BATCH) * (recipe.epochs + 1) if images else 0
    predictor = Predictor(runtime, control, batches=validations)
    progress, history = checkpoints.progress, list[EpochResult]()
    checkpoints.end = end_of(recipe)
    start = progress.position
    for index, stage in enumerate(recipe.stage[start.stage :], start.stage):
        stopping = begin_stage(learner, control, index, stage)
        first = start.epoch if index == start.stage else 0
        for epoch in range(first, stage.epochs):
            plan = plan_epoch(recipe, feed, index, epoch, progress.position)
            train_epoch(learner, feed, plan, control)
            share = stage.validated_share(epoch + 1)
            result, logits = validate(learner, feed, plan, predictor, options.calibration, share)
            stopping.update(result.compared_score, learner.weights)
            if stopping.over and "score" not in result.values:  # the last epoch of the stage after all
                result, logits = validate(learner, feed, plan, predictor, options.calibration)
            reached = stage.epochs if stopping.over else epoch + 1  # epochs that patience leaves out count as done
            # Record first: after a crash between the two, the resumed run validates again and replaces the record.
            control.record(result, epochs_done(recipe, index, reached))
            progress.position, progress.sums = Position(index, reached), EpochSums()
            progress.logits.clear()
            if is_last(recipe, index, reached) and stopping.keeps_last and recipe.prediction.average_last == 1:
                progress.logits[FINAL] = logits
            checkpoints.save()
            control.callbacks.epoch_ended(result)
            history.append(result)
            if stopping.over:
                break
        if stopping.scores:
            learner.set_weights(stopping.weights)
            trained = len(stopping.scores)
            control.callbacks.stage_ended(stage.name, stopping.best + 1, trained, stage.epochs - trained)
    task = PredictionTask(phase="validating", name=FINAL)
    network, rows = learner.final_network, feed.validation_rows
    logits = feed.slice_logits(rows, predictor.logits(network, feed, rows, task))
    return FitResult(network, logits, feed.truth(rows).scored(probabilities(logits)).score, tuple(history), predictor)


def begin_stage(learner: Learner, control: Control, index: int, stage: StageRecipe) -> EarlyStopping:
    """Begin a stage, or continue it from the checkpoint that was loaded; return its patience."""
    checkpoints = control.checkpoints
    learner.begin_stage(index)
    stopping = EarlyStopping(stage.patience)
    resumed = checkpoints.take_resumed()
    if resumed is not None:
        learner.restore(resumed)
        if stage.patience > 0:
            stopping.restore(resumed["patience"])
    checkpoints.learned = lambda: learner.state() | {"patience": stopping.state()}
    return stopping


def total_steps(recipe: Recipe, feed: TrainingFeed) -> int:
    """Return the steps of the whole training; all epochs of a stage have as many."""
    plans = [plan_epoch(recipe, feed, index, 0, Position(0, 0)) for index in range(len(recipe.stage))]
    return sum(stage.epochs * plan.total for stage, plan in zip(recipe.stage, plans, strict=True))


def epochs_done(recipe: Recipe, index: int, epochs: int) -> int:
    """Return the epochs of all stages that are done after `epochs` of stage `index`."""
    return sum(stage.epochs for stage in recipe.stage[:index]) + epochs


def end_of(recipe: Recipe) -> tuple[int, int]:
    """Return the last stage and its number of epochs: where the training is over."""
    return len(recipe.stage) - 1, recipe.stage[-1].epochs


def is_last(recipe: Recipe, index: int, epochs: int) -> bool:
    """Return whether the training is over after `epochs` of stage `index`."""
    return epochs_done(recipe, index, epochs) == recipe.epochs
