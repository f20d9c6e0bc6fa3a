"""The page of one experiment: curves and progress while it runs, scores, logs, files, recipe."""

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ichx.evaluation.choices import check_tta
from ichx.evaluation.subject import Subject
from ichx.experiments.recipe_values import recipe_values
from ichx.formatting import format_interval
from ichx.store import marks
from ichx.store.runs import LIVE_STATES
from ichx.views import with_views
from ichx.web import experiment_files
from ichx.web.computed import COMPUTE_SECONDS, Computed
from ichx.web.curves import planned_stages
from ichx.web.experiment_live import read_live
from ichx.web.numbers import path_number
from ichx.web.operating import operating_part
from ichx.web.shown_errors import without_paths
from ichx.web.site import site_of
from ichx.web.sources import sources_of

if TYPE_CHECKING:
    from ichx.store import Experiment, Prediction, Run


def experiment_page(request: Request) -> Response:
    """Show an experiment."""
    site, number = site_of(request), path_number(request)
    project, store = site.project, site.project.store
    experiment = store.experiment(number)
    files = site.workspace.experiment_files(number)
    listed = experiment_files.list_files(files.folder)
    live = read_live(lambda: project, number, None)
    values = None if experiment.external else recipe_values(project, experiment)
    runs = store.runs(number)
    of = f"experiment:{number}"
    return site.render(
        request,
        "experiment.html.j2",
        title=f"{number}: {experiment.name}",
        e=experiment,
        marks=marks(experiment),
        interval=format_interval(experiment.score_low, experiment.score_high),
        interval_tta=format_interval(experiment.score_tta_low, experiment.score_tta_high),
        now=live.status,
        runs=[_run(run) for run in runs],
        live=any(run.state in LIVE_STATES for run in runs),
        page={"number": number, "stages": [vars(stage) for stage in planned_stages(experiment)]},
        notes=store.notes(number),
        with_views=with_views(experiment.views),
        fold_scores=_fold_scores(store.predictions(number, role="oof")),
        files=listed,
        all_listed=len(listed) < experiment_files.MAX_FILES,
        report=files.report.is_file() and not files.report.is_symlink(),
        values=values,
        all_values=request.query_params.get("recipe") == "all",
        members={member: store.experiment(member).name for member in experiment.members},
        readers=store.sequences_of([number]).get(number, []),
        ensembles=store.ensembles_containing([number]).get(number, []),
        jobs=len(store.jobs(experiments=[number])),
        tuned=_tuned(experiment),
        worklist="/worklist?" + urlencode({"source": f"{experiment.dataset}@{experiment.dataset_version}", "of": of}),
    )


def _run(run: "Run") -> dict[str, Any]:
    end = run.heartbeat if run.ended is None else run.ended
    return {**vars(run), "seconds": (end - run.started).total_seconds()}


def _fold_scores(predictions: "list[Prediction]") -> list[dict[str, Any]]:
    """Return the recorded OOF scores: a row per fold, with a value per view."""
    rows: dict[int, dict[str, Any]] = {}
    for one in predictions:
        rows.setdefault(one.fold, {"fold": one.fold, "slices": one.slices})[one.view] = one.score
    return [rows[fold] for fold in sorted(rows)]


def _tuned(experiment: "Experiment") -> dict[str, Any] | None:
    """Return the link to the Optuna study of a trial."""
    if experiment.tuned is None or experiment.kind != "trial" or experiment.parent is None:
        return None
    first = f"experiment-{experiment.parent}"
    return {"parent": experiment.parent, "study": experiment.tuned.study.removeprefix(first).removeprefix("-")}


@without_paths
def scores(request: Request) -> Response:
    """Return the tables of scores with intervals, by fold and label, as a part of the page."""
    site, number = site_of(request), path_number(request)
    site.project.store.experiment(number)
    arguments = {"number": number, "tta": check_tta(request.query_params.get("view", "none"))}
    state = [one.digest for one in site.project.store.predictions(number, role="oof")]
    found = dict(sources_of(request).part(Computed).get("score_experiment", arguments, state, COMPUTE_SECONDS))
    shown = marks(site.project.store.experiment(number))
    return site.render(request, "experiment_scores.html.j2", **found, marks=shown)


@without_paths
def subgroups(request: Request) -> Response:
    """Return the tables of subgroups as a part of the page."""
    site, number = site_of(request), path_number(request)
    store = site.project.store
    experiment = store.experiment(number)
    state = [one.digest for one in store.predictions(number, role="oof")]
    arguments = {"number": number, "ensemble": False}
    found = dict(sources_of(request).part(Computed).get("score_subgroups", arguments, state, COMPUTE_SECONDS))
    command = f"scores {number} --by scanner,kernel,age"
    return site.render(request, "subgroups.html.j2", **found, marks=marks(experiment), command=command)


@without_paths
def operating(request: Request) -> Response:
    """Return the thresholds, recalibrations and evaluations as a part of the page."""
    number = path_number(request)
    site_of(request).project.store.experiment(number)
    return operating_part(request, Subject(number))


ROUTES = (
    Route("/experiments/{number:number}", experiment_page),
    Route("/api/experiments/{number:number}/scores", scores),
    Route("/api/experiments/{number:number}/subgroups", subgroups),
    Route("/api/experiments/{number:number}/operating", operating),
    *experiment_files.ROUTES,
)
