"""Networks over the slices of a series, whose inputs are the logits or features of other experiments."""

from typing import TYPE_CHECKING, Any

from ichx.plugins.contract import Plugin, SequenceBuilder, SequenceWidths
from ichx.recipe import NO_IMAGE, LossRecipe, OptimizerRecipe, Recipe, SequenceRecipe, StageRecipe

if TYPE_CHECKING:
    from torch import nn


def build_gru(recipe: Recipe, widths: SequenceWidths) -> "nn.Module":
    """Return the network of `ichx.plugins.heads.gru`."""
    from ichx.plugins.heads.gru import Gru

    return Gru(recipe, widths)


def build_gru_stack(recipe: Recipe, widths: SequenceWidths) -> "nn.Module":
    """Return the network of `ichx.plugins.heads.gru_stack`."""
    from ichx.plugins.heads.gru_stack import GruStack

    return GruStack(recipe, widths)


def build_lstm_delta(recipe: Recipe, widths: SequenceWidths) -> "nn.Module":
    """Return the network of `ichx.plugins.heads.lstm_delta`."""
    from ichx.plugins.heads.lstm_delta import LstmDelta

    return LstmDelta(recipe, widths)


def build_transformer(recipe: Recipe, widths: SequenceWidths) -> "nn.Module":
    """Return the network of `ichx.plugins.heads.transformer`."""
    from ichx.plugins.heads.transformer import Transformer

    return Transformer(recipe, widths)


def _plugin(
    name: str, summary: str, build: SequenceBuilder, sequence: SequenceRecipe, stage: StageRecipe, **values: Any
) -> Plugin:
    recipe = Recipe(
        plugin=name,
        **NO_IMAGE,
        sequence=sequence,
        stage=(stage,),
        precision="fp32",
        optimizer=OptimizerRecipe(name="adamw", weight_decay=0.01),
        **{"batch": 16, **values},
    )
    return Plugin(
        name=name,
        summary=summary,
        recipe=recipe,
        weights_licence="random weights",
        kind="sequence",
        build_sequence=build,
    )


PLUGINS = (
    _plugin(
        "gru",
        "BiGRU 2 x 256 on features",
        build_gru,
        SequenceRecipe(inputs=("features",), width=256, dropout=0.3),
        StageRecipe(name="full", sampling="all", epochs=20, lr=1e-3, scheduler="onecycle"),
    ),
    _plugin(
        "gru_stack",
        "two small stacked BiGRUs on logits",
        build_gru_stack,
        # The best OOF scores of four phantom cohorts; a third of the rate or twice the dropout is worse there.
        SequenceRecipe(differences=True, residual=True, dropout=0.2),
        StageRecipe(name="full", sampling="all", epochs=15, lr=3e-3, scheduler="onecycle"),
        batch=8,
        loss=LossRecipe(label_smoothing=0.01),
    ),
    _plugin(
        "lstm_delta",
        "two BiLSTMs on features and their changes",
        build_lstm_delta,
        SequenceRecipe(inputs=("features",), width=128, layers=2, differences=True, dropout=0.3),
        StageRecipe(name="full", sampling="all", epochs=20, lr=1e-3, scheduler="onecycle"),
    ),
    _plugin(
        "transformer",
        "small transformer, distances in mm, on features",
        build_transformer,
        SequenceRecipe(inputs=("features",), width=128, layers=2, dropout=0.2),
        StageRecipe(name="full", sampling="all", epochs=30, lr=1e-3, scheduler="cosine", warmup=2.0),
    ),
)
