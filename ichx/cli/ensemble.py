"""`ichx ensemble`: blend experiments on their out-of-fold predictions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ichx.cli.formatting import marks_of
from ichx.cli.output import console, info, print_json, progress, warn
from ichx.cli.parameters import Tta
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.evaluation.choices import Method

if TYPE_CHECKING:
    from ichx.evaluation.ensemble import EnsembleReport


def ensemble(
    top: Annotated[
        int | None, typer.Option("--top", help="How many of the best complete experiments; 4 when left out.")
    ] = None,
    members: Annotated[
        str | None, typer.Option("--members", help="These experiments instead, such as 1,2; on the folds all have.")
    ] = None,
    tta: Tta = "hflip",
    method: Annotated[Method, typer.Option("--method", help="Blending method, see below.")] = "auto",
    smooth: Annotated[
        bool, typer.Option("--smooth", help="Offer smoothing over neighbouring slices of a study.")
    ] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate/--no-calibrate", help="Offer calibration, consistency of `any`, clipping.")
    ] = True,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="The training dataset; default: the only one.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Where to write the submission CSV.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on standard output.")] = False,
) -> None:
    """Blend experiments on their OOF predictions and write the submission.

    `convex` finds the weights of the best weighted mean of probabilities, `per-label` such weights for each label,
    `logit` those of a sum of logits, `greedy` picks members one by one; `mean` and `rank` weigh all alike; `stack` is a
    small model on the members and the neighbouring slices. `auto` is convex where it gains more over the mean than one
    standard error, else the mean. What is offered is taken where it gains on held-out folds.

    Example: `ichx ensemble --top 4 --tta hflip`

    Example: `ichx ensemble --members 1,2 --method stack`
    """
    if top is not None and members is not None:
        raise typer.BadParameter("give one of --top and --members")
    numbers = [] if members is None else _numbers(members)
    from ichx.evaluation.ensemble import EnsembleRequest, make_ensemble

    request = EnsembleRequest(
        top=4 if top is None else top,
        members=tuple(numbers),
        dataset=dataset,
        tta=tta,
        method=method,
        smooth=smooth,
        calibrate=calibrate,
        out=out,
    )
    with session() as project, progress("folds judged by the others") as judged:
        report = make_ensemble(project, request, judged)
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
    """Print the members, their weights, the blend's scores, what was chosen and why, and where its submissions are."""
    for note in report.notes:
        warn(note)
    made, choice = report.ensemble, report.choice
    rows: list[tuple[object, ...]] = [
        (m.experiment, report.names[m.experiment], m.score, f"{m.weight:.4f}") for m in made.members
    ]
    rows.append(("", "mean of the members", report.mean_score, ""))
    total = f"{sum(m.weight for m in made.members):.4f}"
    rows.append(("", "blend, in-sample", made.score, total))
    if made.nested_score is not None:
        rows += [("", "blend, nested", made.nested_score, ""), ("", "gap", report.gap, "")]
    print_table(
        f"ensemble {made.number} on {made.dataset}, tta {made.tta}{marks_of(made)}",
        ("exp", "member", "OOF score", "weight"),
        rows,
    )
    if choice.dropped:
        console.print(f"no weight: {', '.join(f'{n} ({report.names[n]})' for n in choice.dropped)}", markup=False)
    of_logits = "; its weights are of logits and need not sum to 1" if choice.method in ("logit", "stack") else ""
    console.print(f"method: {choice.method}; {choice.why}{of_logits}", markup=False)
    if choice.certificate is not None:
        console.print(f"certificate: at most {max(choice.certificate, 0.0):.1e} above the optimum", markup=False)
    _show_choices(report)
    if made.nested_score is not None:
        if report.interval is not None and report.interval.low is not None:
            console.print(
                f"nested: 95 % interval over patients {report.interval.low:.5f} to {report.interval.high:.5f}"
            )
        claim = "no score to claim, as the folds leak" if made.leaked else "that is the score to claim"
        console.print(f"nested: each fold blended as the others choose; {claim}", style="dim")
    else:
        console.print(
            "there is one fold, so no nested score: the one in-sample flatters, no score to claim", style="dim"
        )
    for submission in report.submissions:
        console.print(
            f"submission for {submission.test_set}: {submission.path} ({submission.images} images)", markup=False
        )
        if submission.filled:
            info(
                f"note: {submission.filled} images of the sample have no readable slice; got the training prevalences",
                style="yellow",
            )


def _show_choices(report: "EnsembleReport") -> None:
    """Print what follows the blend, with the gain on held-out folds of what was taken, or of the best refused."""
    rows: list[tuple[object, ...]] = []
    for part in dict.fromkeys(trial.part for trial in report.choice.trials):
        trials = [trial for trial in report.choice.trials if trial.part == part]
        taken = [trial for trial in trials if trial.taken]
        best = taken[-1] if taken else max(trials, key=lambda trial: trial.gain)
        if part == "method":
            said, alike = report.choice.method, [other.method == report.choice.method for other in report.fold_choices]
        else:
            said = report.choice.steps[part] if taken else f"none; best: {best.name}"
            alike = [(part in other.steps) == bool(taken) for other in report.fold_choices]
        rows.append((part, said, best.gain, best.error, f"{sum(alike)} of {len(alike)}" if alike else None))
    if rows:
        print_table("", ("part", "chosen", "gain", "s.e.", "in folds"), rows)
