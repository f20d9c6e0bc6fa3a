"""`ichx evaluate`: an experiment's scores on another labelled dataset."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ichx.cli.comparison_tables import print_decision_curves, print_paired, print_readers, print_reliability
from ichx.cli.output import console, err, notice, print_json, warn
from ichx.cli.parameters import (
    AsCsv,
    AsJson,
    Average,
    By,
    DecisionCurves,
    Device,
    EnsembleNumber,
    FoldTexts,
    KeepIds,
    Labels,
    OptionalNumber,
    OwnTta,
    Page,
    Pooling,
    Precision,
    Recalibrated,
    Reliability,
    Workers,
    fold_numbers,
    parse_model,
    parse_subject,
)
from ichx.cli.placement import PlacementOptions, placed
from ichx.cli.scores import print_scores, print_scores_csv
from ichx.cli.session import session
from ichx.cli.subgroup_tables import check_fields, known_fields, parse_fields, print_subgroups, print_subgroups_csv
from ichx.cli.threshold import print_calls
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.evaluation.subgroup_scores import Unit
    from ichx.evaluation.subject import Subject


UNITS: "tuple[Unit, ...]" = ("slice", "study")


@placed
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
    decision_curve: DecisionCurves = False,
    reliability: Reliability = False,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="MODEL", help="Compare with this experiment, or ensemble:3, paired."),
    ] = None,
    recalibrated: Recalibrated = None,
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
    *,
    where: PlacementOptions,
    as_json: AsJson = False,
) -> None:
    """Score an experiment or ensemble on another labelled dataset.

    Averages the logits of views and finished folds, and saves the predictions. Refuses datasets that
    share patients or slices with the experiment's own, unless `--overlap` excludes them or marks the score.

    Example: `ichx evaluate 6 --dataset cq500 --tta hflip --label any`

    Example: `ichx evaluate --ensemble 3 --dataset cq500`

    Example: `ichx evaluate 6 --dataset cq500 --against 5`
    """
    selected, fields = fold_numbers(folds), parse_fields(by)
    subject = parse_subject(number, ensemble, tta=tta, average=average, fold=folds)
    if prevalence is not None and not 0 < prevalence < 1:
        raise typer.BadParameter(f"Invalid prevalence: {prevalence}. Use a share, e.g. 0.1.", param_hint="--prevalence")
    other = None if against is None else parse_model(against)
    if other == subject:
        raise typer.BadParameter("Name another experiment or ensemble.", param_hint="--against")
    if keep_ids and out is None:
        raise typer.BadParameter("--keep-ids requires --out: scores contain no ids.")
    with session() as project:
        # report unknown names before torch is imported
        subject.require(project)
        if other is not None:
            other.require(project)
        project.store.dataset(dataset)
        placement = where.place(project.workspace)
        if not placement.is_local:
            from ichx.cli.command_jobs import command_arguments, submit_command
            from ichx.jobs.command_jobs import CommandRequest

            words = command_arguments(context)
            submit_command(project, placement, CommandRequest("evaluate", (words,), experiment=number), as_json=as_json)
            return
        from ichx.cli.live import LiveView
        from ichx.evaluation.decision_curve import decision_curves
        from ichx.evaluation.operating_points import apply_thresholds
        from ichx.evaluation.reliability import reliability_curves
        from ichx.evaluation.subgroup_scores import SubgroupScores, all_subgroup_scores
        from ichx.evaluation.threshold_file import applicable, stale_warnings, stored_thresholds
        from ichx.inference.evaluate import evaluate_slices
        from ichx.inference.evaluation_files import case_tables, hashed_ids, real_ids, write_cases
        from ichx.inference.external_comparison import compare_models, compare_with_readers
        from ichx.inference.prediction_files import check_out
        from ichx.inference.ready_model import ready_model
        from ichx.inference.recalibrate import recalibrated_model
        from ichx.inference.trained import InferenceOptions

        for file, suffixes in ((out, None), (page, (".html",))):
            if file is not None:
                check_out(file, suffixes)
        check_fields(fields)
        written, groups = [], list[SubgroupScores]()
        with LiveView() as view:
            options = InferenceOptions(tta or "none", selected, device, workers, precision, average or "logit")
            model = ready_model(project, subject, options, view.note)
            if recalibrated is not None:
                model = recalibrated_model(project, model, recalibrated, dataset)
            found, slices = evaluate_slices(project, model, dataset, callbacks=view, pooling=pooling, overlap=overlap)
            if out is not None:
                ids = hashed_ids(project.workspace, slices)
                if keep_ids:
                    ids = real_ids(slices, lambda done, total: view.phase("reading ids", done, total))
                written += write_cases(out, case_tables(slices, ids, pooling))
            if page is not None:
                from ichx.report import write_evaluation_report

                written.append(write_evaluation_report(project, found, slices, page))
            stored = stored_thresholds(project, subject)
            fitting = applicable(stored, tta=found.tta, average=found.average, pooling=pooling)
            calls = apply_thresholds(fitting, slices.called, prevalence)
            stale = stale_warnings(project, subject, fitting)
            readers = compare_with_readers(project, slices, fitting)
            curves = {}
            if decision_curve:
                shown = labels or ["any"]
                curves = {
                    unit: decision_curves(slices.predicted, shown, unit, pooling=pooling, prevalence=prevalence)
                    for unit in UNITS
                }
            bins = {}
            if reliability:
                shown = labels or ["any"]
                bins = {unit: reliability_curves(slices.predicted, shown, unit, pooling=pooling) for unit in UNITS}
            paired = None
            if other is not None:
                second = ready_model(project, other, options, view.note)
                paired = compare_models(project, (model, slices), second, pooling, callbacks=view, overlap=overlap)
            if fields:
                fields = known_fields(slices.predicted, fields)
                groups = all_subgroup_scores(slices.predicted, fields, labels or ["any"], pooling)
    if as_json:
        extra = {"subgroups": groups, "operating_points": calls, "readers": readers}
        print_json({**asdict(found), **extra, "decision_curves": curves, "reliability": bins, "against": paired})
    elif as_csv and fields:
        print_subgroups_csv(groups)
    elif as_csv:
        print_scores_csv(found, labels)
    else:
        title = f"{subject}: {found.name}, on {dataset} version {found.dataset_version}, tta {found.tta}"
        if recalibrated is not None:
            title += f", recalibrated: {recalibrated}"
        print_scores(title, found, pooling, labels)
        if calls:
            print_calls("stored thresholds, applied unchanged", calls, prevalence)
        print_reliability(bins)
        print_decision_curves(curves, given=prevalence)
        if readers:
            print_readers(readers, labels)
        if paired is not None and other is not None:
            print_paired(paired, _name(subject), _name(other))
        print_subgroups(groups)
    if found.overlap:
        patients = f"{format_count(found.overlap, 'patient')} also in the experiment's dataset"
        notice(f"{patients}: {'excluded' if overlap == 'exclude' else 'scored, with the mark `overlap`'}.")
    if len(fitting) < len(stored):
        notice(f"{format_count(len(stored) - len(fitting), 'stored threshold')} of other views, averages or poolings.")
    for line in stale:
        warn(line)
    for file in written:
        (err if as_json or as_csv else console).print(str(file), markup=False)


def _name(subject: "Subject") -> str:
    return f"{'ens' if subject.ensemble else 'exp'} {subject.number}"
