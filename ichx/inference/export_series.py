"""What is exported of a sequence experiment: its network, with the members' outputs for a series as input."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import nn

from ichx import __version__
from ichx.experiments.member_features import feature_width
from ichx.inference.export_formats import Arrays, ExportedModel
from ichx.inference.trained import Trained
from ichx.labels import LABELS
from ichx.plugins.contract import SequenceBatch, SequenceWidths
from ichx.recipe_text import to_toml
from ichx.sequences.feed import FARTHEST
from ichx.sequences.network import build_network, constant_networks
from ichx.sequences.windows import LONGEST
from ichx.training.weights import load_exactly

if TYPE_CHECKING:
    from ichx.project import Project

LENGTHS: Final = (40, LONGEST, 1, 2, 7)
"""Slices of the series that are compared."""
BATCHES: Final = (5, 1, 3)


class SeriesExport(nn.Module):
    """Maps the members' outputs for series to the logits of slices and series; the means over all heads.

    Inputs are `member_features` `(N, 64, D)` and `member_logits` `(N, 64, M, 6)`, as far as the network reads them,
    `position` `(N, 64)` in mm and `mask` `(N, 64)` bool, False beyond the end of a series. Outputs are logits
    `(N, 64, 6)`, 0 beyond the end, their probabilities, and the logits `(N, 6)` of the series.
    """

    def __init__(self, networks: list[nn.Module]) -> None:
        """Take `networks`, whose mean is predicted."""
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def predict(
        self, features: torch.Tensor | None, logits: torch.Tensor | None, position: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return logits, probabilities and logits of the series."""
        place = places(position, mask)
        none = position.new_zeros(*position.shape, 0)
        batch = SequenceBatch(
            none if features is None else features,
            none[..., None].expand(-1, -1, 0, len(LABELS)) if logits is None else logits,
            place,
            place[..., 1] * 100,
            mask,
        )
        outputs = [network(batch) for network in self.networks]
        slices = torch.stack([one.slices.mean(dim=0) for one in outputs]).mean(dim=0) * mask[..., None]
        series = torch.stack([one.series.mean(dim=0) for one in outputs]).mean(dim=0)
        return slices, torch.sigmoid(slices), series


