"""Options that several commands share, and how their texts are read."""

import re
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


def duration_seconds(text: str, option: str) -> float:
    """Return the seconds in a duration such as `90s`, `5m` or `1.5h`, wrong usage else; 0 needs no unit."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if found is None or (not found[2] and float(found[1])):
        raise typer.BadParameter(f"{text!r} is no duration such as 90s, 5m or 1h", param_hint=option)
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600, "": 0}[found[2]]


def gigabytes(text: str, option: str) -> float:
    """Return the GB (1e9 bytes) in a size such as `24GB` or `800MB`; wrong usage else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([MGT])B?", text.strip(), flags=re.IGNORECASE)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no size such as 24GB", param_hint=option)
    return float(found[1]) * {"M": 1e-3, "G": 1, "T": 1e3}[found[2].upper()]
