"""Batch-norm statistics of averaged weights, estimated from training data: those of the epochs belong to other weights.

As in Izmailov et al. 2018 (arXiv 1803.05407), with the batches and the augmentation of the last epoch.
"""

from dataclasses import replace
from typing import Final

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ichx.training.control import Control
from ichx.training.feed import EpochPlan, TrainingFeed
from ichx.training.learner import Learner
from ichx.training.memory import MicroBatcher

BATCHES: Final = 200
"""Batches of an estimate, at most."""


def estimate_statistics(
    network: nn.Module, feed: TrainingFeed, plan: EpochPlan, learner: Learner, control: Control
) -> None:
    """Replace the running statistics of `network` by their means over batches of an epoch.

    Each process of a group reads its part of each batch, and the estimates are averaged.

    Args:
        network: On the device.
        feed: The data.
        plan: The epoch.
        learner: Has the device, the precision and the number of slices that fit into memory.
        control: Stop requests, callbacks; a checkpoint within the estimate repeats it.
    """
    layers = [layer for layer in network.modules() if isinstance(layer, _BatchNorm) and layer.track_running_stats]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    network.eval()
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # torch's name for the mean over all batches
        layer.train()
    some = replace(plan, rows=plan.rows[: BATCHES * plan.size], done=0)
    group, runtime = control.group, learner.runtime
    batcher = MicroBatcher(control.callbacks.note)
    batcher.size = learner.executor.batcher.size
    control.sync.begin()
    for number, batch in enumerate(feed.training_batches(some, part=(group.rank, group.size)), start=1):
        inputs = feed.inputs(batch, runtime.device)
        with torch.no_grad(), runtime.autocast():
            for part in batcher.parts(len(inputs)):
                inputs.part(part).forward(network)
        if control.sync.after_step(number == some.total):
            agreement = control.sync.exchange(None)
            control.callbacks.phase("batch-norm statistics", number, some.total)
            control.handle(agreement)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum
        layer.eval()
        for value in (layer.running_mean, layer.running_var):
            if value is not None:
                group.average(value)
