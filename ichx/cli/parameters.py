"""Arguments and options that several commands share, with their parsers and shell completions."""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ichx.cli.session import session
from ichx.errors import IchxError, NotReadyError
from ichx.evaluation import choices
from ichx.evaluation.subject import Subject
from ichx.labels import LABELS
from ichx.text import escape, parse_bytes, parse_duration


def parse_number(text: str) -> int:
    """Return the experiment number in `text`; `last` is the newest experiment.

    Raises:
        typer.BadParameter: `text` is neither a positive integer nor `last`.
        NotReadyError: `text` is `last` and no experiment exists.
    """
    if text != "last":
        try:
            number = int(text)
        except ValueError:
            number = 0
        if number < 1:
            raise typer.BadParameter(f"Invalid experiment number: {text!r}. Use e.g. 6, or `last`.")
        return number
    with session() as project:
        newest = project.store.experiments(limit=1)
    if not newest:
        raise NotReadyError("No experiment exists yet.", "Register one: `ichx exp new --plugin NAME`.")
    return newest[0].number


def complete_number(incomplete: str) -> list[tuple[str, str]]:
    """Return numbers and names of the newest experiments whose number starts with `incomplete`."""
    found: list[tuple[str, str]] = []
    with contextlib.suppress(IchxError), session() as project:  # completion cannot show an error
        found = [(str(e.number), escape(e.name, lines=True)) for e in project.store.experiments(limit=200)]
    return [(number, name) for number, name in [*found, ("last", "the newest")] if number.startswith(incomplete)]


def complete_plugin(incomplete: str) -> list[tuple[str, str]]:
    """Return names and summaries of the plugins whose name starts with `incomplete`."""
    from ichx.plugins import load_registry

    return [(p.name, p.summary) for p in load_registry().plugins.values() if p.name.startswith(incomplete)]


def complete_backbone(incomplete: str) -> list[str]:
    """Return timm's backbones that start with `incomplete`, if they are cached."""
    from ichx.plugins.backbones import cache_file, read_names

    return [name for name in read_names(cache_file()) or () if name.startswith(incomplete)]


def complete_tag(incomplete: str) -> list[str]:
    """Return the tags that start with `incomplete`."""
    with contextlib.suppress(IchxError), session() as project:
        return [tag for tag in project.store.tags() if tag.startswith(incomplete) and escape(tag, lines=True) == tag]
    return []


def parse_device(text: str) -> str:
    """Return `text` if it names a device, e.g. `cuda:1`.

    Raises:
        typer.BadParameter: It does not.
    """
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise typer.BadParameter(f"Invalid device: {text!r}. Use auto, cpu, cuda, cuda:1 or mps.")
    return text


def complete_field(incomplete: str) -> list[str]:
    """Return the fields of subgroups that complete the last of a list."""
    from ichx.datasets.subgroups import FIELDS

    given, comma, last = incomplete.rpartition(",")
    return [given + comma + name for name in FIELDS if name.startswith(last)]


def parse_label(text: str) -> str:
    """Return `text` if it is a label.

    Raises:
        typer.BadParameter: It is not.
    """
    if text not in LABELS:
        raise typer.BadParameter(f"Invalid label: {text!r}. Use {', '.join(LABELS)}.")
    return text


def label_option(description: str) -> Any:
    """Return the option `--label` with a `description`."""
    return typer.Option(
        "--label",
        parser=parse_label,
        metavar="LABEL",
        autocompletion=lambda incomplete: [name for name in LABELS if name.startswith(incomplete)],
        help=description,
    )


