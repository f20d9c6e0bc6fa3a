"""The loss of a network over series, compared with the score and with losses computed by hand."""

import numpy as np
import pytest
import torch

from ichx.evaluation.metric import label_losses, probabilities, score
from ichx.labels import LABEL_WEIGHTS
from ichx.plugins.contract import SequenceLogits
from ichx.recipe import SequenceRecipe
from ichx.sequences.losses import sequence_loss

PLAIN = SequenceRecipe(study_weight=0, mil_weight=0)


def example(heads: int = 2) -> tuple[SequenceLogits, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return outputs, labels, weights and heads of two series of 5 and 3 slices."""
    torch.manual_seed(0)
    outputs = SequenceLogits(torch.randn(heads, 2, 5, 6), torch.randn(heads, 2, 6))
    labels = (torch.rand(2, 5, 6) < 0.3).float()
    labels[1, 3:] = torch.nan
    weights = torch.where(labels[..., 0].isnan(), 0.0, 2 / 8)
    return outputs, labels, weights, torch.ones(2, heads)


def test_the_loss_of_slices_is_the_score() -> None:
    outputs, labels, weights, heads = example()
    known = ~labels[..., 0].isnan()
    expected = [score(labels[known], probabilities(one[known])) for one in outputs.slices]
    found = sequence_loss(outputs, labels, weights, heads, PLAIN)
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-6)


def test_the_gradient_of_a_head_does_not_depend_on_the_number_of_heads() -> None:
    outputs, labels, weights, heads = example()
    both = outputs.slices.clone().requires_grad_()
    alone = outputs.slices[:1].clone().requires_grad_()
    sequence_loss(SequenceLogits(both, outputs.series), labels, weights, heads, PLAIN).backward()
    sequence_loss(SequenceLogits(alone, outputs.series[:1]), labels, weights, heads[:, :1], PLAIN).backward()
    assert both.grad is not None
    torch.testing.assert_close(both.grad[:1], alone.grad)


def test_series_and_maximum_are_compared_with_the_labels_of_the_series() -> None:
    outputs, labels, weights, heads = example(1)
    largest = torch.stack([labels[0].amax(0), labels[1, :3].amax(0)])
    maximum = torch.stack([outputs.slices[0, 0].amax(0), outputs.slices[0, 1, :3].amax(0)])
    plain = sequence_loss(outputs, labels, weights, heads, PLAIN)
    for recipe, logits, weight in (
        (SequenceRecipe(study_weight=0.5, mil_weight=0), outputs.series[0], 0.5),
        (SequenceRecipe(study_weight=0, mil_weight=0.2), maximum, 0.2),
    ):
        expected = np.average(label_losses(largest, probabilities(logits)), weights=LABEL_WEIGHTS)
        found = sequence_loss(outputs, labels, weights, heads, recipe) - plain
        assert found.item() == pytest.approx(weight * expected, rel=1e-4)


def test_unknown_labels_and_excluded_heads_have_no_gradient() -> None:
    outputs, labels, weights, heads = example()
    labels[0, 2, 1] = torch.nan
    heads[1, 0] = 0
    slices, series = outputs.slices.requires_grad_(), outputs.series.requires_grad_()
    sequence_loss(outputs, labels, weights, heads, SequenceRecipe(mil_weight=0)).backward()
    assert slices.grad is not None
    assert series.grad is not None
    assert not slices.grad[:, 0, 2, 1].any()
    assert not slices.grad[0, 1].any()
    assert not series.grad[0, 1].any()
    assert slices.grad[1, 1, 0].all()
    assert series.grad[0, 0, 1] == 0 or labels[0, :, 1].nan_to_num().any(), "unknown whether any slice has it"


def test_parts_of_a_batch_have_the_loss_of_the_batch() -> None:
    outputs, labels, weights, heads = example()
    total = sequence_loss(outputs, labels, weights, heads, SequenceRecipe())
    parts = []
    for at in (slice(0, 1), slice(1, 2)):
        own = SequenceLogits(outputs.slices[:, at], outputs.series[:, at])
        parts.append(sequence_loss(own, labels[at], weights[at], heads[at], SequenceRecipe()))
    assert total.item() == pytest.approx(float(sum(parts)) / 2, rel=1e-6)
