"""`ichx figures`: figures for a paper."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from ichx.cli.output import console, notice, print_json
from ichx.cli.parameters import (
    AsJson,
    Average,
    By,
    Device,
    EnsembleNumber,
    OptionalNumber,
    OwnTta,
    Pooling,
    Workers,
    label_option,
    parse_subject,
)
from ichx.cli.session import session
from ichx.cli.subgroup_tables import check_fields, parse_fields
from ichx.files import FOLDER_REMEDY, check_writable
from ichx.labels import ANY

ExternalDataset = Annotated[
    str | None, typer.Option("--dataset", help="Another labelled dataset; default: out-of-fold predictions.")
]


def figures(
    out: Annotated[Path, typer.Option("--out", help="Folder of the figures and their CSV files.", show_default=False)],
    number: OptionalNumber = None,
    ensemble: EnsembleNumber = None,
    format: Annotated[Literal["pdf", "png", "svg"], typer.Option("--format", help="Format of the files.")] = "pdf",
    dataset: ExternalDataset = None,
    label: Annotated[str, label_option("Label of subgroups, example slices and figures of one label.")] = ANY,
    per: Annotated[Literal["study", "slice"], typer.Option("--per", help="What curves and subgroups count.")] = "study",
    by: By = None,
    tta: OwnTta = None,
    average: Average = None,
    pooling: Pooling = "max",
    device: Device = "auto",
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Write figures for a paper, each with its numbers as CSV.

    ROC and precision-recall curves with bands over patients, reliability, decision curves, a forest plot of subgroups,
    and example slices with heat maps: 89 or 183 mm wide, with embedded fonts. With --dataset, the figures are those of
    an evaluation on another dataset, which is counted.

    Example: `ichx figures 6 --out figures --format pdf`

    Example: `ichx figures --ensemble 3 --dataset cq500 --out figures`
    """
    subject, fields = parse_subject(number, ensemble, tta=tta, average=average), parse_fields(by)
    with session() as project:
        subject.require(project)
        if dataset is not None:
            project.store.dataset(dataset)
        check_writable(out / f"roc.{format}", "the figures", remedy=FOLDER_REMEDY)
        check_fields(fields)
        from ichx.cli.live import LiveView
        from ichx.inference.trained import InferenceOptions
        from ichx.publish.figures import FigureRequest, write_figures
        from ichx.publish.subject import external_subject, oof_subject

        with LiveView() as view:
            if dataset is None:
                published = oof_subject(
                    project, subject, tta=tta or "none", average=average or "logit", pooling=pooling
                )
            else:
                options = InferenceOptions(tta or "none", None, device, workers, average=average or "logit")
                published = external_subject(project, subject, dataset, options, callbacks=view, pooling=pooling)
            request = FigureRequest(out, format, label, fields, per)
            written = write_figures(project, published, request, lambda done, total: view.phase("figures", done, total))
    if as_json:
        print_json({"source": published.source, "marks": published.marks, **vars(written)})
        return
    for file in written.files:
        console.print(str(file), markup=False)
    notice(f"Figures of {subject}, {published.source}.")
    for note in written.notes:
        notice(note)