class LogitsExport(SeriesExport):
    """Reads logits alone."""

    def forward(
        self, member_logits: torch.Tensor, position: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """See `SeriesExport`."""
        return self.predict(None, member_logits, position, mask)


class FeaturesExport(SeriesExport):
    """Reads features alone."""

    def forward(
        self, member_features: torch.Tensor, position: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """See `SeriesExport`."""
        return self.predict(member_features, None, position, mask)


class BothExport(SeriesExport):
    """Reads both."""

    def forward(
        self, member_features: torch.Tensor, member_logits: torch.Tensor, position: torch.Tensor, mask: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """See `SeriesExport`."""
        return self.predict(member_features, member_logits, position, mask)


def places(position: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return `SequenceBatch.place` for positions `(N, T)` in mm; 0 for padding."""
    count = mask.sum(dim=1, keepdim=True)
    at = torch.arange(mask.shape[1], device=mask.device)
    rank = torch.where(count > 1, 2 * at / (count - 1).clamp(min=1) - 1, 0.0)
    lowest = position.masked_fill(~mask, torch.inf).amin(dim=1, keepdim=True)
    highest = position.masked_fill(~mask, -torch.inf).amax(dim=1, keepdim=True)
    offset = torch.where(mask, (position - (lowest + highest) / 2) / 100, 0.0)
    steps = (torch.diff(offset * 100, dim=1).abs() / 10).clamp(max=FARTHEST)
    steps = torch.where(mask[:, 1:], steps, 0.0)
    previous, following = nn.functional.pad(steps, (1, 0)), nn.functional.pad(steps, (0, 1))
    return torch.stack([rank, offset, previous, following], dim=-1) * mask[..., None]


def series_model(project: "Project", trained: Trained, fold: int) -> ExportedModel:
    """Return what is exported of a fold of a sequence experiment.

    Raises `CorruptFileError` if its weights do not fit.
    """
    recipe, members = trained.recipe, trained.experiment.members
    assert recipe.sequence is not None
    given = recipe.sequence.inputs
    features = tuple(feature_width(project, number) for number in members) if "features" in given else ()
    widths = SequenceWidths(features, len(members) if "logits" in given else 0, recipe.sequence.heads)

    kind = BothExport if features and widths.members else FeaturesExport if features else LogitsExport

    def load(weights: Path) -> SeriesExport:
        network = build_network(trained.plugin, recipe, widths)
        load_exactly(network, weights)
        return kind(constant_networks(network)).eval()

    network = build_network(trained.plugin, recipe, widths)
    load_exactly(network, trained.weights[fold])
    read = (*(("member_features",) if features else ()), *(("member_logits",) if widths.members else ()))
    arrays = _sample(widths)
    return ExportedModel(
        module=kind(constant_networks(network)).eval(),
        network=network,
        load=load,
        inputs=(*read, "position", "mask"),
        outputs=("logits", "probabilities", "series_logits"),
        samples=[tuple(values[:count] for values in arrays) for count in BATCHES],
        description=_describe(trained, fold, widths),
    )


def _sample(widths: SequenceWidths) -> Arrays:
    """Return inputs of series of several lengths, with values as networks return them."""
    rng = np.random.default_rng(0)
    shape = len(LENGTHS), LONGEST
    mask = np.arange(LONGEST) < np.array(LENGTHS)[:, None]
    position = np.cumsum(rng.uniform(2.5, 6.0, shape), axis=1).astype(np.float32) * mask
    features = rng.normal(0.4, 0.5, (*shape, sum(widths.features))).clip(0).astype(np.float32) * mask[..., None]
    logits = rng.normal(-3, 2, (*shape, widths.members, len(LABELS))).astype(np.float32) * mask[..., None, None]
    read = (*((features,) if widths.features else ()), *((logits,) if widths.members else ()))
    return *read, position, mask


def _describe(trained: Trained, fold: int, widths: SequenceWidths) -> dict[str, Any]:
    """Return what a user of the file must know: labels, members, inputs, provenance."""
    members = trained.experiment.members
    inputs = {
        "member_features": f"(N, {LONGEST}, {sum(widths.features)}) float32: the pooled features of the members' "
        f"fold-{fold} networks, one member after the other, {', '.join(map(str, widths.features))} of each",
        "member_logits": f"(N, {LONGEST}, {widths.members}, {len(LABELS)}) float32: the logits of the members' "
        f"fold-{fold} networks, the mean over their views",
    }
    read = [name for name, used in (("member_features", widths.features), ("member_logits", widths.members)) if used]
    return {
        "ichx": __version__,
        "experiment": trained.experiment.number,
        "name": trained.experiment.name,
        "fold": fold,
        "plugin": trained.recipe.plugin,
        "labels": list(LABELS),
        "members": list(members),
        "longest": LONGEST,
        "inputs": {
            **{name: inputs[name] for name in read},
            "position": f"(N, {LONGEST}) float32: the position of each slice along the normal of the slices, in mm",
            "mask": f"(N, {LONGEST}) bool: False beyond the end of a series, where the other inputs are 0",
        },
        "outputs": {
            "logits": f"(N, {LONGEST}, 6) float32, in the order of `labels`, 0 beyond the end of a series",
            "probabilities": f"(N, {LONGEST}, 6) float32, the logistic function of the logits",
            "series_logits": "(N, 6) float32: whether the series has the label on any slice",
        },
        "preprocessing": [
            f"one row is one series of at most {LONGEST} slices, in ascending order of their positions",
            f"each member's fold-{fold} network predicts each slice, see `ichx export {members[0]} --features`",
        ],
        "recipe": to_toml(trained.recipe),
    }
