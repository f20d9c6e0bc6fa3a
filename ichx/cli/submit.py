"""`ichx submit`: check a submission and send it to Kaggle."""

from pathlib import Path
from typing import Annotated

import typer

from ichx.cli.output import console, info, print_json
from ichx.cli.parameters import AsJson

app = typer.Typer(help="Submissions: check and send to Kaggle.", no_args_is_help=True)

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
