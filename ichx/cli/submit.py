"""`ichx submit`: check a submission file, send it."""

from pathlib import Path
from typing import Annotated

import typer

from ichx.cli.output import console, info, print_json

app = typer.Typer(help="Submissions: check, send.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="The submission, a CSV with `ID,Label`.")]
Sample = Annotated[Path, typer.Option("--sample", help="The sample submission that it must match.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on standard output.")]


@app.command("check")
def check(file: File, sample: Sample, as_json: AsJson = False) -> None:
    """Check ids, their order and the probabilities of a submission; all that is wrong is told at once, exit code 1.

    Example: `ichx submit check submission.csv --sample stage_2_sample_submission.csv`
    """
    from ichx.datasets.label_csv import read_sample
    from ichx.evaluation.submission import submission_problems

    asked = read_sample(sample)
    problems = submission_problems(file, asked)
    if as_json:
        print_json({"file": file, "ids": len(asked.ids), "images": len(asked.images), "problems": problems})
    elif not problems:
        console.print(f"{file}: {len(asked.ids):,} ids of {len(asked.images):,} images, as in the sample", markup=False)
    else:
        for problem in problems:
            console.print(f"{file}: {problem}", markup=False)
    if problems:
        info("this is no submission; write it anew with `ichx ensemble`", style="red")
        raise typer.Exit(1)


@app.command("send")
def send(
    file: File,
    sample: Sample,
    message: Annotated[str, typer.Option("--message", help="What Kaggle shows beside it.")] = "ichx",
    competition: Annotated[
        str, typer.Option("--competition", help="The competition's name in its address.")
    ] = "rsna-intracranial-hemorrhage-detection",
    as_json: AsJson = False,
) -> None:
    """Check a submission, then send it with the `kaggle` command; without that, say how to get it.

    Example: `ichx submit send submission.csv --sample stage_2_sample_submission.csv --message "blend of four"`
    """
    from ichx.datasets.label_csv import read_sample
    from ichx.evaluation.kaggle import send_submission

    said = send_submission(file, read_sample(sample), message, competition)
    if as_json:
        print_json({"file": file, "competition": competition, "said": said})
    else:
        console.print(said, markup=False)
