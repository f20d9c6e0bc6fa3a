"""`ichx evaluate`: an experiment's scores on another labelled dataset."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from ichx.cli.output import console, err, notice, print_json
from ichx.cli.parameters import (
    AsCsv,
    AsJson,
    Average,
    By,
    Cpus,
    Detach,
    Device,
    EngineOptions,
    EnsembleNumber,
    FoldTexts,
    Gpus,
    KeepIds,
    Labels,
    Memory,
    On,
    OptionalNumber,
    OwnTta,
    Page,
    Pooling,
    Precision,
    TimeLimit,
    Workers,
    check_ensemble_options,
    check_subject,
    fold_numbers,
)
from ichx.cli.placement import PlacementOptions
from ichx.cli.scores import print_scores, print_scores_csv
from ichx.cli.session import session
from ichx.cli.subgroup_tables import parse_fields, print_subgroups, print_subgroups_csv
from ichx.cli.threshold import print_calls
from ichx.text import format_count


def evaluate(
    context: typer.Context,
    dataset: Annotated[str, typer.Option("--dataset", help="Labelled dataset to score.")],
    number: OptionalNumber = None,
    ensemble: EnsembleNumber = None,
    tta: OwnTta = None,
    average: Average = None,
    pooling: Pooling = "max",
    folds: FoldTexts = None,
    labels: Labels = None,
    by: By = None,
    prevalence: Annotated[
        float | None, typer.Option("--prevalence", help="Share of positives where stored thresholds will be used.")
    ] = None,
    overlap: Annotated[
        Literal["refuse", "exclude", "mark"],
        typer.Option("--overlap", help="What to do with patients that the experiment's dataset has, too."),
    ] = "refuse",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File for slices and studies with labels and losses: .csv, .json or .parquet."),
    ] = None,
    page: Page = None,
    keep_ids: KeepIds = False,
    device: Device = "auto",
    precision: Precision = "auto",
    workers: Workers = None,
    as_csv: AsCsv = False,
    on: On = None,
    detach: Detach = False,
    cpus: Cpus = None,
    gpus: Gpus = None,
    memory: Memory = None,
    time_limit: TimeLimit = None,
    engine_options: EngineOptions = None,
    as_json: AsJson = False,
) -> None:
    """Score an experiment or an ensemble on another labelled dataset.

    Averages the logits of views and finished folds, and saves the predictions. Refuses datasets that
    share patients or slices with the experiment's own, unless `--overlap` excludes them or marks the score.

    Example: `ichx evaluate 6 --dataset cq500 --tta hflip --label any`

    Example: `ichx evaluate --ensemble 3 --dataset cq500`
    """
    selected, fields = fold_numbers(folds), parse_fields(by)
    subject = check_subject(number, ensemble)
    if ensemble is not None:
        check_ensemble_options(tta=tta, average=average, fold=folds)
    if prevalence is not None and not 0 < prevalence < 1:
        raise typer.BadParameter(f"Invalid prevalence: {prevalence}. Use a share, e.g. 0.1.", param_hint="--prevalence")
    if keep_ids and out is None:
        raise typer.BadParameter("--keep-ids requires --out: scores contain no ids.")
    with session() as project:
        # report unknown names before torch is imported
        if ensemble is not None:
            project.store.ensemble(ensemble)
        else:
            project.store.experiment(subject)
        project.store.dataset(dataset)
        placement = PlacementOptions(on, detach, cpus, gpus, memory, time_limit, engine_options).place(
            project.workspace
        )
        if not placement.is_local:
            from ichx.cli.command_jobs import command_arguments, submit_command
            from ichx.jobs.command_jobs import CommandRequest

            words = command_arguments(context)
            of = subject if ensemble is None else None
            submit_command(project, placement, CommandRequest("evaluate", (words,), experiment=of), as_json=as_json)
            return
        from ichx.cli.live import LiveView
        from ichx.evaluation.operating_points import Subject, applicable, apply_thresholds, stored_thresholds
        from ichx.evaluation.subgroup_scores import SubgroupScores, all_subgroup_scores
        from ichx.inference.evaluate import evaluate_slices_with
        from ichx.inference.evaluation_files import case_tables, hashed_ids, real_ids, write_cases
        from ichx.inference.prediction_files import check_out
        from ichx.inference.ready_model import ready_ensemble, ready_experiment
        from ichx.inference.trained import InferenceOptions

        for file, suffixes in ((out, None), (page, (".html",))):
            if file is not None:
                check_out(file, suffixes)
        written, groups = [], list[SubgroupScores]()
        with LiveView() as view:
            options = InferenceOptions(tta or "none", selected, device, workers, precision, average or "logit")
            if ensemble is not None:
                model = ready_ensemble(project, ensemble, options)
            else:
                model = ready_experiment(project, subject, options, view.note)
            found, slices = evaluate_slices_with(
                project, model, dataset, callbacks=view, pooling=pooling, overlap=overlap
            )
            if out is not None:
                ids = hashed_ids(project.workspace, slices)
                if keep_ids:
                    ids = real_ids(slices, lambda done, total: view.phase("reading ids", done, total))
                written += write_cases(out, case_tables(slices, ids, pooling))
            if page is not None:
                from ichx.report import write_evaluation_report

                written.append(write_evaluation_report(project, found, slices, page))
            stored = stored_thresholds(project, Subject(subject, ensemble is not None))
            fitting = applicable(stored, tta=found.tta, average=found.average, pooling=pooling)
            calls = apply_thresholds(fitting, slices.predicted, prevalence)
            if fields:
                groups = all_subgroup_scores(slices.predicted, fields, labels or ["any"], pooling)
    if as_json:
        print_json({**asdict(found), "subgroups": groups, "operating_points": calls})
    elif as_csv and fields:
        print_subgroups_csv(groups)
    elif as_csv:
        print_scores_csv(found, labels)
    else:
        kind = "experiment" if ensemble is None else "ensemble"
        title = f"{kind} {subject}: {found.name}, on {dataset} version {found.dataset_version}, tta {found.tta}"
        print_scores(title, found, pooling, labels)
        if calls:
            print_calls("stored thresholds, applied unchanged", calls, prevalence)
        print_subgroups(groups)
    if found.overlap:
        patients = f"{format_count(found.overlap, 'patient')} also in the experiment's dataset"
        notice(f"{patients}: {'excluded' if overlap == 'exclude' else 'scored, with the mark `overlap`'}.")
    if len(fitting) < len(stored):
        notice(f"{format_count(len(stored) - len(fitting), 'stored threshold')} of other views, averages or poolings.")
    for file in written:
        (err if as_json or as_csv else console).print(str(file), markup=False)
