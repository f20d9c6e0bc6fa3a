"""`ichx ensemble`: blend experiments on their out-of-fold predictions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ichx.cli.formatting import marks_of
from ichx.cli.output import console, notice, print_json, progress, warn
from ichx.cli.parameters import AsJson, Tta, experiment_numbers
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.evaluation.choices import Method

if TYPE_CHECKING:
    from ichx.evaluation.ensemble import EnsembleReport


def ensemble(
    top: Annotated[
        int | None, typer.Option("--top", help="Number of best complete experiments to blend; default: 4.")
    ] = None,
    members: Annotated[str | None, typer.Option("--members", help="Experiments to blend instead, e.g. 1,2.")] = None,
    tta: Tta = "hflip",
    method: Annotated[Method, typer.Option("--method", help="Blending method, see above.")] = "auto",
    smooth: Annotated[
        bool, typer.Option("--smooth/--no-smooth", help="Try smoothing over neighbouring slices.")
    ] = True,
    calibrate: Annotated[
        bool, typer.Option("--calibrate/--no-calibrate", help="Try calibration, consistency of `any` and clipping.")
    ] = True,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Training dataset; default: the only one.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Submission CSV to write.")] = None,
    as_json: AsJson = False,
) -> None:
    """Blend experiments on OOF predictions and write a submission.

    Methods: `convex` optimises the weights of a mean of probabilities, `logit` those of a sum of logits. `per-label`
    and `per-label-logit` do so for each label. `greedy` selects members one by one. `mean` and `rank` weight all
    members equally. `stack` fits a small model on the members and neighbouring slices. `auto` starts with `mean` and
    takes `convex`, `logit`, `per-label-logit` or, with enough patients, `stack` if the gain exceeds one standard error.
    Smoothing, calibration, consistency and clipping are used only if they improve the score on held-out patients.

    Example: `ichx ensemble --top 4 --tta hflip`

    Example: `ichx ensemble --members 1,2 --method stack`
    """
    if top is not None and members is not None:
        raise typer.BadParameter("Use either --top or --members.")
    numbers = [] if members is None else experiment_numbers(members, "--members")
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
    with session() as project, progress("nested score") as update:
        report = make_ensemble(project, request, update)
    if as_json:
        for note in report.notes:
            warn(note)
        print_json(report)
    else:
        print_ensemble(report)


def print_ensemble(report: "EnsembleReport") -> None:
    """Print members and weights, scores, the chosen method and post-processing, and the submissions."""
    for note in report.notes:
        warn(note)
    ensemble, choice = report.ensemble, report.choice
    rows: list[tuple[object, ...]] = [
        (m.experiment, report.names[m.experiment], m.score, f"{m.weight:.4f}") for m in ensemble.members
    ]
    rows.append(("", "mean of members", report.mean_score, ""))
    rows.append(("", "blend, in-sample", ensemble.score, f"{sum(m.weight for m in ensemble.members):.4f}"))
    if ensemble.nested_score is not None:
        rows += [("", "blend, nested", ensemble.nested_score, ""), ("", "gap", report.gap, "")]
    print_table(
        f"ensemble {ensemble.number} on {ensemble.dataset}, tta {ensemble.tta}{marks_of(ensemble)}",
        ("exp", "member", "OOF score", "weight"),
        rows,
    )
    if choice.dropped:
        console.print(f"zero weight: {', '.join(f'{n} ({report.names[n]})' for n in choice.dropped)}", markup=False)
    console.print(f"method: {choice.method}; {choice.why}", markup=False)
    if choice.method in ("logit", "per-label-logit", "stack"):
        console.print("The weights multiply logits and need not sum to 1.", style="dim")
    if choice.certificate is not None:
        console.print(f"optimality: at most {max(choice.certificate, 0.0):.1e} above the optimum", markup=False)
    _print_choices(report)
    if ensemble.nested_score is None:
        console.print("There is only one fold, so no nested score. The in-sample score is optimistic.", style="dim")
    else:
        if report.interval is not None and report.interval.low is not None:
            bounds = f"{report.interval.low:.5f} to {report.interval.high:.5f}"
            console.print(f"nested score: 95 % interval over patients {bounds}")
        advice = "The folds leak, so do not report it." if ensemble.leaked else "Report this score."
        console.print(f"The nested score blends each part with choices of the others. {advice}", style="dim")
    for submission in report.submissions:
        console.print(
            f"submission for {submission.test_set}: {submission.path} ({submission.images} images)", markup=False
        )
        if submission.filled:
            notice(f"{submission.filled} images of the sample have no readable slice and get the training prevalences.")


def _print_choices(report: "EnsembleReport") -> None:
    """Print the method and each post-processing step with the gain on held-out patients of the best candidate."""
    rows: list[tuple[object, ...]] = []
    for part in dict.fromkeys(trial.part for trial in report.choice.trials):
        trials = [trial for trial in report.choice.trials if trial.part == part]
        taken = [trial for trial in trials if trial.taken]
        best = taken[-1] if taken else max(trials, key=lambda trial: trial.gain)
        if part == "method":
            chosen = report.choice.method
            same = [other.method == report.choice.method for other in report.fold_choices]
        else:
            chosen = report.choice.steps[part] if taken else f"none; best: {best.name}"
            same = [(part in other.steps) == bool(taken) for other in report.fold_choices]
        rows.append((part, chosen, best.gain, best.error, f"{sum(same)} of {len(same)}" if same else None))
    if rows:
        print_table("", ("step", "chosen", "gain", "s.e.", "same in parts"), rows)
