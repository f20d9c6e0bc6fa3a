"""Networks over the slices of a series, whose inputs are the logits or features of other experiments."""

from typing import TYPE_CHECKING

from ichx.plugins.contract import Plugin, SequenceWidths
from ichx.recipe import NO_IMAGE, OptimizerRecipe, Recipe, SequenceRecipe, StageRecipe

if TYPE_CHECKING:
    from torch import nn


def build_gru_stack(recipe: Recipe, widths: SequenceWidths) -> "nn.Module":
    """Return the network of `ichx.plugins.heads.gru_stack`."""
    from ichx.plugins.heads.gru_stack import GruStack

    return GruStack(recipe, widths)


def _recipe(name: str, sequence: SequenceRecipe, *, epochs: int, lr: float, batch: int, decay: float) -> Recipe:
    return Recipe(
        plugin=name,
        **NO_IMAGE,
        sequence=sequence,
        stage=(StageRecipe(name="full", sampling="all", epochs=epochs, lr=lr, scheduler="onecycle"),),
        batch=batch,
        precision="fp32",
        optimizer=OptimizerRecipe(name="adamw", weight_decay=decay),
    )


PLUGINS = (
    Plugin(
        name="gru_stack",
        summary="two stacked BiGRUs on the members' logits",
        kind="sequence",
        recipe=_recipe(
            "gru_stack",
            SequenceRecipe(differences=True, residual=True, dropout=0.2),
            epochs=30,
            lr=3e-3,
            batch=16,
            decay=0.01,
        ),
        build_sequence=build_gru_stack,
        weights_licence="random weights",
    ),
)
