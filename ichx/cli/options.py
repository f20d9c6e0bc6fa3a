"""Options that several commands share, and how their texts are read."""

from collections.abc import Sequence
from typing import Annotated

import typer

FoldTexts = Annotated[
    list[str] | None, typer.Option("--fold", help="A finished fold, from 0, repeatable; or all (the default).")
]
Tta = Annotated[str, typer.Option("--tta", help="Views to average: none, or hflip (the slice and its mirror).")]
Pooling = Annotated[
    str, typer.Option("--pooling", help="A study's probability: max over its slices, or noisy_or, 1 - prod(1 - p).")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
Workers = Annotated[int | None, typer.Option("--workers", min=0, help="Loader processes.")]
Save = Annotated[
    str | None, typer.Option("--save", help="features: also the pooled features of each slice, as float16 in Parquet.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]


def fold_numbers(texts: Sequence[str] | None) -> list[int] | None:
    """Return the folds that `--fold` names, None for all; wrong usage where one is no number."""
    if not texts or list(texts) == ["all"]:
        return None
    try:
        return [int(text) for text in texts]
    except ValueError:
        raise typer.BadParameter(f"{', '.join(texts)}: give numbers, or all", param_hint="--fold") from None


def saves_features(save: str | None) -> bool:
    """Return whether `--save` asks for features; wrong usage where it asks for something else."""
    if save not in (None, "features"):
        raise typer.BadParameter(f"{save!r} cannot be saved; it takes: features", param_hint="--save")
    return save is not None
