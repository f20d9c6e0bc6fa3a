"""Fits the tensors of a weights file to a network: other names, other input channels, another head.

Not for reading files (`ichx.training.weights`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

import torch
from torch import nn

PREFIXES: Final = ("module.", "model.", "backbone.", "encoder.")
"""What wrappers (data parallel, Lightning, segmentation and self-supervised models) put before a network's names."""

COMPILED: Final = "_orig_mod."
"""What `torch.compile` puts before the names of a module, anywhere in them."""

LEAST: Final = 0.5
"""Share of the backbone's weights that a file must have: with fewer, a training would begin from almost random ones."""


@dataclass(frozen=True)
class Fitted:
    """`tensors` of a file by the network's own names, and what became of the rest.

    `adapted` tells the input layer's change of channels, or is empty; `head` are names of the network's head and
    `fresh` other ones that stay as they are, `unused` names of the file. `share` of the backbone's weights is loaded.
    """

    tensors: dict[str, torch.Tensor]
    adapted: str
    head: tuple[str, ...]
    fresh: tuple[str, ...]
    unused: tuple[str, ...]
    share: float


def fit(model: nn.Module, given: Mapping[str, torch.Tensor]) -> Fitted:
    """Return what of `given` fits `model`, by name and shape, the input layer's channels adapted.

    A name fits as it is, or without `PREFIXES` in the file or the model.
    """
    own = model.state_dict()
    first, head = _input_weight(model), _head(model)
    tensors: dict[str, torch.Tensor] = {}
    adapted = ""
    used: set[str] = set()
    for name, source in _matches(own, given).items():
        wanted, value = own[name].shape, given[source]
        if value.shape == wanted:
            tensors[name] = value
        elif name == first and value.ndim == 4 and (value.shape[0], *value.shape[2:]) == (wanted[0], *wanted[2:]):
            tensors[name] = adapt_channels(value, wanted[1])
            adapted = f"{name} adapted from {value.shape[1]} to {wanted[1]} channels"
        else:
            continue
        used.add(source)
    missing = [name for name in own if name not in tensors]
    return Fitted(
        tensors=tensors,
        adapted=adapted,
        head=tuple(name for name in missing if name in head),
        fresh=tuple(name for name in missing if name not in head),
        unused=tuple(name for name in given if name not in used),
        share=_share(own, tensors, head),
    )


def told(fitted: Fitted) -> str:
    """Return in a line what was loaded, adapted and not."""
    total = len(fitted.tensors) + len(fitted.head) + len(fitted.fresh)
    parts = [f"{len(fitted.tensors)} of {total} tensors loaded"]
    if fitted.fresh:
        parts[0] += f", {100 * fitted.share:.0f} % of the backbone's weights"
    if fitted.adapted:
        parts.append(fitted.adapted)
    if fitted.head:
        parts.append(f"the head is random: {few(fitted.head)}")
    if fitted.fresh:
        parts.append(f"random: {few(fitted.fresh)}")
    if fitted.unused:
        parts.append(f"not used: {few(fitted.unused)}")
    return "; ".join(parts)


def adapt_channels(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """Return the convolution `weight` (O, I, H, W) for `channels` inputs: equal ones are answered as equal I were.

    Fewer inputs get the sums of those that they stand for; more repeat them, scaled by I / `channels`, which is exact
    for multiples of I. Three channels become others as `timm.models.adapt_input_conv` has it.
    """
    given = weight.shape[1]
    exact = weight.float()
    sources = torch.arange(max(given, channels))
    if channels < given:
        folded = exact.new_zeros((len(weight), channels, *weight.shape[2:]))
        return folded.index_add_(1, sources % channels, exact).to(weight.dtype)
    return (exact[:, sources % given] * (given / channels)).to(weight.dtype)


def _matches(own: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return the file's name for each of the model's that it has: the same one, or that which has most of it."""
    found = {name: name for name in own if name in given}
    left: dict[str, list[str]] = {}
    for source in given:
        if source not in found:
            left.setdefault(_bare(source), []).append(source)
    for name in own:
        candidates = left.get(_bare(name), [])
        if name not in found and candidates:
            found[name] = max(candidates, key=lambda source: (_common(source, name), -len(source)))
            candidates.remove(found[name])
    return found


def _common(source: str, name: str) -> int:
    """Return how many parts of two dotted names are equal, from their ends."""
    pairs = zip(reversed(source.replace(COMPILED, "").split(".")), reversed(name.split(".")), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _bare(name: str) -> str:
    name = name.replace(COMPILED, "")
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
        name = name[len(prefix) :]
    return name


def _input_weight(model: nn.Module) -> str:
    """Return the name of the first convolution's weight, or nothing where there is none."""
    convolutions = (name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    first = next(convolutions, None)
    return "" if first is None else f"{first}.weight".removeprefix(".")


def _head(model: nn.Module) -> frozenset[str]:
    """Return the names of the tensors of the last layer that has some: what turns features into logits."""
    names: list[str] = []
    for prefix, module in model.named_modules():
        own = [f"{prefix}.{name}".removeprefix(".") for name, _ in module.named_parameters(recurse=False)]
        names = own or names
    return frozenset(names)


def _share(own: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], head: frozenset[str]) -> float:
    """Return the loaded part of the backbone: of the encoder, where a network has one, or of all but its head."""
    encoder = [name for name in own if name.startswith("encoder.")]
    names = encoder or [name for name in own if name not in head] or list(own)
    backbone = {name: own[name].numel() for name in names}
    loaded = sum(count for name, count in backbone.items() if name in tensors)
    return loaded / max(sum(backbone.values()), 1)


def few(names: Sequence[str]) -> str:
    """Return up to four of `names`, and how many more there are."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
