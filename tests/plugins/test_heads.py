"""Networks over series: padding, short series, symmetry, independent heads, and their layers."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from ichx.plugins import load_registry
from ichx.plugins.contract import PLACES, SequenceBatch, SequenceLogits, SequenceWidths
from ichx.plugins.heads.inputs import Components
from ichx.plugins.heads.layers import shifted, with_differences
from ichx.plugins.heads.recurrent import HeadRecurrence, permuted, reversal
from ichx.recipe import Recipe
from ichx.recipe_text import apply_settings

NAMES = sorted(name for name, plugin in load_registry().plugins.items() if plugin.kind == "sequence")
INPUTS = ('["logits"]', '["features"]', '["logits", "features"]')
WIDTHS = (10, 6)


def recipe_of(name: str, *settings: str) -> Recipe:
    return apply_settings(load_registry().get(name).recipe, ("sequence.width=8", "sequence.dropout=0", *settings))


def build(recipe: Recipe, heads: int = 2, seed: int = 0) -> nn.Module:
    """Return a network whose zero layers are random too."""
    assert recipe.sequence is not None
    torch.manual_seed(seed)
    given = recipe.sequence.inputs
    widths = SequenceWidths(WIDTHS if "features" in given else (), 3 if "logits" in given else 0, heads)
    builder = load_registry().get(recipe.plugin).build_sequence
    assert builder is not None
    network = builder(recipe, widths).eval()
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    for layer in network.modules():
        if isinstance(layer, Components):
            layer.fit(torch.randn(50, len(layer.mean)))
    return network


def series(recipe: Recipe, lengths: list[int], padding: int = 0, seed: int = 0) -> SequenceBatch:
    """Return random series; `padding` more slices at the end change nothing else."""
    assert recipe.sequence is not None
    given, count = recipe.sequence.inputs, max(lengths) + padding
    mask = torch.arange(count) < torch.tensor(lengths)[:, None]
    features = torch.zeros(len(lengths), count, sum(WIDTHS) if "features" in given else 0)
    logits = torch.zeros(len(lengths), count, 3 if "logits" in given else 0, 6)
    place, position = torch.zeros(len(lengths), count, PLACES), torch.zeros(len(lengths), count)
    for at, length in enumerate(lengths):
        source = torch.Generator().manual_seed(seed + at)
        for values in (features, logits, place):
            values[at, :length] = torch.randn(values[at, :length].shape, generator=source)
        position[at, :length] = 5.0 * torch.arange(length)
    return SequenceBatch(features, logits, place, position, mask)


def run(network: nn.Module, batch: SequenceBatch) -> SequenceLogits:
    with torch.inference_mode():
        outputs: SequenceLogits = network(batch)
    return outputs


@pytest.mark.parametrize(("name", "inputs"), list(itertools.product(NAMES, INPUTS)))
@pytest.mark.parametrize("extra", [(), ("sequence.differences=true", "sequence.projection=4", "sequence.layers=3")])
def test_padding_and_other_series_change_no_logit(name: str, inputs: str, extra: tuple[str, ...]) -> None:
    """To float32 tolerance: sums of other shapes are added in another order."""
    extra = tuple(setting for setting in extra if "features" in inputs or "projection" not in setting)
    residual = f"sequence.residual={'true' if 'logits' in inputs else 'false'}"
    recipe = recipe_of(name, f"sequence.inputs={inputs}", *extra, residual)
    network, lengths = build(recipe), [9, 1, 5, 2]
    together = run(network, series(recipe, lengths, padding=7))
    assert together.slices.shape == (2, 4, 16, 6)
    assert together.series.shape == (2, 4, 6)
    for at, length in enumerate(lengths):
        alone = run(network, series(recipe, [length], seed=at))
        for outputs, one in zip((together.slices, *together.auxiliary), (alone.slices, *alone.auxiliary), strict=True):
            torch.testing.assert_close(outputs[:, at, :length], one[:, 0], atol=2e-5, rtol=0)
        torch.testing.assert_close(together.series[:, at], alone.series[:, 0], atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_heads_are_independent(name: str) -> None:
    """The gradient of a head's loss reaches no weight of another head."""
    recipe = recipe_of(name, 'sequence.inputs=["logits"]', "sequence.residual=true")
    network = build(recipe, heads=3)
    outputs = network(series(recipe, [6, 4]))
    loss = sum(part[1].sum() for part in (outputs.slices[:, :, :4], outputs.series, *outputs.auxiliary))
    loss.backward()
    for parameter_name, parameter in network.named_parameters():
        if parameter.grad is None:
            assert ".0." in parameter_name or ".2." in parameter_name  # a layer of another head
        elif parameter.shape[0] == 3:
            assert not parameter.grad[[0, 2]].any(), parameter_name
    assert not torch.equal(outputs.slices[0], outputs.slices[1])


