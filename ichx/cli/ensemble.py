"""`ichx ensemble`: blend experiments on their out-of-fold predictions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ichx.cli.render import console, marked, print_json, say, session, table, warn

if TYPE_CHECKING:
    from ichx.evaluation.ensemble import EnsembleReport


def ensemble(
    top: Annotated[
        int | None, typer.Option("--top", help="How many of the best complete experiments; 4 when left out.")
    ] = None,
    members: Annotated[
        str | None, typer.Option("--members", help="These experiments instead, such as 1,2; on the folds all have.")
    ] = None,
    tta: Annotated[
        str, typer.Option("--tta", help="Views to average: none, or hflip (the slice and its mirror).")
    ] = "hflip",
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="The training dataset; default: the only one.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where to write the submission CSV.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Choose blend weights on OOF predictions and write the submission.

    Example: `ichx ensemble --top 4 --tta hflip`

    Example: `ichx ensemble --members 1,2`
    """
    if top is not None and members is not None:
        raise typer.BadParameter("give one of --top and --members")
    numbers = [] if members is None else _numbers(members)
    from ichx.evaluation.ensemble import make_ensemble

    with session() as (workspace, store):
        report = make_ensemble(
            workspace, store, top=4 if top is None else top, members=numbers, tta=tta, dataset=dataset, out=out
        )
    if as_json:
        for note in report.notes:
            warn(note)
        print_json(report)
    else:
        show_ensemble(report)


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"--members {text}: give experiments' numbers, such as 1,2") from error


def show_ensemble(report: "EnsembleReport") -> None:
    """Print the members, their weights, the blend's scores and where its submissions are."""
    for note in report.notes:
        warn(note)
    made = report.ensemble
    rows: list[tuple[object, ...]] = [
        (m.experiment, report.names[m.experiment], m.score, f"{m.weight:.4f}") for m in made.members
    ]
    rows += [("", "mean of the members", report.mean_score, ""), ("", "blend, in-sample", made.score, "1.0000")]
    if made.nested_score is not None:
        rows.append(("", "blend, nested", made.nested_score, ""))
    table(
        f"ensemble {made.number} on {made.dataset}, tta {made.tta}{marked(made)}",
        ("exp", "member", "OOF score", "weight"),
        rows,
    )
    if made.nested_score is not None:
        claim = "no score to claim, as the folds leak" if made.leaked else "that is the score to claim"
        console.print(f"nested: each fold is blended with weights chosen on the other folds; {claim}", style="dim")
    for submission in report.submissions:
        console.print(
            f"submission for {submission.test_set}: {submission.path} ({submission.images} images)", markup=False
        )
        if submission.filled:
            say(
                f"note: {submission.filled} images of the sample have no readable slice; got the training prevalences",
                style="yellow",
            )
