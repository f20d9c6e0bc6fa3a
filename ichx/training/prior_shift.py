"""The prior of an undersampled stage: what a network that predicts the true prior would predict for sampled slices.

`fixed` and `redrawn` keep every slice with a hemorrhage and the share r of those without one. By Bayes' rule the odds
of a label are divided by the share of its negatives that are kept. For `any` that is r. The negatives of a subtype are
slices with another hemorrhage, which are all kept, and slices without any; of a slice x the share

    (P(any | x) + r (1 - P(any | x)) - P(subtype | x)) / (1 - P(subtype | x))

is kept, because a subtype implies `any`. A loss of shifted logits therefore teaches the network the true prior.
"""

import math

import torch

from ichx.labels import ANY, LABELS

AT_ANY = LABELS.index(ANY)


def sampled_logits(logits: torch.Tensor, negative_share: float) -> torch.Tensor:
    """Return what `logits` `(N, 6)` of the true prior are among sampled slices, float32.

    The shift of the subtypes is a constant for the gradient: their losses do not change `any`.

    Args:
        logits: Of the network.
        negative_share: r, in (0, 1].
    """
    logits = logits.float()
    found = logits.detach().sigmoid()
    of_any = found[:, AT_ANY : AT_ANY + 1]
    kept = of_any + negative_share * (1 - of_any) - found
    kept = (kept / (1 - found).clamp_min(torch.finfo(torch.float32).tiny)).clamp(negative_share, 1)
    shift = kept.log()
    shift[:, AT_ANY] = math.log(negative_share)
    return logits - shift
