"""`ichx card`: a model card with checklists for reviewers."""

from pathlib import Path
from typing import Annotated

import typer

from ichx.cli.output import console, info, notice, print_json
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
    parse_subject,
)
from ichx.cli.session import session
from ichx.cli.subgroup_tables import check_fields, parse_fields
from ichx.files import FOLDER_REMEDY, check_writable


def card(
    number: OptionalNumber = None,
    ensemble: EnsembleNumber = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the card and what it links to; default: print the card.")
    ] = None,
    datasets: Annotated[
        list[str] | None,
        typer.Option("--dataset", help="Labelled dataset whose evaluation the card includes; repeatable."),
    ] = None,
    by: By = None,
    tta: OwnTta = None,
    average: Average = None,
    pooling: Pooling = "max",
    device: Device = "auto",
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Write a model card from what is stored.

    With --out, the folder gets the card in Markdown, its JSON for RSNA ATLAS, the checklists of CLAIM 2024 and TRIPOD
    with links to what answers them, all scores, recipes and the environment. Fields that only the authors know are
    empty in `about.toml`: fill them in and rerun. Evaluations of --dataset are counted.

    Example: `ichx card 6 --out card`

    Example: `ichx card --ensemble 3 --dataset cq500 --out card`
    """
    subject, fields = parse_subject(number, ensemble, tta=tta, average=average), parse_fields(by)
    with session() as project:
        subject.require(project)
        for dataset in datasets or ():
            project.store.dataset(dataset)
        if out is not None:
            check_writable(out / "card.md", "the model card", remedy=FOLDER_REMEDY)
        check_fields(fields)
        from ichx.cli.live import LiveView
        from ichx.inference.trained import InferenceOptions
        from ichx.publish.card import read_card, write_card
        from ichx.publish.card_facts import scores_document
        from ichx.publish.card_markdown import card_markdown
        from ichx.publish.subject import external_subject, oof_subject

        with LiveView() as view:
            view.phase("reading scores", 0, 1)
            published = oof_subject(project, subject, tta=tta or "none", average=average or "logit", pooling=pooling)
            options = InferenceOptions(tta or "none", None, device, workers, average=average or "logit")
            external = [
                external_subject(project, subject, dataset, options, callbacks=view, pooling=pooling)
                for dataset in dict.fromkeys(datasets or ())
            ]
            facts = read_card(project, published, external, fields=fields, folder=out)
            view.phase("reading scores", 1, 1)
        written = None if out is None else write_card(out, facts)
    if as_json:
        print_json({"scores": scores_document(facts), "card": written, "open": facts.about.open})
        return
    if written is None:
        console.print(card_markdown(facts), end="", markup=False, soft_wrap=True)
        return
    for file in written.files:
        console.print(str(file), markup=False)
    for note in written.notes:
        notice(note)
    if written.open:
        info(f"Open fields: {', '.join(written.open)}. Fill them in about.toml and rerun.")