@pytest.mark.parametrize("name", NAMES)
def test_with_a_residual_it_starts_as_the_members_mean(name: str) -> None:
    recipe = recipe_of(name, 'sequence.inputs=["logits"]', "sequence.residual=true")
    builder = load_registry().get(name).build_sequence
    assert builder is not None
    batch = series(recipe, [6, 4])
    outputs = run(builder(recipe, SequenceWidths((), 3, 2)).eval(), batch)
    mean = batch.logits.mean(dim=2)
    for at, length in enumerate([6, 4]):
        assert torch.equal(outputs.slices[0, at, :length], mean[at, :length])
        assert torch.equal(outputs.series[1, at], mean[at, :length].amax(dim=0))


@pytest.mark.parametrize("name", NAMES)
def test_equal_positions(name: str) -> None:
    recipe = recipe_of(name, f"sequence.inputs={INPUTS[2]}")
    batch = series(recipe, [6, 4])
    outputs = run(build(recipe), batch._replace(position=torch.zeros_like(batch.position)))
    assert outputs.slices[:, 0].isfinite().all()
    assert outputs.series.isfinite().all()


@pytest.mark.parametrize("kind", ["gru", "lstm"])
@pytest.mark.parametrize("heads", [1, 3])
def test_recurrent_layers_are_those_of_torch_on_packed_series(kind: str, heads: int) -> None:
    torch.manual_seed(0)
    layer = HeadRecurrence(kind, heads, 5, 4)  # type: ignore[arg-type]
    lengths = torch.tensor([7, 4, 1])
    mask = (torch.arange(7) < lengths[:, None])[..., None]
    x = torch.randn(heads, 3, 7, 5, requires_grad=True)
    weights = torch.randn(heads, 3, 7, 8)
    found = layer(x, mask) * mask  # the states of padding mean nothing
    (found * weights).sum().backward()
    gradient, x.grad = x.grad, None
    own = {name: parameter.grad for name, parameter in layer.named_parameters()}
    for head in range(heads):
        both = getattr(nn, kind.upper())(5, 4, batch_first=True, bidirectional=True)
        for name, parameter in both.named_parameters():
            source = layer.backwards if name.endswith("_reverse") else layer.forwards
            parameter.data.copy_(source[head].get_parameter(name.removesuffix("_reverse")))
        packed = nn.utils.rnn.pack_padded_sequence(x[head], lengths, batch_first=True, enforce_sorted=False)
        expected, _ = nn.utils.rnn.pad_packed_sequence(both(packed)[0], batch_first=True)
        torch.testing.assert_close(found[head], expected, atol=1e-6, rtol=1e-5)
        (expected * weights[head]).sum().backward()
        for name, parameter in both.named_parameters():
            group = "backwards" if name.endswith("_reverse") else "forwards"
            gradient_found = own[f"{group}.{head}.{name.removesuffix('_reverse')}"]
            torch.testing.assert_close(gradient_found, parameter.grad, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient, x.grad, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("heads", [1, 3])
def test_a_symmetric_recurrent_layer_reverses_its_output_with_its_input(heads: int) -> None:
    layer = HeadRecurrence("gru", heads, 5, 4)
    layer.backwards.load_state_dict(layer.forwards.state_dict())
    mask = (torch.arange(7) < torch.tensor([7, 4, 1])[:, None])[..., None]
    x = torch.randn(heads, 3, 7, 5)
    order = reversal(mask[..., 0])
    ahead, behind = layer(x, mask).chunk(2, dim=-1)
    turned = torch.cat([behind, ahead], dim=-1)
    torch.testing.assert_close(layer(permuted(x, order), mask), permuted(turned, order), atol=1e-6, rtol=1e-5)


def test_shifts_and_differences_end_where_a_series_ends() -> None:
    x = torch.tensor([1.0, 3.0, 6.0, 10.0, 0.0]).view(1, 1, 5, 1)
    assert shifted(x, 1).flatten().tolist() == [0, 1, 3, 6, 10]
    assert shifted(x, -2).flatten().tolist() == [6, 10, 0, 0, 0]
    assert not shifted(x, 5).any()
    mask = torch.tensor([True, True, True, True, False]).view(1, 5, 1)
    _, backward, forward = with_differences(x, mask).unbind(dim=-1)
    assert backward.flatten().tolist() == [0, 2, 3, 4, 0]
    assert forward.flatten().tolist() == [-2, -3, -4, 0, 0]


def test_principal_components() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 8)) + 5
    layer = Components(1, 8, 4)
    layer.fit(torch.from_numpy(rows.astype(np.float32)))
    found = layer(torch.from_numpy(rows.astype(np.float32))).numpy()
    variances = found.var(axis=0)
    assert variances[:3].tolist() == sorted(variances[:3], reverse=True)
    assert variances[3] < 1e-6, "the rows have three dimensions"
    assert variances.mean() == pytest.approx(1, abs=1e-3)
    assert np.allclose(np.corrcoef(found[:, :3].T), np.eye(3), atol=1e-3)
