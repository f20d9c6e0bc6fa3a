"""`ichx data add`: a version of a dataset, or what it would match."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ichx.cli.data_views import print_added, print_checked
from ichx.cli.output import print_json, progress
from ichx.cli.parameters import AsJson
from ichx.cli.session import session

IdKindChoice = Literal[
    "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "AccessionNumber", "PatientID", "folder", "file"
]


def add(
    name: Annotated[str, typer.Argument(help="Name of the dataset; a known name gets a new version.")],
    path: Annotated[
        Path, typer.Argument(help="Folder or zip with DICOM or NIfTI files; ZIP/FOLDER for a part of a zip.")
    ],
    format_: Annotated[
        str | None, typer.Option("--format", help="Format of a public dataset; `ichx data formats` lists them.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(help="Label CSV: `ID,Label`, or `image` and six columns; .gz, ZIP/CSV; or CSV, XLSX by columns."),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="LABEL=COLUMN of the spreadsheet, e.g. any=ICH; repeatable.")
    ] = None,
    id_column: Annotated[str | None, typer.Option(help="Column of the spreadsheet with the ids.")] = None,
    id_kind: Annotated[
        IdKindChoice | None, typer.Option(help="What the ids are; default: as the column's name says, or what matches.")
    ] = None,
    level: Annotated[
        Literal["slice", "series", "study", "patient"] | None,
        typer.Option(help="What a row of the spreadsheet describes; default: as the ids say."),
    ] = None,
    sheet_name: Annotated[str | None, typer.Option("--sheet", help="Sheet of an XLSX with several.")] = None,
    test_of: Annotated[str | None, typer.Option(help="Labelled dataset to which this test set belongs.")] = None,
    sample: Annotated[Path | None, typer.Option(help="Sample submission, which lists the ids to predict.")] = None,
    masks: Annotated[
        Path | None,
        typer.Option(help="Folder or zip of masks, 0 or subtype 1 to 5: PNGs by slice id, or NIfTIs by volume."),
    ] = None,
    folds: Annotated[int, typer.Option(help="Number of patient-grouped folds; 0 for a dataset to evaluate only.")] = 5,
    fold_seed: Annotated[int, typer.Option(help="Seed of the folds.")] = 0,
    keep_ids: Annotated[bool, typer.Option("--keep-ids", help="Store patient, study and series ids unhashed.")] = False,
    group_by: Annotated[
        Literal["patient", "study"],
        typer.Option(help="What a fold keeps together; study if PatientIDs are placeholders."),
    ] = "patient",
    series: Annotated[
        Literal["auto", "all"] | None,
        typer.Option(help="Series of a study; auto: one axial one, plain, soft kernel. Default: all, or the format's."),
    ] = None,
    format_options: Annotated[
        list[str] | None, typer.Option("--format-option", help="NAME=VALUE of an option of the format; repeatable.")
    ] = None,
    series_rules: Annotated[Path | None, typer.Option(help="TOML file with the rules of `--series auto`.")] = None,
    check_only: Annotated[
        bool, typer.Option("--check", help="Report what would be added and matched; add nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Add CT slices from a folder or zip as a dataset.

    A zip is read in place. Each file becomes a slice or a named defect. Adding a known dataset creates a new version if
    files, labels or folds have changed.

    Example: `ichx data add rsna stage_2_train --labels stage_2_train.csv`

    Example: `ichx data add rsna rsna.zip/stage_2_train --labels rsna.zip/stage_2_train.csv`

    Example: `ichx data add bhsd slices --labels labels.csv --masks masks`

    Example: `ichx data add rsna-test stage_2_test --test-of rsna --sample stage_2_sample_submission.csv`

    Example: `ichx data add ours export --series auto`

    Example: `ichx data add ours export --labels list.xlsx --id-column StudyInstanceUID --label any=ICH --check`
    """
    from ichx.datasets.add import AddRequest, add_dataset, check_dataset

    columns = None
    if label or id_column or id_kind or level or sheet_name:
        from ichx.datasets.label_sheet import SheetColumns

        columns = SheetColumns(id_column, _label_columns(label or []), sheet_name, id_kind, level)

    request = AddRequest(
        name,
        path,
        labels=labels,
        columns=columns,
        test_of=test_of,
        sample=sample,
        masks=masks,
        folds=folds,
        fold_seed=fold_seed,
        keep_ids=keep_ids,
        format=format_,
        group_by=group_by,
        format_options=_settings(format_options or [], "--format-option"),
        series=series,
        series_rules=series_rules,
    )
    with session(writes=True) as project, progress("reading headers") as report:
        if check_only:
            checked = check_dataset(project, request, progress=report)
        else:
            added = add_dataset(project, request, progress=report)
    if check_only:
        if as_json:
            print_json(checked)
        else:
            print_checked(name, checked)
        return
    if as_json:
        print_json(added)
    else:
        print_added(added)


def _settings(texts: list[str], option: str) -> dict[str, str]:
    """Return the values of `NAME=VALUE` texts by name."""
    if invalid := [text for text in texts if "=" not in text]:
        problem = f"Invalid values: {', '.join(map(repr, invalid))}. Use NAME=VALUE."
        raise typer.BadParameter(problem, param_hint=option)
    return {name.strip(): value.strip() for name, _, value in (text.partition("=") for text in texts)}


def _label_columns(settings: list[str]) -> dict[str, str]:
    """Return the columns by label of settings like `any=ICH`."""
    pairs = [setting.partition("=") for setting in settings]
    if invalid := [text for text, (label, _, column) in zip(settings, pairs, strict=True) if not label or not column]:
        raise typer.BadParameter(f"Invalid values: {', '.join(map(repr, invalid))}. Use LABEL=COLUMN, e.g. any=ICH.")
    named = [label.strip() for label, _, _ in pairs]
    if twice := sorted({label for label in named if named.count(label) > 1}):
        raise typer.BadParameter(f"Several columns of {', '.join(twice)}. Name one column per label.")
    return {label.strip(): column.strip() for label, _, column in pairs}
