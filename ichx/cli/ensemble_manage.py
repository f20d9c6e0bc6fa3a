"""`ichx ensemble name`, `rm`, `submit`, `export` and `import`."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from ichx.cli.confirmation import confirmed
from ichx.cli.ensemble_show import Ensemble
from ichx.cli.exp_transfer import print_exported
from ichx.cli.output import console, info, notice, print_json
from ichx.cli.parameters import AsJson
from ichx.cli.session import session


def name(number: Ensemble, text: Annotated[str, typer.Argument(metavar="NAME", help="Its name; empty: none.")]) -> None:
    """Name an ensemble.

    Example: `ichx ensemble name 3 "four networks"`
    """
    from ichx.errors import check_name

    with session() as project:
        project.store.rename_ensemble(number, check_name("name", text) if text.strip() else None)
    info(f"Named ensemble {number}." if text.strip() else f"Ensemble {number} has no name now.")


def rm(
    number: Ensemble,
    yes: Annotated[bool, typer.Option("--yes", help="Delete without confirmation.")] = False,
) -> None:
    """Delete an ensemble with its files, also its submissions. Its members can be deleted then.

    Example: `ichx ensemble rm 3`
    """
    with session() as project:
        ensemble = project.store.ensemble(number)
        folder = project.workspace.ensemble_dir(number)
        members = ", ".join(str(m.experiment) for m in ensemble.members)
        question = f"Delete ensemble {number} (members {members}) and {folder}?"
        if not confirmed(question, f"ichx ensemble rm {number}", yes=yes):
            return
        project.store.delete_ensemble(number)
        if folder.exists():
            shutil.rmtree(folder)
    info(f"Deleted ensemble {number}.")


def submit(
    number: Ensemble,
    test_set: Annotated[str, typer.Argument(metavar="TESTSET", help="Test set of its dataset.")],
    out: Annotated[Path | None, typer.Option("--out", help="CSV to write; default: in the ensemble's folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write an ensemble's submission for a test set, e.g. one that was added later.

    Uses the stored predictions of the members. Without a sample submission, writes probabilities by slice id.

    Example: `ichx ensemble submit 3 rsna-test`
    """
    with session() as project:
        project.store.ensemble(number)  # report an unknown number before pandas is imported
        from ichx.evaluation.ensemble_submissions import submit_ensemble

        written = submit_ensemble(project, number, test_set, out)
    if as_json:
        print_json(written)
        return
    console.print(f"submission for {written.test_set}: {written.path} ({written.images} images)", markup=False)
    if written.filled:
        notice(f"{written.filled} images of the sample have no readable slice and get the training prevalences.")


def export(
    number: Ensemble, file: Annotated[Path, typer.Argument(help="New zip file.")], as_json: AsJson = False
) -> None:
    """Export an ensemble with its members and their weights to an archive file.

    Example: `ichx ensemble export 3 blend.zip`
    """
    with session() as project:
        project.store.ensemble(number)  # report an unknown number before torch is imported
        from ichx.experiments.ensemble_archive import export_ensemble

        written = export_ensemble(project, number, file)
    print_exported(f"ensemble {number}", written, as_json=as_json)


def import_(
    file: Annotated[Path, typer.Argument(help="Archive file of `ichx ensemble export`.")], as_json: AsJson = False
) -> None:
    """Import an ensemble with those of its members that are not here yet.

    Members are pinned to the local dataset with the same labels and folds.

    Example: `ichx ensemble import blend.zip`
    """
    with session() as project:
        from ichx.experiments.ensemble_archive import import_ensemble

        found = import_ensemble(project, file)
    if as_json:
        print_json(found)
    else:
        members = ", ".join(f"{here} (formerly {was})" for was, here in found.members.items())
        text = f"ensemble {found.number}: imported, formerly ensemble {found.was}; members {members}"
        console.print(text, markup=False)
    for line in found.left_out:
        notice(line)
