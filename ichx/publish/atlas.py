"""The model card as JSON of RSNA ATLAS (the Annotated Library of AI Systems), in its schema 2025-11.

The schema was read, not copied: `atlas-model.schema.json` describes the part of it that ichx writes. A field that is
not stored is absent, never invented; ATLAS requires a link, so there is no document without one.
"""

import json
from importlib.resources import files
from typing import Any, Final

from ichx.errors import NotReadyError
from ichx.evaluation.bootstrap import Interval
from ichx.labels import LABELS
from ichx.publish.about import ABOUT_FILE
from ichx.publish.card_facts import CardFacts
from ichx.publish.card_text import (
    describe_input,
    describe_network,
    describe_pretrained,
    describe_threshold,
    known_limitations,
    model_version,
)
from ichx.publish.markdown import number

SCHEMA_FILE: Final = "atlas-model.schema.json"
SCHEMA: Final = "https://atlas.rsna.org/schemas/2025-11/model.json"
"""What the schema of ATLAS calls itself."""

_METRICS: Final = {
    "auc": "area under the receiver operating characteristic curve",
    "average_precision": "average precision",
    "brier": "Brier score",
    "log_loss": "cross-entropy",
    "calibration_error": "expected calibration error",
}
"""Names of ATLAS by ichx's own."""
_OF_THRESHOLDS: Final = ("sensitivity", "specificity", "positive predictive value", "negative predictive value")
_OF_LINES: Final = ("calibration intercept", "calibration slope")
_INTRACRANIAL_HEMORRHAGE: Final = 1386000
"""SNOMED CT, as in the dictionary of pydicom."""


def atlas_document(facts: CardFacts) -> dict[str, Any]:
    """Return the document. Raises `NotReadyError` without a link, which ATLAS requires."""
    link = facts.about.text("link")
    if link is None:
        raise NotReadyError("RSNA ATLAS requires a link to the model.", f"Fill in `link` in {ABOUT_FILE}.")
    published = facts.published
    name = facts.about.text("name") or f"ichx {published.subject}: {published.name}"
    model = {
        "Name": name[:256],
        "Link": link,
        "Indexing": {
            "Content": ["CT", "NR"],
            "SNOMED": [_INTRACRANIAL_HEMORRHAGE],
            "Keywords": ["head CT", "intracranial hemorrhage", "classification", "deep learning"],
        },
        "Descriptors": _descriptors(facts),
        "Imaging": _imaging(facts),
        "Model properties": _properties(facts),
        "Model performance": _performance(facts),
    }
    return {"$schema": SCHEMA, "Model": model}


def atlas_schema() -> dict[str, Any]:
    """Return the JSON Schema of what `atlas_document` writes."""
    text = (files("ichx.publish") / SCHEMA_FILE).read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def _descriptors(facts: CardFacts) -> dict[str, Any]:
    about, created = facts.about, facts.published.experiment.created
    ended = [run.ended for one in facts.networks for run in one.runs if run.ended is not None]
    licence = {"Text": about.text("license"), "URL": about.text("license_url")}
    return _known(
        {
            "Authors": [{"Name": name} for name in about.texts("authors")],
            "Organizations": [{"Name": name} for name in about.texts("organizations")],
            "Contact": about.text("contact"),
            "Date": _known({"Created": f"{created:%Y-%m-%d}", "Updated": f"{max(ended):%Y-%m-%d}" if ended else None}),
            "Ethical review": about.text("ethics"),
            "Funding": about.text("funding"),
            "License": _known(licence),
            "References": [{"Title": title} for title in about.texts("references")],
            "Version": about.text("version") or model_version(facts),
        }
    )


def _imaging(facts: CardFacts) -> dict[str, Any]:
    groups = [
        f"{field.replace('_', ' ')}: " + ", ".join(f"{one.name} ({one.slices:,})" for one in found[:12])
        for field, found in facts.groups.items()
    ]
    return _known(
        {
            "Modalities": ["Computed tomography (RID10321)"],
            "Procedures": [{"Name": "CT head"}],
            "Comments": f"Slices of the training data by header field. {'; '.join(groups)}." if groups else None,
        }
    )


def _properties(facts: CardFacts) -> dict[str, Any]:
    about, networks = facts.about, facts.networks
    inputs = dict.fromkeys(
        describe_input(one.recipe) for one in networks if one.recipe is not None and not one.experiment.members
    )
    thresholds = [describe_threshold(one.request, one.threshold) for one in facts.thresholds]
    folds = facts.published.data.version.fold_set_of(facts.published.experiment)
    said = about.text("limitations")
    regulatory = " ".join(filter(None, ("Research, not for clinical use.", about.text("regulatory"))))
    return _known(
        {
            "Architecture": "; ".join(
                f"{describe_network(one)}, pretrained weights: {describe_pretrained(one)}" for one in networks
            ),
            "Availability": about.text("availability"),
            "Clinical benefit": about.text("clinical_benefit"),
            "Decision threshold": "; ".join(thresholds) or None,
            "Indications for use": about.text("indications"),
            "Input": f"Slices of a head CT in Hounsfield units: {'; '.join(inputs)}" if inputs else None,
            "Instructions": about.text("instructions"),
            "Limitations": " ".join(filter(None, (said, *known_limitations(facts)))),
            "Output": {"Description": f"Probability of {', '.join(LABELS)} hemorrhage per slice and per study."},
            "Regulatory information": {"Comment": regulatory},
            "Reproducibility": (
                f"Dataset digest {facts.published.data.version.digest}; {folds.k} folds with seed {folds.seed}, digest "
                f"{folds.digest}; recipes and versions of libraries are stored with the model."
            ),
            "Use": _known({"Intended": about.texts("intended_uses"), "Out-of-scope": about.texts("excluded_uses")}),
            "User": _known({"Intended": about.texts("intended_users")}),
        }
    )


def _performance(facts: CardFacts) -> dict[str, Any]:
    names = [*_METRICS.values(), *_OF_LINES, *(_OF_THRESHOLDS if facts.thresholds else ())]
    parts = []
    for scored in (facts.scored, *facts.external):
        parts.append(f"Predictions {scored.published.source}, tta {scored.published.tta}.")
        for unit, found in (("slice", scored.card.slices), ("study", scored.card.studies)):
            parts.append(f"Per {unit} ({found.scores.count:,}): weighted log loss {_number(found.log_loss)}.")
            for label in LABELS:
                values = [f"{metric.replace('_', ' ')} {_number(found.labels[label][metric])}" for metric in _METRICS]
                parts.append(f"{label}: {', '.join(values)}.")
        for label, line in scored.card.calibration.items():
            values = [f"intercept {_number(line.in_the_large)}", f"slope {_number(line.slope)}"]
            parts.append(f"Calibration of {label} per slice: {', '.join(values)}.")
    calls = [(one.request, one.threshold, one.calls) for one in facts.thresholds]
    for request, threshold, of in calls:
        rates = (of.sensitivity, of.specificity, of.positive_predictive_value, of.negative_predictive_value)
        values = [f"{name} {_number(rate)}" for name, rate in zip(_OF_THRESHOLDS, rates, strict=True)]
        parts.append(f"{describe_threshold(request, threshold)}, on out-of-fold predictions: {', '.join(values)}.")
    return {"Metrics": names, "Comments": " ".join(parts)}


def _number(found: Interval) -> str:
    return "undefined" if found.value is None else number(found.value, found.low, found.high)


def _known(values: dict[str, Any]) -> dict[str, Any]:
    """Return `values` without empty ones."""
    return {key: value for key, value in values.items() if value}
