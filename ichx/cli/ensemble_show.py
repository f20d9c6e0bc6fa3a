"""`ichx ensemble list` and `show`, and what `ichx ensemble` prints."""

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from ichx.cli.output import console, info, notice, print_json, warn
from ichx.cli.parameters import AsJson
from ichx.cli.session import session
from ichx.cli.tables import print_table
from ichx.evaluation.ensemble_summary import (
    chosen_steps,
    clean_score_advice,
    optimistic_members,
    score_advice,
    weights_multiply_logits,
)
from ichx.formatting import marks_of

if TYPE_CHECKING:
    from ichx.evaluation.ensemble import EnsembleReport

Ensemble = Annotated[int, typer.Argument(min=1, metavar="NUMBER", help="Ensemble number.")]


def list_(as_json: AsJson = False) -> None:
    """List the ensembles, newest first.

    Example: `ichx ensemble list`
    """
    with session() as project:
        found = project.store.ensembles()[::-1]
    if as_json:
        print_json(found)
    elif found:
        rows: list[tuple[object, ...]] = [
            (
                e.number,
                e.name,
                e.dataset,
                ", ".join(str(m.experiment) for m in e.members),
                e.method,
                e.tta,
                e.score,
                None if e.nested_score is None else f"{e.nested_score:.5f}{marks_of(e)}",
                e.created,
            )
            for e in found
        ]
        heads = ("ensemble", "name", "dataset", "members", "method", "tta", "in-sample", "nested score", "created")
        print_table("", heads, rows, drop=("name",))
    else:
        info("There is no ensemble yet. Blend experiments: `ichx ensemble --top 4`")


def show(number: Ensemble, as_json: AsJson = False) -> None:
    """Show an ensemble as it was stored: members, weights, scores, steps and submissions.

    Example: `ichx ensemble show 3`
    """
    with session() as project:
        ensemble = project.store.ensemble(number)
        from ichx.evaluation.ensemble import EnsembleReport
        from ichx.evaluation.ensemble_file import read_model

        model = read_model(project.workspace, ensemble)
    record = replace(model.record, notes=())
    report = EnsembleReport(ensemble=ensemble, **vars(record))
    if as_json:
        print_json(report)
        return
    print_ensemble(report)
    known = {submission.path for submission in report.submissions}
    for path in ensemble.submissions:
        if path not in known:
            console.print(f"submission: {path}", markup=False)
    console.print(f"model: ichx {model.ichx}, average of {model.average}s, SHA-256 {ensemble.digest}", markup=False)


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
    if report.nested_mean is not None:
        rows.append(("", "nested, mean of networks", report.nested_mean, ""))
    print_table(
        f"ensemble {ensemble.number} on {ensemble.dataset}, tta {ensemble.tta}{marks_of(ensemble)}",
        ("exp", "member", "OOF score", "weight"),
        rows,
    )
    if choice.dropped:
        console.print(f"zero weight: {', '.join(f'{n} ({report.names[n]})' for n in choice.dropped)}", markup=False)
    console.print(f"method: {choice.method}; {choice.why}", markup=False)
    if weights_multiply_logits(report):
        console.print("The weights multiply logits and need not sum to 1.", style="dim")
    if choice.certificate is not None:
        console.print(f"optimality: at most {max(choice.certificate, 0.0):.1e} above the optimum", markup=False)
    _print_choices(report)
    _print_labels(report)
    if report.interval is not None and report.interval.low is not None:
        bounds = f"{report.interval.low:.5f} to {report.interval.high:.5f}"
        console.print(f"nested score: 95 % interval over patients {bounds}")
    elif report.interval is not None:
        console.print(f"nested score: {report.interval.undefined}")
    console.print(score_advice(report), style="dim")
    _print_selected(report)
    for submission in report.submissions:
        console.print(
            f"submission for {submission.test_set}: {submission.path} ({submission.images} images)", markup=False
        )
        if submission.filled:
            notice(f"{submission.filled} images of the sample have no readable slice and get the training prevalences.")


def _print_selected(report: "EnsembleReport") -> None:
    """Print which members make the nested score optimistic, and the score to report instead."""
    for text in optimistic_members(report):
        notice(text)
    if report.clean_score is not None and report.selected:
        console.print(clean_score_advice(report), markup=False)
    elif report.selected:
        notice(clean_score_advice(report))


def _print_labels(report: "EnsembleReport") -> None:
    """Print what the blend gains by label over the best member and over the members' mean."""
    weighted = any(row.weights for row in report.labels)
    rows: list[tuple[object, ...]] = []
    for row in report.labels:
        weights = ", ".join(f"{number}: {weight:.4f}" for number, weight in (row.weights or {}).items())
        gains = (_gain(row.best_single, row.blend), _gain(row.mean, row.blend))
        rows.append((row.label, row.blend, *gains, *[weights] * weighted))
    if rows:
        print_table("", ("label", "log loss", "over best", "over mean", *["weights"] * weighted), rows)


def _gain(before: float | None, after: float | None) -> str:
    """Return by how much a loss falls, a dash for a label that is not known."""
    return "-" if before is None or after is None else f"{before - after:+.5f}"


def _print_choices(report: "EnsembleReport") -> None:
    """Print the method and each post-processing step with the gain on held-out patients of the best candidate."""
    rows = [
        (s.part, s.chosen, s.gain, s.error, f"{s.same} of {s.parts}" if s.parts else None) for s in chosen_steps(report)
    ]
    if rows:
        print_table("", ("step", "chosen", "gain", "s.e.", "same in parts"), rows)
