"""Tasks of the helper process that describe versions of datasets, and ensembles, as JSON values for their pages."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Final

from ichx.project import Project
from ichx.web.score_tables import score_tables, subgroup_table

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from ichx.evaluation.choices import Tta

    Report = Callable[[str, int, int], None]

SHOWN: Final = 6
"""Examples of a flag, an assumption or a defect."""
LEAKS: Final = 50
"""Patients in more than one fold that are listed."""
WITH_IMAGE: Final = frozenset({"duplicate_instance", "no_label", "series_left_out"})
"""Defects of files whose pixels can be decoded."""


def describe_version(project: Project, report: "Report", dataset: str, number: int) -> dict[str, Any]:
    """Return what `ichx data show` and `ichx data folds` show, with ids of examples instead of files.

    The keys are those of `describe_dataset`, and `fold_sets` of `describe_folds`. Each flag, assumption and defect has
    `slices` or `files` as examples: `slice` and `study`; of an excluded file, `study` is None if the viewer does not
    have it, and `place` is its number in `StudyIndex.excluded_at`, or None if it has no image.
    """
    from ichx.datasets.catalog import usable_slices
    from ichx.datasets.dataset import describe_catalog, load_catalog
    from ichx.datasets.decode_findings import read_findings, undecodable_rows
    from ichx.datasets.fold_import import describe_fold_sets
    from ichx.datasets.header_texts import family_texts
    from ichx.datasets.series import flagged_slices
    from ichx.datasets.study_index import sort_excluded
    from ichx.datasets.summary import assumed_slices, defective_rows

    version = project.store.version(dataset, number)
    catalog = load_catalog(project.workspace, version)
    slices = usable_slices(catalog)
    facts = describe_catalog(project.workspace, version, catalog)
    known = set(slices["study"].unique())
    excluded = sort_excluded(catalog[catalog["defect"].notna()])

    def of_defect(rows: "pd.DataFrame", seen_in: str) -> list[dict[str, Any]]:
        found = [
            {
                "slice": _text(row.slice_id),
                "study": row.study if row.study in known else None,
                "detail": _text(row.detail),
                "place": int(str(row.Index)) if seen_in == "headers" and row.defect in WITH_IMAGE else None,
            }
            for row in rows.itertuples()
        ]
        return [one for at, one in enumerate(found) if one["slice"] or one not in found[:at]]

    findings = read_findings(project.workspace.root / version.path)
    parts = {"headers": excluded}
    if findings is not None:
        parts["decoding"] = undecodable_rows(catalog, findings)
    check = facts["check"]
    reasons = check["reasons"] if check else [{"seen_in": "headers"} | defect for defect in facts["defects"]]
    for one in facts["geometry"]:
        one["examples"] = _examples(flagged_slices(slices, one["flag"], SHOWN))
    for one in facts["assumptions"]:
        one["examples"] = _examples(assumed_slices(slices, one["assumption"], SHOWN))
    defects = [
        {
            **{name: one[name] for name in ("seen_in", "reason", "meaning", "files")},
            "examples": of_defect(defective_rows(parts[one["seen_in"]], one["reason"], SHOWN), one["seen_in"]),
        }
        for one in reasons
    ]
    return {
        "families": [family_texts(family) for family in facts["families"]],
        "series": facts["series"],
        "geometry": facts["geometry"],
        "assumptions": facts["assumptions"],
        "defects": defects,
        "check": None if check is None else {name: value for name, value in check.items() if name != "reasons"},
        "fold_sets": [
            {
                **{name: one[name] for name in ("prevalences", "deviation", "folds")},
                "name": one["fold_set"].name,
                "leaks": [asdict(leak) for leak in one["leaks"][:LEAKS]],
                "leaking": len(one["leaks"]),
            }
            for one in describe_fold_sets(project.workspace, version, version.folds, slices)
        ],
    }


def describe_ensemble(project: Project, report: "Report", number: int) -> dict[str, Any]:
    """Return what `ichx ensemble show` shows of an ensemble."""
    from ichx.evaluation import ensemble_summary as summary
    from ichx.evaluation.ensemble import EnsembleReport
    from ichx.evaluation.ensemble_file import read_model

    ensemble = project.store.ensemble(number)
    model = read_model(project.workspace, ensemble)
    record = model.record
    found = EnsembleReport(ensemble=ensemble, **vars(replace(record, notes=())))
    return {
        "names": {str(member): name for member, name in record.names.items()},
        "mean_score": record.mean_score,
        "gap": record.gap,
        "interval": None if record.interval is None else asdict(record.interval),
        "nested_mean": record.nested_mean,
        "why": record.choice.why,
        "certificate": record.choice.certificate,
        "dropped": list(record.choice.dropped),
        "steps": [asdict(step) for step in summary.chosen_steps(found)],
        "trials": [{**asdict(trial), "taken": trial.taken} for trial in record.choice.trials],
        "parts": [
            {
                "part": choice.fold,
                "method": choice.method,
                "weights": {str(member): weight for member, weight in choice.weights.items()},
                "steps": choice.steps,
            }
            for choice in record.fold_choices
        ],
        "labels": [
            {
                **{name: getattr(one, name) for name in ("label", "best_single", "mean", "blend")},
                "weights": None if one.weights is None else {str(k): weight for k, weight in one.weights.items()},
            }
            for one in record.labels
        ],
        "logit_weights": summary.weights_multiply_logits(found),
        "advice": summary.score_advice(found),
        "optimistic": summary.optimistic_members(found),
        "clean_advice": summary.clean_score_advice(found),
        "submissions": [
            {"test_set": one.test_set, "images": one.images, "filled": one.filled} for one in record.submissions
        ],
        "ichx": model.ichx,
        "average": model.average,
        "folds": list(model.folds),
        "k": model.k,
    }


def score_experiment(project: Project, report: "Report", number: int, tta: "Tta") -> dict[str, Any]:
    """Return the scores of an experiment with their intervals, by fold and label, as `score_tables`."""
    from ichx.evaluation.scorecard import fold_scorecard

    return score_tables(fold_scorecard(project, number, tta))


def score_ensemble(project: Project, report: "Report", number: int) -> dict[str, Any]:
    """Return the scores of an ensemble with their intervals, by fold and label, as `score_tables`."""
    from ichx.evaluation.ensemble_oof import read_ensemble_oof
    from ichx.evaluation.scorecard import table_scorecard

    found = read_ensemble_oof(project, project.store.ensemble(number))
    return score_tables(table_scorecard(found.oof)) | {"nested": found.nested}


def score_subgroups(project: Project, report: "Report", number: int, ensemble: bool) -> dict[str, Any]:
    """Return the scores of subgroups of an experiment's or ensemble's OOF predictions, as a report shows them."""
    from ichx.evaluation.subgroup_scores import reported_subgroups
    from ichx.evaluation.subject import Subject
    from ichx.evaluation.subject_predictions import subject_predictions

    found = reported_subgroups(subject_predictions(project, Subject(number, ensemble)))
    return {"fields": [subgroup_table(field, groups) for field, groups in found.items()]}


def _examples(rows: "pd.DataFrame") -> list[dict[str, Any]]:
    return [{"slice": row.slice_id, "study": row.study} for row in rows.itertuples()]


def _text(value: object) -> str | None:
    """Return a text of a catalog; None for a missing or empty one."""
    return value if isinstance(value, str) and value else None
