"""Learning rate schedules as pure functions of the position in a stage."""

import math

from ichx.recipe import StageRecipe

WARMUP_START = 0.01
"""Share of the rate that a warm-up starts with: a step at rate 0 would be wasted."""

RISE, RISE_START, FALL_END = 0.3, 1 / 25, 1e-4
"""`onecycle`: share of the stage in which the rate rises, its first share of `lr`, and its last share of that."""


def learning_rate(stage: StageRecipe, epoch: int, part: float) -> float:
    """Return the learning rate at a position of `stage`.

    `multistep` multiplies by gamma from each milestone on, as torch's MultiStepLR stepped per epoch; `cosine` falls
    from lr to 0 over the stage (Loshchilov and Hutter 2017, arXiv 1608.03983); `onecycle` rises to lr and falls, as
    torch's OneCycleLR with its defaults (Smith and Topin 2017, arXiv 1708.07120), without a cycle of the momentum.
    A linear warm-up precedes the first two; the cosine takes the rest of the stage. There is no state that could leak
    from one stage into the next or be lost in an interruption.

    Args:
        stage: The stage with its scheduler.
        epoch: Epoch of the stage, from 0.
        part: Share of that epoch that is done, in [0, 1).
    """
    done = epoch + part
    if stage.scheduler == "onecycle":
        return _one_cycle(stage.lr, done / stage.epochs)
    warm = WARMUP_START + (1 - WARMUP_START) * done / stage.warmup if done < stage.warmup else 1.0
    if stage.scheduler == "cosine":
        done = max(done - stage.warmup, 0.0)
        return warm * stage.lr * (1 + math.cos(math.pi * done / (stage.epochs - stage.warmup))) / 2
    return warm * stage.lr * stage.gamma ** sum(milestone <= epoch for milestone in stage.milestones)


def _one_cycle(lr: float, done: float) -> float:
    """Return the rate after the share `done` of the stage: one cosine up, another one down."""
    first, last = lr * RISE_START, lr * RISE_START * FALL_END
    if done < RISE:
        return _between(first, lr, done / RISE)
    return _between(lr, last, (done - RISE) / (1 - RISE))


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
