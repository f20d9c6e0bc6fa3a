"""`ichx submit`: check a submission, score it on held-out labels, and send it to Kaggle."""

from pathlib import Path
from typing import Annotated

import typer

from ichx.cli.output import console, info, notice, print_json
from ichx.cli.parameters import AsJson, Labels
from ichx.formatting import format_interval, format_value

app = typer.Typer(help="Submissions: check, score, and send to Kaggle.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="Submission CSV with the columns `ID,Label`.")]
Sample = Annotated[
    Path | None,
    typer.Option("--sample", help="Sample submission with the expected ids; default: that of the test set."),
]


@app.command("check")
def check(file: File, sample: Sample = None, as_json: AsJson = False) -> None:
    """Check the ids, their order and the probabilities.

    Reports all problems together and exits with 1 if there are any. Without --sample, the ids are those of the test set
    after which the file is named, or of the only test set.

    Example: `ichx submit check ensembles/1/rsna-test.csv`

    Example: `ichx submit check submission.csv --sample stage_2_sample_submission.csv`
    """
    from ichx.datasets.label_csv import read_sample
    from ichx.evaluation.submission import submission_problems

    expected = read_sample(sample or _recorded_sample(file))
    problems = submission_problems(file, expected)
    if as_json:
        print_json({"file": file, "ids": len(expected.ids), "images": len(expected.images), "problems": problems})
    elif not problems:
        size = f"{len(expected.ids):,} ids of {len(expected.images):,} images"
        console.print(f"{file}: {size}, matches the sample", markup=False)
    else:
        for problem in problems:
            console.print(f"{file}: {problem}", markup=False)
    if problems:
        info("The submission is invalid. Write a new one with `ichx ensemble`.", style="red")
        raise typer.Exit(1)


@app.command("score")
def score(
    file: Annotated[Path, typer.Argument(help="Submission or predictions: CSV or Parquet.")],
    labels: Annotated[Path, typer.Option("--labels", help="CSV of held-out labels.", show_default=False)],
    names: Labels = None,
    as_logits: Annotated[bool, typer.Option("--logits", help="The values are logits.")] = False,
    as_json: AsJson = False,
) -> None:
    """Score a submission or a prediction file on held-out labels.

    Intervals come from a bootstrap over patients, which a dataset of the workspace with these slices knows.

    Example: `ichx submit score submission.csv --labels held-out.csv`
    """
    import contextlib

    from ichx.cli.scores import HEADINGS, print_labels
    from ichx.cli.session import session
    from ichx.cli.tables import print_table
    from ichx.errors import NotFoundError
    from ichx.evaluation.submission_score import score_file
    from ichx.workspace import find_workspace

    with contextlib.ExitStack() as stack:
        project = None
        with contextlib.suppress(NotFoundError):
            find_workspace()
            project = stack.enter_context(session())
        found = score_file(file, labels, as_logits=as_logits, project=project)
    if as_json:
        print_json(found)
        return
    title = f"{file.name}: weighted log loss {format_value(found.scores.log_loss)}"
    if found.bootstrap is not None:
        loss = found.bootstrap.log_loss
        interval = f", {format_interval(loss.low, loss.high)}" if loss.low is not None else f" ({loss.undefined})"
        print_labels(f"{title}{interval}", found.bootstrap, names)
    else:
        rows = [
            (point.label, f"{point.positives:,}", *(format_value(getattr(point, metric)) for metric in HEADINGS))
            for point in found.scores.labels
            if not names or point.label in names
        ]
        caption = f"{found.scores.count:,} slices"
        print_table(title, ("label", "positive", *HEADINGS.values()), rows, caption=caption, split=True)
        info("No intervals: no dataset of this workspace has all these slices, so their patients are unknown.")
    if found.unlabelled:
        notice(f"{found.unlabelled:,} predicted slices without labels do not count.")


@app.command("send")
def send(
    file: File,
    sample: Sample = None,
    message: Annotated[str, typer.Option("--message", help="Description that Kaggle shows.")] = "ichx",
    competition: Annotated[
        str, typer.Option("--competition", help="Competition name, as in its URL.")
    ] = "rsna-intracranial-hemorrhage-detection",
    as_json: AsJson = False,
) -> None:
    """Check a submission and send it with the `kaggle` command.

    Example: `ichx submit send submission.csv --sample stage_2_sample_submission.csv --message "blend of four"`
    """
    from ichx.datasets.label_csv import read_sample
    from ichx.evaluation.kaggle import send_submission

    answer = send_submission(file, read_sample(sample or _recorded_sample(file)), message, competition)
    if as_json:
        print_json({"file": file, "competition": competition, "answer": answer})
    else:
        console.print(answer, markup=False)


def _recorded_sample(file: Path) -> Path:
    from ichx.cli.session import session
    from ichx.evaluation.submission import recorded_sample

    with session() as project:
        return recorded_sample(project, file)
