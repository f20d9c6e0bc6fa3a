"""Matches the tensors of a weights file with a network: other names, other input channels, another head.

Files are read in `weights`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

import torch
from torch import nn

PREFIXES: Final = ("module.", "model.", "backbone.", "encoder.")
"""Prefixes that wrappers (data parallel, Lightning, segmentation and self-supervised models) add to names."""

COMPILED: Final = "_orig_mod."
"""Prefix that `torch.compile` adds anywhere in a name."""

MIN_SHARE: Final = 0.5
"""Minimum share of the backbone's weights in a file: with less, a training would start from almost random weights."""


@dataclass(frozen=True)
class LoadReport:
    """The tensors of a file under the network's names, and what is left on both sides."""

    tensors: dict[str, torch.Tensor]
    """Tensors to load, by the network's names."""
    adapted: str
    """How the input layer's channels were adapted; empty if they were not."""
    head: tuple[str, ...]
    """Names of the network's head that the file lacks."""
    missing: tuple[str, ...]
    """Other names of the network that the file lacks."""
    unexpected: tuple[str, ...]
    """Names of the file that the network lacks."""
    share: float
    """Share of the backbone's weights that is loaded."""

    def describe(self) -> str:
        """Return in one line what is loaded, adapted and left out."""
        total = len(self.tensors) + len(self.head) + len(self.missing)
        parts = [f"{len(self.tensors)} of {total} tensors loaded"]
        if self.missing:
            parts[0] += f", {100 * self.share:.0f} % of the backbone's weights"
        if self.adapted:
            parts.append(self.adapted)
        if self.head:
            parts.append(f"the head is random: {first_names(self.head)}")
        if self.missing:
            parts.append(f"random: {first_names(self.missing)}")
        if self.unexpected:
            parts.append(f"not used: {first_names(self.unexpected)}")
        return "; ".join(parts)


def match_weights(model: nn.Module, file: Mapping[str, torch.Tensor]) -> LoadReport:
    """Return what of `file` fits `model` by name and shape, with the input layer's channels adapted.

    Names are equal as they are, or without `PREFIXES` in the file or the model.
    """
    own = model.state_dict()
    first, head = _input_weight(model), _head(model)
    tensors: dict[str, torch.Tensor] = {}
    adapted = ""
    used: set[str] = set()
    for name, source in _pair_names(own, file).items():
        shape, value = own[name].shape, file[source]
        if value.shape == shape:
            tensors[name] = value
        elif name == first and value.ndim == 4 and (value.shape[0], *value.shape[2:]) == (shape[0], *shape[2:]):
            tensors[name] = adapt_channels(value, shape[1])
            adapted = f"{name} adapted from {value.shape[1]} to {shape[1]} channels"
        else:
            continue
        used.add(source)
    missing = [name for name in own if name not in tensors]
    return LoadReport(
        tensors=tensors,
        adapted=adapted,
        head=tuple(name for name in missing if name in head),
        missing=tuple(name for name in missing if name not in head),
        unexpected=tuple(name for name in file if name not in used),
        share=_loaded_share(own, tensors, head),
    )


def adapt_channels(weight: torch.Tensor, channels: int) -> torch.Tensor:
    """Return the convolution `weight` `(O, I, H, W)` for `channels` inputs, with the same response to equal inputs.

    Fewer inputs get the sums of those that they replace; more repeat them, scaled by I / `channels`, which is exact for
    multiples of I. From three channels the result is that of `timm.models.adapt_input_conv`.
    """
    inputs = weight.shape[1]
    exact = weight.float()
    sources = torch.arange(max(inputs, channels))
    if channels < inputs:
        folded = exact.new_zeros((len(weight), channels, *weight.shape[2:]))
        return folded.index_add_(1, sources % channels, exact).to(weight.dtype)
    return (exact[:, sources % inputs] * (inputs / channels)).to(weight.dtype)


def first_names(names: Sequence[str]) -> str:
    """Return up to four of `names`, and how many more there are."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _pair_names(own: Mapping[str, torch.Tensor], file: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Return the file's name for each name of the model: the same one, or the one with the longest common ending."""
    found = {name: name for name in own if name in file}
    left: dict[str, list[str]] = {}
    for source in file:
        if source not in found:
            left.setdefault(_strip_prefixes(source), []).append(source)
    for name in own:
        candidates = left.get(_strip_prefixes(name), [])
        if name not in found and candidates:
            found[name] = max(candidates, key=lambda source: (_common_parts(source, name), -len(source)))
            candidates.remove(found[name])
    return found


def _common_parts(source: str, name: str) -> int:
    """Return how many parts of two dotted names are equal, counted from their ends."""
    pairs = zip(reversed(source.replace(COMPILED, "").split(".")), reversed(name.split(".")), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _strip_prefixes(name: str) -> str:
    name = name.replace(COMPILED, "")
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), ""):
        name = name[len(prefix) :]
    return name


def _input_weight(model: nn.Module) -> str:
    """Return the name of the first convolution's weight, or an empty string."""
    convolutions = (name for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    first = next(convolutions, None)
    return "" if first is None else f"{first}.weight".removeprefix(".")


def _head(model: nn.Module) -> frozenset[str]:
    """Return the names of the tensors of the last layer with parameters, which maps features to logits."""
    names: list[str] = []
    for prefix, module in model.named_modules():
        own = [f"{prefix}.{name}".removeprefix(".") for name, _ in module.named_parameters(recurse=False)]
        names = own or names
    return frozenset(names)


def _loaded_share(own: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], head: frozenset[str]) -> float:
    """Return the loaded share of the backbone: of the encoder if the network has one, else of all but its head."""
    encoder = [name for name in own if name.startswith("encoder.")]
    names = encoder or [name for name in own if name not in head] or list(own)
    backbone = {name: own[name].numel() for name in names}
    loaded = sum(count for name, count in backbone.items() if name in tensors)
    return loaded / max(sum(backbone.values()), 1)
