"""One epoch of training: the steps between two validations."""

import math
import time

import numpy as np
import torch

from ichx.errors import InvalidInputError
from ichx.evaluation.calibrated_score import FoldCalibration
from ichx.evaluation.choices import CALIBRATED
from ichx.evaluation.metric import label_losses, probabilities
from ichx.evaluation.scored_rows import ScoredRows
from ichx.labels import LABELS
from ichx.loading.sampling import id_number
from ichx.recipe import Recipe
from ichx.training.callbacks import EpochResult
from ichx.training.checkpoint import Position
from ichx.training.control import Control
from ichx.training.distributed import AgreedError
from ichx.training.divergence import Divergence, NonFiniteLossError, NonFiniteWeightsError, TrainingDivergedError
from ichx.training.feed import EpochPlan, Rows, TrainingFeed
from ichx.training.learner import Learner
from ichx.training.mask_loss import Overlap, dice
from ichx.training.memory import peak_gb, reset_peak
from ichx.training.norm_statistics import estimate_statistics
from ichx.training.prediction import Logits, PredictionTask, Predictor
from ichx.training.runtime import unwrap
from ichx.training.schedules import learning_rate

SINGLE_VALUE = "more than 1 value per channel"
"""Message of torch's batch normalization."""


def plan_epoch(recipe: Recipe, feed: TrainingFeed, stage: int, epoch: int, position: Position) -> EpochPlan:
    """Return the plan of an epoch, with what a training at `position` has done of it."""
    rows = feed.epoch_rows(stage, epoch)
    done = position.batch if (position.stage, position.epoch) == (stage, epoch) else 0
    return EpochPlan(stage, epoch, rows, min(recipe.batch, len(rows)), done)


def train_epoch(learner: Learner, feed: TrainingFeed, plan: EpochPlan, control: Control) -> None:
    """Train on what is left of an epoch; this process gets its part of each batch.

    Raises:
        TrainingDivergedError: The loss or the weights are no longer finite.
        AgreedError: There are more processes than rows in a batch.
        InvalidInputError: Batch normalization cannot train on one row.
    """
    group, progress, stage = control.group, control.checkpoints.progress, learner.recipe.stage[plan.stage]
    if plan.size < group.size:
        raise AgreedError(
            f"A batch of {plan.size} {feed.unit} cannot be split among {group.size} processes.", "Use fewer processes."
        )
    progress.position = Position(plan.stage, plan.epoch, plan.done)
    reset_peak(learner.runtime.device)
    control.callbacks.epoch_started(stage.name, plan.epoch + 1, stage.epochs, plan.total)
    try:
        _train_steps(learner, feed, plan, control)
    except NonFiniteLossError as error:
        problem = f"the loss is no longer finite ({error.loss})"
        raise diverged(learner.recipe, feed, plan, error.step, problem) from error
    except NonFiniteWeightsError as error:
        raise diverged(learner.recipe, feed, plan, progress.position.batch - 1, error.problem) from error
    except (ValueError, RuntimeError) as error:
        if SINGLE_VALUE not in str(error):
            raise
        unit, recipe = feed.unit.removesuffix("s"), learner.recipe
        split = f", split among {group.size} processes" if group.size > 1 else ""
        raise InvalidInputError(
            f"Batch normalization in {recipe.plugin} cannot train on one {unit} of {recipe.input.pixels} pixels: "
            f"a batch has {plan.size}{split}, or memory suffices for one at a time.",
            "Register an experiment with `--set batch=2` or more, or with larger images.",
        ) from error
    for network in (unwrap(learner.model), learner.network):  # the trained weights and their average
        group.broadcast_buffers(network)
    learner.end_epoch(sum(earlier.epochs for earlier in learner.recipe.stage[: plan.stage]) + plan.epoch)
    last = learner.last
    if last.complete and last.mean is not None and not last.statistics_done:
        estimate_statistics(last.mean, feed, plan, learner, control)
        last.statistics_done = True


def _train_steps(learner: Learner, feed: TrainingFeed, plan: EpochPlan, control: Control) -> None:
    """Take the remaining steps; at sync points add up losses, report, and save or stop on request."""
    group, progress = control.group, control.checkpoints.progress
    sums, done = progress.sums, plan.done
    losses: list[torch.Tensor] = []
    learner.begin_epoch(plan.epoch)
    control.sync.begin()
    since = time.perf_counter()
    for batch in feed.training_batches(plan, part=(group.rank, group.size)):
        share = len(batch.rows) / plan.size
        inputs = feed.inputs(batch, learner.runtime.device)
        loss = learner.step(inputs, plan.epoch, done, plan.total, share * group.size)
        losses.append(loss if share == 1.0 else loss * share)
        done += 1
        if not control.sync.after_step(done == plan.total):
            continue
        agreement = control.sync.exchange(torch.stack(losses).tolist())  # this waits for the device
        for step, values in enumerate(zip(*agreement.values, strict=True), done - len(losses)):
            # In order of steps and ranks, so that the sum does not depend on when sync points are.
            value = sum(values)
            if not math.isfinite(value):
                raise NonFiniteLossError(step, value)
            sums.loss += value
        sums.images += len(losses) * plan.size
        losses.clear()
        sums.training += time.perf_counter() - since
        progress.position = Position(plan.stage, plan.epoch, done)
        control.callbacks.step(done, plan.total, sums.loss / done, sums.images)
        control.handle(agreement)
        since = time.perf_counter()  # the time of a checkpoint is no training time


