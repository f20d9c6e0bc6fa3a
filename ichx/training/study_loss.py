"""The loss of studies and series, whose label is known, but not those of their slices.

A positive study does not say which slice is positive. Its loss is that of one probability: the largest of the slices
(`max`), or 1 - prod(1 - p) (`noisy_or`), which takes slices as independent (Keeler et al., NIPS 1990). Batches have the
slices of a study next to each other, see the sampling `grouped`.

Random weights give every slice the same small probability. The gradient of a pooled one hardly distinguishes the
slices, so a network may never begin to learn. With `posterior` every slice has a label of its own, see
`expected_labels`. At first that is the label of the study, which is wrong for many slices, but ranks them correctly: a
slice without hemorrhage also occurs in negative studies. It moves on to the probability of the slice given that its
study is positive, p / (1 - prod(1 - p)), whose cross-entropy has the gradient of `noisy_or`, the maximization step of
expectation maximization (Dempster, Laird and Rubin 1977).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ichx.training.losses import label_weights

NO_SLICE = -1e4
"""Logit of a place without a slice."""

LEAST_LOGIT = -60.0
"""Smaller logits have this posterior: the probability of their study must not underflow."""

MOST_CERTAIN = -1e-6
"""Largest log probability that no slice of a study is positive: the logarithm of the rest must stay finite."""


@dataclass(frozen=True)
class StudyGroups:
    """The labelled studies or series of a batch."""

    index: torch.Tensor
    """`(G, L)` int64 rows of the batch, one group each; any row where `present` is False."""
    present: torch.Tensor
    """`(G, L)` bool."""
    labels: torch.Tensor
    """`(G, 6)` float32 in [0, 1], NaN where unknown."""

    def part(self, part: slice) -> "StudyGroups":
        """Return the groups of a part of the batch, each with the slices that are in it."""
        start = part.start or 0
        inside = self.present & (self.index >= start)
        if part.stop is not None:
            inside &= self.index < part.stop
        return StudyGroups((self.index - start).where(inside, 0), inside, self.labels)

    def to(self, device: torch.device) -> "StudyGroups":
        """Return the groups on `device`."""
        return StudyGroups(self.index.to(device), self.present.to(device), self.labels.to(device))


def study_groups(codes: npt.NDArray[np.int64], labels: npt.NDArray[np.float32]) -> StudyGroups:
    """Return the groups of a batch.

    Args:
        codes: Group of each slice, -1 for none, `(N,)`.
        labels: Label of the group of each slice, `(N, 6)`.
    """
    names = np.unique(codes[codes >= 0])
    rows = [np.flatnonzero(codes == name) for name in names]
    index = np.zeros((len(rows), max(map(len, rows), default=1)), np.int64)
    present = np.zeros(index.shape, bool)
    for group, own in enumerate(rows):
        index[group, : len(own)] = own
        present[group, : len(own)] = True
    known = labels[[own[0] for own in rows]] if rows else np.empty((0, labels.shape[1]), np.float32)
    return StudyGroups(torch.from_numpy(index), torch.from_numpy(present), torch.from_numpy(known))


def study_loss(logits: torch.Tensor, groups: StudyGroups, pooling: str, smoothing: float = 0.0) -> torch.Tensor:
    """Return the cross-entropy of the groups, averaged over known labels with their weights; 0 without any.

    Args:
        logits: Of the slices, `(N, 6)`.
        groups: The groups of these slices.
        pooling: `max` or `noisy_or`.
        smoothing: See `weighted_loss`.
    """
    known = ~groups.labels.isnan() & groups.present.any(dim=1, keepdim=True)
    target = groups.labels.nan_to_num(0.0)
    if smoothing > 0:
        target = target * (1 - smoothing) + smoothing / 2
    of_slices = logits.float()[groups.index]  # (G, L, 6)
    present = groups.present[..., None]
    if pooling == "max":
        pooled = of_slices.masked_fill(~present, NO_SLICE).amax(dim=1)
        losses = torch.nn.functional.binary_cross_entropy_with_logits(pooled, target, reduction="none")
    else:
        none = -(torch.nn.functional.softplus(of_slices) * present).sum(dim=1)
        none = none.clamp(max=MOST_CERTAIN)
        some = torch.log(-torch.expm1(none))
        losses = -(target * some + (1 - target) * none)
    weights = known * label_weights(logits.device)
    return (losses * weights).sum() / weights.sum().clamp(min=torch.finfo(torch.float32).tiny)


def expected_labels(logits: torch.Tensor, labels: torch.Tensor, groups: StudyGroups, posterior: float) -> torch.Tensor:
    """Return the label that each slice of a labelled study is expected to have, without gradient.

    Args:
        logits: Of the slices, `(N, 6)`.
        labels: Of the slices, `(N, 6)`, NaN where unknown.
        groups: The groups of these slices.
        posterior: Share of the posterior; the rest is the label of the study.

    Returns:
        `(N, 6)` float32 in [0, 1], NaN where the label of the slice is known or that of its study is not.
    """
    expected = groups.labels[:, None].expand(*groups.index.shape, labels.shape[1])
    if posterior > 0:
        of_slices = logits.detach().float().clamp(min=LEAST_LOGIT)[groups.index]  # (G, L, 6)
        none = -(torch.nn.functional.softplus(of_slices) * groups.present[..., None]).sum(dim=1, keepdim=True)
        some = torch.log(-torch.expm1(none))
        found = (torch.nn.functional.logsigmoid(of_slices) - some).exp().clamp(max=1.0)
        expected = expected * (1 - posterior + posterior * found)
    of_rows = torch.full((len(labels) + 1, labels.shape[1]), torch.nan, device=logits.device)
    of_rows[groups.index.where(groups.present, len(labels))] = expected.float()  # the last row takes what is no slice
    return of_rows[:-1].where(labels.isnan(), torch.nan)


def posterior_share(progress: float, start: float) -> float:
    """Return the share of the posterior in `expected_labels` when `progress` of the epochs are done.

    It rises evenly from 0, and is 1 from `start` on, a share of the epochs.
    """
    return min(progress / start, 1.0) if start > 0 else 1.0