Number = Annotated[
    int,
    typer.Argument(
        parser=parse_number, metavar="NUMBER", autocompletion=complete_number, help="Experiment number, or `last`."
    ),
]
OptionalNumber = Annotated[
    int | None,
    typer.Argument(
        parser=parse_number, metavar="NUMBER", autocompletion=complete_number, help="Experiment number, or `last`."
    ),
]
Numbers = Annotated[
    list[int],
    typer.Argument(parser=parse_number, metavar="NUMBER", autocompletion=complete_number, help="Experiment numbers."),
]
DatasetName = Annotated[str, typer.Argument(help="Name of the dataset.")]
Version = Annotated[int | None, typer.Option("--version", help="Version; default: the newest.")]
FoldTexts = Annotated[list[str] | None, typer.Option("--fold", help="Finished fold, from 0, or all; repeatable.")]
OwnTta = Annotated[
    choices.Tta | None,
    typer.Option("--tta", help="Views to average: the mirror image too, or all of the recipe; default: none."),
]
Tta = Annotated[
    choices.Tta, typer.Option("--tta", help="Views to average: the mirror image too, or all of the recipe.")
]
EnsembleNumber = Annotated[int | None, typer.Option("--ensemble", min=1, help="Ensemble number, instead of NUMBER.")]
Average = Annotated[
    choices.Average | None,
    typer.Option("--average", help="Average logits (default) or probabilities over views and folds."),
]
Pooling = Annotated[
    choices.Pooling,
    typer.Option(
        "--pooling", help="Study probability: max over slices, 1 - prod(1 - p), or that of a sequence experiment."
    ),
]
Labels = Annotated[list[str] | None, label_option("Only this label in tables and CSV; repeatable.")]
By = Annotated[
    list[str] | None,
    typer.Option(
        "--by",
        metavar="FIELDS",
        autocompletion=complete_field,
        help="Scores of subgroups by header fields, e.g. scanner,kernel,age.",
    ),
]
Page = Annotated[Path | None, typer.Option("--report", help="HTML page with tables and figures.")]
Recalibrated = Annotated[
    str | None, typer.Option("--recalibrated", metavar="NAME", help="Apply this recalibration, without refitting.")
]
Reliability = Annotated[
    bool, typer.Option("--reliability", help="Share of positives by predicted probability, with intervals.")
]
DecisionCurves = Annotated[bool, typer.Option("--decision-curve", help="Net benefit by threshold, with intervals.")]
KeepIds = Annotated[
    bool, typer.Option("--keep-ids", help="Output ids of patients, studies and series instead of their hashes.")
]
Device = Annotated[
    str, typer.Option("--device", parser=parse_device, metavar="DEVICE", help="auto, cpu, cuda, cuda:1 or mps.")
]
Precision = Annotated[
    choices.InferencePrecision,
    typer.Option("--precision", help="Network's precision; auto: fp32 on a CPU, else as trained."),
]
Workers = Annotated[int | None, typer.Option("--workers", min=0, help="Number of loader processes.")]
Pretrained = Annotated[
    bool | None,
    typer.Option("--pretrained/--no-pretrained", help="Start from the hub's weights, or from random ones."),
]
Weights = Annotated[
    Path | None, typer.Option("--weights", help="Start from the matching tensors of a .safetensors or .pth file.")
]
Save = Annotated[
    Literal["features"] | None,
    typer.Option("--save", help="Save the pooled features of each slice too (float16 Parquet)."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Recipe value to change, e.g. stage.full.lr=5e-6; repeatable."),
]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print CSV on standard output.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]


def fold_numbers(texts: Sequence[str] | None) -> list[int] | None:
    """Return the folds that `--fold` names; None for all of them.

    Raises:
        typer.BadParameter: One of `texts` is not an integer.
    """
    if not texts or list(texts) == ["all"]:
        return None
    try:
        return [int(text) for text in texts]
    except ValueError:
        problem = f"Invalid fold: {', '.join(texts)}. Use numbers, or all."
        raise typer.BadParameter(problem, param_hint="--fold") from None


def parse_subject(number: int | None, ensemble: int | None, **own: object) -> Subject:
    """Return the experiment or the ensemble.

    Args:
        number: The experiment.
        ensemble: The ensemble.
        **own: Options by name that are for experiments only: an ensemble has its own views and folds.

    Raises:
        typer.BadParameter: Both or none are given, or options of experiments for an ensemble.
    """
    if (number is None) == (ensemble is None):
        raise typer.BadParameter("Give either an experiment number or --ensemble NUMBER.")
    if ensemble is None:
        assert number is not None
        return Subject(number)
    if given := [f"--{name}" for name, value in own.items() if value]:
        raise typer.BadParameter(f"Use either --ensemble or {', '.join(given)}: an ensemble is stored with its own.")
    return Subject(ensemble, ensemble=True)


def parse_model(text: str) -> Subject:
    """Return what e.g. `6` or `ensemble:3` names."""
    kind, colon, number = text.rpartition(":")
    known = kind in ("experiment", "ensemble") if colon else True
    if known and number.isascii() and number.isdecimal() and len(number) < 10:
        return Subject(int(number), kind == "ensemble")
    raise typer.BadParameter(f"Invalid model: {text!r}. Use an experiment number, or e.g. ensemble:3.")


def experiment_numbers(text: str, option: str) -> list[int]:
    """Return the experiments that an `option` lists, separated by commas."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r}. Use experiment numbers, e.g. 1,2.", param_hint=option) from None


def duration_seconds(text: str, option: str) -> float:
    """Return the seconds in a duration, e.g. `90s`, `5m`, `1.5h` or `2d`; 0 needs no unit.

    Raises:
        typer.BadParameter: `text`, the value of `option`, is not a duration.
    """
    seconds = 0.0 if text.strip() == "0" else parse_duration(text)
    if seconds is None:
        raise typer.BadParameter(f"Invalid duration: {text!r}. Use e.g. 90s, 5m or 1h.", param_hint=option)
    return seconds


def gigabytes(text: str, option: str) -> float:
    """Return the GB (1e9 bytes) in a size, e.g. `24GB` or `800MB`.

    Raises:
        typer.BadParameter: `text`, the value of `option`, is not a size.
    """
    size = parse_bytes(text)
    if size is None:
        raise typer.BadParameter(f"Invalid size: {text!r}. Use e.g. 24GB.", param_hint=option)
    return size / 1e9