def validate(
    learner: Learner,
    feed: TrainingFeed,
    plan: EpochPlan,
    predictor: Predictor,
    calibration: FoldCalibration | None = None,
    share: float = 1.0,
) -> tuple[EpochResult, Logits]:
    """Predict validation rows after an epoch; return what the epoch came to, and the predictions.

    Args:
        learner: The network.
        feed: The data.
        plan: The epoch.
        predictor: Predicts.
        calibration: If there is one, the values include the calibrated score, which takes all rows.
        share: Share of the rows: 0 for none, 1 for all, otherwise the subset of the stage.
    """
    control = predictor.control
    share = share if calibration is None else float(share > 0)
    sums, stage = control.checkpoints.progress.sums, learner.recipe.stage[plan.stage]
    places = validation_subset(feed, share)
    rows = feed.validation_rows[places]
    control.checkpoints.start_validation()
    overlap = None if feed.masks is None or share == 0 else Overlap(learner.runtime.device)
    # Unfinished predictions of a subset must not be taken for those of the first rows of all.
    task = PredictionTask(phase="validating", name="validation" if share == 1 else "subset", overlap=overlap)
    logits = predictor.logits(learner.network, feed, rows, task)
    control.checkpoints.end_validation()
    values = {"loss": sums.loss / plan.total}
    predicted = probabilities(feed.slice_logits(rows, logits))
    if share == 1:
        values |= scores(feed.truth(rows).scored(predicted))
    if share > 0 and stage.validation_share < 1 and calibration is None:
        own = validation_subset(feed, stage.validation_share)
        chosen = feed.validation_rows[own]
        of_subset = feed.slice_logits(chosen, logits[own] if share == 1 else logits)
        values["subset_score"] = feed.truth(chosen).scored(probabilities(of_subset)).score
    values |= {
        "lr": learning_rate(stage, plan.epoch, 0.0),
        "seconds": sums.training + sums.validating,
        "images": float(sums.images),
        "images_per_second": sums.images / sums.training,
        "memory_gb": peak_gb(learner.runtime.device),
    }
    if calibration is not None and share == 1:
        values[CALIBRATED] = calibration.score(feed.truth(rows).labels, predicted, plan.stage)
    if overlap is not None:
        values |= dice(control.group.gather(overlap.counts()))
    return EpochResult(stage.name, plan.stage, plan.epoch + 1, values), logits


def validation_subset(feed: TrainingFeed, share: float) -> Rows:
    """Return the places, ascending, of a share of the validation rows: those with the lowest numbers of their ids.

    Subsets of one fold are the same in every epoch and training, and a smaller one is part of a larger one.
    """
    rows = feed.validation_rows
    if share == 1:
        return np.arange(len(rows))
    numbers = np.array([id_number(str(name)) for name in feed.ids(rows)], np.uint64)
    count = max(round(share * len(rows)), 1) if share > 0 else 0
    places: Rows = np.sort(np.argsort(numbers, kind="stable")[:count])
    return places


def scores(scored: ScoredRows) -> dict[str, float]:
    """Return the score and the loss of each label that is known, `score_LABEL`."""
    losses = zip(LABELS, label_losses(scored.labels, scored.probabilities), strict=True)
    return {"score": scored.score} | {f"score_{name}": float(loss) for name, loss in losses if not np.isnan(loss)}


def diverged(recipe: Recipe, feed: TrainingFeed, plan: EpochPlan, step: int, problem: str) -> TrainingDivergedError:
    """Return the error for a training that diverged at `step` (from 0) of `plan`."""
    stage = recipe.stage[plan.stage]
    batch, before = (
        feed.ids(plan.rows[max(at, 0) * plan.size : (at + 1) * plan.size]).tolist() for at in (step, step - 1)
    )
    divergence = Divergence(
        stage=stage.name,
        epoch=plan.epoch + 1,
        step=step + 1,
        steps=plan.total,
        lr=learning_rate(stage, plan.epoch, step / plan.total),
        problem=problem,
        slice_ids=batch,
        slice_ids_of_the_step_before=before,
    )
    return TrainingDivergedError(str(divergence), divergence=divergence)
