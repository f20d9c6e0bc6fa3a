"""Studies and predictions as JSON, for the viewer. No response has a path: file names may be names of patients."""

from collections import Counter
from typing import Any, Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from ichx.datasets.fold_numbers import TRAIN_ONLY
from ichx.store import Ensemble
from ichx.web.prediction_jobs import PredictionJobs
from ichx.web.shown_errors import without_paths
from ichx.web.site import Site, site_of
from ichx.web.slice_labels import (
    as_number,
    known_labels,
    positive_of_study,
    pseudo_labels,
    reason_of_version,
    unknown_labels,
)
from ichx.web.sources import Source, pixel_version, source_of, sources_of

FILE_PREDICTIONS: Final = "file:1"
"""The predictor of `ichx ui PATH --predictions FILE`."""
SHOWN_FIELDS: Final = {
    "manufacturer": "manufacturer",
    "model": "model",
    "kernel": "kernel",
    "kvp": "kVp",
    "thickness": "slice thickness",
    "contrast": "contrast agent",
    "body_part": "body part",
    "age": "age",
    "sex": "sex",
}
"""Header fields of a catalog, and their names in the viewer."""
PLAIN_CURVES: Final = "CNN,sequence,ensemble"
"""Curves of the viewer without test-time augmentation."""


@without_paths
def study(request: Request) -> Response:
    """Return a study: series and slices in anatomical order, sizes of pixels, and what has predicted it."""
    source = source_of(request)
    found = source.study(request.path_params["study"])
    rows = source.index.slices(found["study"])
    fold = found["fold"] if found["fold"] >= TRAIN_ONLY else None
    defects = [
        {"defect": one["defect"], "detail": one["detail"] or ""} for one in source.index.excluded(found["study"])
    ]
    caches = source.caches.by_size()
    for cache in list(caches.values())[-1:]:
        reasons = ((row["slice_id"], cache.defects.get(row["row"])) for row in rows)
        defects += [{"defect": reason, "detail": slice_id, "slice": slice_id} for slice_id, reason in reasons if reason]
    reviews = _review_counts(site_of(request), source, [row["slice_id"] for row in rows])
    return JSONResponse(
        {
            "source": source.name,
            "study": found["study"],
            "patient": found["patient"],
            "fold": fold,
            "positive": positive_of_study(found),
            "series": _series(source, found["study"], rows, reviews),
            "defects": defects,
            "pixels": _pixel_facts(source),
            "predictors": predictors(site_of(request), source),
        }
    )


@without_paths
def predictions(request: Request) -> Response:
    """Return the curves of an experiment or ensemble for a study."""
    from ichx.evaluation.study_curves import ensemble_curves, experiment_curves, parse_predictor

    source = source_of(request)
    found = source.study(request.path_params["study"])
    of = request.query_params.get("of", "")
    ids = [row["slice_id"] for row in source.index.slices(found["study"])]
    project = site_of(request).project
    if source.version is None:
        return JSONResponse({"of": of, **_of_files(request, source, found["study"], of, ids)})
    kind, number = parse_predictor(of)
    if kind == "experiment":
        result = experiment_curves(project, number, source.version, ids, {found["fold"]})
    else:
        result = ensemble_curves(project, number, source.version, ids)
    curves = [curve.to_dict() for curve in result.curves]
    return JSONResponse({"of": of, "curves": curves, "out_of_fold": result.out_of_fold, "problem": result.problem})


@without_paths
def open_slice(request: Request) -> Response:
    """Redirect to a slice in the viewer, with the other parameters of the request."""
    source = source_of(request)
    row = source.slice(request.path_params["slice"])
    query = [(name, value) for name, value in request.query_params.multi_items() if name != "slice"]
    return RedirectResponse(study_url(source.name, row["study"], [("slice", row["slice_id"]), *query]), 303)


def _of_files(request: Request, source: Source, study: str, of: str, ids: list[str]) -> dict[str, Any]:
    """Return the curves of a study that is in no dataset, empty ones before they are predicted."""
    from ichx.evaluation.study_curves import StudyCurve, curve_of_file, parse_predictor

    found: dict[str, Any] = {"curves": [], "out_of_fold": False, "problem": None}
    given = site_of(request).predictions
    if of == FILE_PREDICTIONS and given is not None:
        values = {slice_id: given[slice_id] for slice_id in ids if slice_id in given}
        curve = StudyCurve("CNN", "file of ichx predict", values)
        return found | (
            {"curves": [curve.to_dict()]} if values else {"problem": "The predictions have no slice of this study."}
        )
    kind, number = parse_predictor(of)
    check_predictor(site_of(request), kind, number)
    job = sources_of(request).part(PredictionJobs).find(source.name, study, f"{kind}:{number}")
    if job is None or job.state != "done":
        return found | {"problem": "Not predicted yet."}
    known = curve_of_file(job.result["name"], job.result["view"], job.out, ids)
    return {
        "curves": [] if known is None else [known.to_dict()],
        "out_of_fold": not job.result["warnings"],
        "problem": " ".join(job.result["warnings"]) or None,
    }


def check_predictor(site: Site, kind: str, number: int) -> None:
    """Raise `NotFoundError` unless there is an experiment or ensemble (`kind`) with this number."""
    if kind == "ensemble":
        site.project.store.ensemble(number)
    else:
        site.project.store.experiment(number)


