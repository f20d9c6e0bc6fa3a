"""Experiments and ensembles side by side: recipes, scores, their differences, and where predictions disagree."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ichx.errors import IchxError, InvalidInputError, NotFoundError, check_choice
from ichx.evaluation.choices import TTAS, check_tta
from ichx.experiments.differences import compared_values, differs
from ichx.experiments.listing import Cell, cell
from ichx.formatting import format_interval, shown_marks
from ichx.labels import LABELS
from ichx.project import Project
from ichx.store import Ensemble, Experiment
from ichx.web.compared import Scored, find_scored
from ichx.web.computed import COMPUTE_SECONDS, Computed
from ichx.web.numbers import parse_number
from ichx.web.shown_errors import shown_error
from ichx.web.site import site_of
from ichx.web.sources import sources_of
from ichx.web.studies_api import PLAIN_CURVES

MAX_COMPARED = 20
"""Experiments and ensembles on a page."""


def compare(request: Request) -> Response:
    """Show the experiments `exp` and the ensembles `ensemble` of the query side by side; the first is the baseline."""
    site = site_of(request)
    query = request.query_params
    keys = requested(query.multi_items())
    tta, label = check_tta(query.get("tta", "none")), _label(query.get("label", ""))
    everything = query.get("all") == "1"
    found = [find_scored(site.project, key) for key in keys]
    experiments = [one for one in found if isinstance(one, Experiment)]
    values = compared_values(experiments) if experiments else {}

    def url(keys: Sequence[str] = keys, **changes: str) -> str:
        options = {
            "tta": tta if tta != "none" else "",
            "label": label or "",
            "all": "1" if everything else "",
        } | changes
        pairs = [(_PARAMETERS[key.partition(":")[0]], key.partition(":")[2]) for key in keys]
        return f"/compare?{urlencode([*pairs, *((name, value) for name, value in options.items() if value)])}"

    return site.render(
        request,
        "compare.html.j2",
        title="Compare",
        found=list(zip(keys, found, strict=True)),
        experiments=experiments,
        ensembles=[one for one in found if isinstance(one, Ensemble)],
        facts=_facts(site.project, found),
        recipes={name: (row, differs(row)) for name, row in values.items() if everything or differs(row)},
        hidden_values=len(values),
        everything=everything,
        tta=tta,
        ttas=list(TTAS),
        label=label,
        url=url,
        sources={
            key: f"/compare/scores?{urlencode({'first': keys[0], 'second': key, 'tta': tta, 'label': label or ''})}"
            for key in keys[1:]
        },
    )


def scores(request: Request) -> Response:
    """Return the part of the page about the scores of `first` and `second`, e.g. `experiment:6`.

    A problem is a part of the page, too, next to the other comparisons.
    """
    site, query = site_of(request), request.query_params
    first, second = (find_scored(site.project, _key(query.get(name, ""))) for name in ("first", "second"))
    tta, label = check_tta(query.get("tta", "none")), _label(query.get("label", ""))
    context: dict[str, Any] = {"first": first, "second": second, "label": label}
    state = [_state(site.project, one) for one in (first, second)]
    arguments = {"first": _key(query["first"]), "second": _key(query["second"]), "tta": tta, "label": label}
    try:
        found = sources_of(request).part(Computed).get("compare", arguments, state, COMPUTE_SECONDS)
    except IchxError as error:
        return site.render(request, "compare_problem.html.j2", error=shown_error(error, site), **context)
    source = _source(site.project, first)
    curves = PLAIN_CURVES if tta == "none" else "TTA,sequence,ensemble"
    predictors = urlencode([*(("of", query[name]) for name in ("first", "second")), ("curves", curves)])
    return site.render(
        request,
        "compare_scores.html.j2",
        found=found,
        marks=[shown_marks(one) for one in (first, second)],
        slice_url=lambda slice_id: f"/slices/{source}/{quote(slice_id, safe='')}?{predictors}",
        **context,
    )


_PARAMETERS = {"experiment": "exp", "ensemble": "ensemble"}


def requested(items: Sequence[tuple[str, str]]) -> list[str]:
    """Return the keys, e.g. `experiment:6`, of the parameters `exp` and `ensemble`, in their order, each once.

    Raises:
        NotFoundError: A value is not a number.
        InvalidInputError: There are too many.
    """
    kinds = {parameter: kind for kind, parameter in _PARAMETERS.items()}
    keys = list(dict.fromkeys(_key(f"{kinds[name]}:{value}") for name, value in items if name in kinds))
    if len(keys) > MAX_COMPARED:
        raise InvalidInputError(f"{len(keys)} experiments are too many.", f"Compare at most {MAX_COMPARED}.")
    return keys


def _key(text: str) -> str:
    kind, _, digits = text.partition(":")
    number = parse_number(digits)
    if kind not in _PARAMETERS or number is None:
        raise NotFoundError(f"There is no {kind[:20] or 'experiment'} {digits[:20]!r}.", "Use a number, e.g. exp=6.")
    return f"{kind}:{number}"


def _label(text: str) -> str | None:
    return check_choice("label", text, LABELS) if text else None


def _source(project: Project, scored: Scored) -> str:
    """Return the source of the slices as the viewer names it, quoted for a path."""
    version = project.store.version_by_id(scored.version_id)
    return quote(f"{version.dataset}@{version.number}", safe="@")


def _facts(project: Project, found: Sequence[Scored]) -> dict[str, list[Cell]]:
    """Return the rows of the table of scores: one cell for each of `found`."""
    columns = [_ensemble_facts(project, e) if isinstance(e, Ensemble) else _experiment_facts(e) for e in found]
    return {name: [column.get(name, Cell(None)) for column in columns] for name in _FACTS}


_FACTS = ("dataset", "folds", "state", "OOF score", "95 % interval", "all views")


def _experiment_facts(e: Experiment) -> dict[str, Cell]:
    names = {"dataset": "dataset", "folds": "folds_done", "state": "state", "OOF score": "score"}
    found = {head: cell(e, name, {}, folds_shown=True) for head, name in (names | {"all views": "score_tta"}).items()}
    return found | {"95 % interval": Cell(format_interval(e.score_low, e.score_high) or None)}


def _ensemble_facts(project: Project, e: Ensemble) -> dict[str, Cell]:
    version = project.store.version_by_id(e.version_id)
    in_sample = e.nested_score is None
    score = Cell(e.score if in_sample else e.nested_score, (*shown_marks(e), *(["in-sample"] if in_sample else [])))
    return {
        "dataset": Cell(f"{version.dataset} v{version.number}"),
        "folds": Cell(e.partial or "all"),
        "OOF score": score,
    }


def _state(project: Project, scored: Scored) -> tuple[object, ...]:
    """Return what a comparison depends on, besides its options."""
    if isinstance(scored, Ensemble):
        return ("ensemble", scored.number, scored.created, scored.digest)
    predictions = project.store.predictions(scored.number, role="oof")
    return ("experiment", scored.number, scored.leaked, *((p.path, p.digest) for p in predictions))


ROUTES = (Route("/compare", compare), Route("/compare/scores", scores))
