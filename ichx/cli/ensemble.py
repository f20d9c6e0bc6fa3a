"""`ichx ensemble`: blend experiments on their out-of-fold predictions.

Stored ensembles are shown by `ichx.cli.ensemble_show` and changed by `ichx.cli.ensemble_manage`.
"""

from pathlib import Path
from typing import Annotated

import typer

from ichx.cli.ensemble_manage import export, import_, name, rm, submit
from ichx.cli.ensemble_show import list_, print_ensemble, show
from ichx.cli.output import print_json, progress, warn
from ichx.cli.parameters import AsJson, Average, Tta, experiment_numbers
from ichx.cli.session import session
from ichx.evaluation.choices import Method

app = typer.Typer()
app.command("list")(list_)
app.command("show")(show)
app.command("name")(name)
app.command("rm")(rm)
app.command("submit")(submit)
app.command("export")(export)
app.command("import")(import_)


@app.callback(invoke_without_command=True)
def ensemble(
    top: Annotated[
        int | None, typer.Option("--top", help="Number of best complete experiments to blend; default: 4.")
    ] = None,
    members: Annotated[str | None, typer.Option("--members", help="Experiments to blend instead, e.g. 1,2.")] = None,
    tta: Tta = "hflip",
    average: Average = None,
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

    The ensemble is stored: it predicts new files (`ichx predict --ensemble`) and test sets that are added later.

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
        average=average or "logit",
        out=out,
    )
    with session(writes=True) as project, progress("nested score") as update:
        report = make_ensemble(project, request, update)
    if as_json:
        for note in report.notes:
            warn(note)
        print_json(report)
    else:
        print_ensemble(report)