def study_url(source: str, study: str, query: list[tuple[str, str]] | None = None) -> str:
    """Return the URL of a study in the viewer."""
    parameters = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in query or [])
    return f"/studies/{quote(source, safe='@')}/{quote(study, safe='')}" + (f"?{parameters}" if parameters else "")


def predictors(site: Site, source: Source) -> list[dict[str, Any]]:
    """Return the experiments and ensembles that have predicted a source, or that could predict files."""
    store, version = site.project.store, source.version
    found: list[dict[str, Any]] = [
        {"of": f"experiment:{p.experiment}", "name": p.name, "score": p.score, "folds": list(p.folds)}
        for p in store.predictors(None if version is None else version.id)
    ]
    if version is None and site.predictions is not None:
        found.insert(0, {"of": FILE_PREDICTIONS, "name": "file of ichx predict", "score": None, "folds": []})
    for ensemble in reversed(store.ensembles()):
        if _has_predicted(site, ensemble, source):
            score = ensemble.score if ensemble.nested_score is None else ensemble.nested_score
            of, name = f"ensemble:{ensemble.number}", ensemble.name or ""
            found.append({"of": of, "name": name, "score": score, "folds": []})
    return found


def _series(source: Source, study: str, rows: list[dict[str, Any]], reviews: dict[str, int]) -> list[dict[str, Any]]:
    """Return the series of a study with their slices, from head to foot where that is known."""
    from ichx.cache.display import patient_sides

    series: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        series.setdefault(row["series"], []).append(row)
    found = []
    reason = reason_of_version(source.version)
    for name, slices in series.items():
        key = study, name
        if key not in source.sides:
            source.sides[key] = patient_sides(source.path, slices[0])
        order = _direction(slices)
        steps = sorted(row["step"] for row in slices if row["step"] is not None and row["step"] > 0)
        thickness = round(steps[len(steps) // 2], 3) if steps else None
        listed = [_slice(row, source.sides[key], thickness, reviews, reason) for row in slices]
        found.append(
            {
                "series": name,
                "flags": _flags(slices),
                "order": "unknown" if order == 0 else "head to foot",
                "slices": listed[::-1] if order > 0 else listed,
            }
        )
    return found


def _slice(
    row: dict[str, Any], side: dict[str, str] | None, thickness: float | None, reviews: dict[str, int], reason: str
) -> dict[str, Any]:
    spacing = [as_number(row["spacing_row"]), as_number(row["spacing_column"])]
    return {
        "id": row["slice_id"],
        "position": as_number(row["position"]),
        "rows": row["rows"],
        "columns": row["columns"],
        "spacing": None if None in spacing else spacing,
        "thickness": thickness,
        "side": side,
        "header_window": None if row["window_missing"] else [row["window_centre"], row["window_width"]],
        "header": _header(row),
        "labels": known_labels(row),
        "unknown": unknown_labels(row, reason),
        "pseudo": pseudo_labels(row),
        "fold": row["fold"] if row["fold"] >= TRAIN_ONLY else None,
        "flags": [*_flags([row]), *row["assumptions"].split()],
        "mask": row["mask"],
        "pseudo_mask": row["pseudo_mask"],
        "reviews": reviews.get(row["slice_id"], 0),
    }


def _header(row: dict[str, Any]) -> dict[str, str | float]:
    """Return what the header says of acquisition and patient, as far as it does: names of `SHOWN_FIELDS`."""
    found = {name: row[field] for field, name in SHOWN_FIELDS.items()}
    return {name: value for name, value in found.items() if value not in (None, "") and value == value}


def _flags(rows: list[dict[str, Any]]) -> list[str]:
    from ichx.datasets.study_index import FLAGS

    return [name for name in FLAGS if any(row[name] for row in rows)]


def _direction(rows: list[dict[str, Any]]) -> int:
    """Return 1 if the slices run from foot to head, -1 if from head to foot, 0 if that is unknown."""
    first, last = as_number(rows[0]["pos_z"]), as_number(rows[-1]["pos_z"])
    if rows[0]["by_number"] or rows[0]["not_axial"] or first is None or last is None or first == last:
        return 0
    return 1 if last > first else -1  # DICOM: z grows towards the head


def _pixel_facts(source: Source) -> dict[str, Any]:
    sizes = list(source.caches.by_size())
    problem = remedy = None
    if not sizes and source.version is not None:
        problem = "There is no cache: each slice is decoded from its file."
        remedy = f"Build one: `ichx data cache {source.version.dataset} --size 378`."
    return {"sizes": sizes, "problem": problem, "remedy": remedy, "version": pixel_version(source)}


def _has_predicted(site: Site, ensemble: Ensemble, source: Source) -> bool:
    from ichx.evaluation.predictions import predictions_file

    if source.version is None:
        return ensemble.digest is not None
    if ensemble.version_id == source.version.id:
        return True
    return (site.workspace.ensemble_dir(ensemble.number) / predictions_file(source.version)).is_file()


def _review_counts(site: Site, source: Source, slice_ids: list[str]) -> dict[str, int]:
    """Return the number of reviews by slice."""
    if source.version is None:
        return {}
    return Counter(review.slice for review in site.project.store.reviews(source.version.dataset, slices=slice_ids))


ROUTES: Final = (
    Route("/api/studies/{source}/{study:path}", study),
    Route("/api/predictions/{source}/{study:path}", predictions),
    Route("/slices/{source}/{slice:path}", open_slice),
)
