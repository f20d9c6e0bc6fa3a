"""The items of CLAIM 2024 and TRIPOD+AI in short words of our own, and which artefact of ichx answers each.

The checklists themselves are the reference: Tejani et al., Radiology: Artificial Intelligence 2024, 6(4) e240300, and
Collins et al., BMJ 2024, 385 e078378.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class ChecklistItem:
    """An item of a checklist."""

    number: str
    section: str
    topic: str
    """What it asks for, in our words."""
    artefacts: tuple[str, ...]
    """Keys of `ichx.publish.checklists.artefacts`."""
    authors: str
    """What the authors write themselves; empty if the artefacts answer the item."""


CLAIM: Final = (
    ChecklistItem("1", "title", "study named as one of AI, with the kind of method", (), "what the title says"),
    ChecklistItem("2", "abstract", "summary of design, methods, results, conclusions", (), "abstract"),
    ChecklistItem("3", "introduction", "clinical background, intended use and role", ("intended",), "background"),
    ChecklistItem("4", "introduction", "aims and hypotheses", (), "aims"),
    ChecklistItem("5", "study design", "prospective or retrospective", (), "design"),
    ChecklistItem("6", "study design", "goal of the study", (), "goal"),
    ChecklistItem("7", "data", "where the data come from", ("data", "data_source"), "institutions and dates"),
    ChecklistItem("8", "data", "who was included and excluded", ("data", "data_source"), "eligibility"),
    ChecklistItem("9", "data", "preprocessing of images", ("recipe", "network"), ""),
    ChecklistItem("10", "data", "choice of parts of the data", ("data", "series"), "reason of the choice"),
    ChecklistItem(
        "11", "data", "how identities were removed", ("privacy",), "what was done before ichx read the files"
    ),
    ChecklistItem("12", "data", "handling of missing data", ("data", "defects"), "missing clinical data"),
    ChecklistItem("13", "data", "how images were acquired", ("acquisition",), "protocol"),
    ChecklistItem("14", "reference standard", "how the truth was defined", ("reference_standard",), "definition"),
    ChecklistItem("15", "reference standard", "why this definition", (), "reason"),
    ChecklistItem(
        "16", "reference standard", "who annotated", ("reference_standard",), "readers and their qualification"
    ),
    ChecklistItem(
        "17",
        "reference standard",
        "how the test set was annotated",
        ("reference_standard",),
        "annotation of the test set",
    ),
    ChecklistItem("18", "reference standard", "variability within and between readers", ("readers",), "variability"),
    ChecklistItem("19", "data partitions", "assignment to partitions", ("folds",), ""),
    ChecklistItem("20", "data partitions", "level at which partitions are disjoint", ("folds", "audit"), ""),
    ChecklistItem("21", "testing data", "intended sample size", ("data",), "how it was determined"),
    ChecklistItem("22", "model", "complete description of the network", ("network", "recipe"), ""),
    ChecklistItem("23", "model", "software, libraries and versions", ("environment",), ""),
    ChecklistItem("24", "model", "initial parameters", ("pretrained",), ""),
    ChecklistItem("25", "training", "how it was trained, augmentation, values", ("recipe", "training"), ""),
    ChecklistItem("26", "training", "how the final model was chosen", ("selection",), ""),
    ChecklistItem("27", "training", "ensembling", ("members",), ""),
    ChecklistItem("28", "evaluation", "metrics", ("scores",), "why these metrics"),
    ChecklistItem("29", "evaluation", "uncertainty and significance", ("scores", "comparison"), ""),
    ChecklistItem("30", "evaluation", "robustness and sensitivity", ("subgroups",), "further analyses"),
    ChecklistItem("31", "evaluation", "explainability", ("heat_maps",), "how the maps were validated"),
    ChecklistItem("32", "evaluation", "evaluation on internal data", ("scores",), ""),
    ChecklistItem("33", "evaluation", "evaluation on external data", ("external",), ""),
    ChecklistItem("34", "evaluation", "registration of a trial", (), "registration"),
    ChecklistItem("35", "results: data", "numbers included and excluded", ("data", "defects"), "flow chart"),
    ChecklistItem(
        "36",
        "results: data",
        "demographics and clinical facts of each partition",
        ("acquisition", "prevalence"),
        "clinical facts",
    ),
    ChecklistItem("37", "results: performance", "performance with uncertainty", ("scores", "figures"), ""),
    ChecklistItem("38", "results: performance", "diagnostic accuracy and its precision", ("thresholds", "scores"), ""),
    ChecklistItem("39", "results: performance", "analysis of failures", ("failures",), "interpretation"),
    ChecklistItem("40", "discussion", "limitations", ("limitations",), "discussion"),
    ChecklistItem("41", "discussion", "meaning for practice", ("intended",), "discussion"),
    ChecklistItem("42", "other", "protocol or further technical details", ("recipe", "scores_file"), "protocol"),
    ChecklistItem("43", "other", "availability of software, model and data", ("availability",), "statement"),
    ChecklistItem("44", "other", "funding and its role", ("funding",), ""),
)
"""CLAIM 2024, 44 items."""

TRIPOD: Final = (
    ChecklistItem(
        "1", "title", "development or evaluation of a prediction model, population, outcome", (), "what the title says"
    ),
    ChecklistItem("2", "abstract", "structured summary", (), "abstract"),
    ChecklistItem("3a", "introduction", "healthcare context and earlier models", (), "background"),
    ChecklistItem("3b", "introduction", "population, purpose, users", ("intended",), ""),
    ChecklistItem("3c", "introduction", "known inequalities between groups", (), "inequalities"),
    ChecklistItem("4", "introduction", "aims", (), "aims"),
    ChecklistItem("5a", "methods: data", "sources of data", ("data", "data_source"), "sources"),
    ChecklistItem("5b", "methods: data", "dates", (), "dates of participants"),
    ChecklistItem(
        "6a", "methods: participants", "setting, number and place of centres", ("acquisition", "data_source"), "setting"
    ),
    ChecklistItem("6b", "methods: participants", "eligibility", ("data_source",), "eligibility"),
    ChecklistItem("6c", "methods: participants", "treatments received", (), "treatments"),
    ChecklistItem("7", "methods", "preparation and quality checks of data", ("defects", "recipe"), ""),
    ChecklistItem(
        "8a", "methods: outcome", "definition of the outcome", ("reference_standard", "labels"), "definition"
    ),
    ChecklistItem("8b", "methods: outcome", "who assessed a subjective outcome", ("reference_standard",), "assessors"),
    ChecklistItem("8c", "methods: outcome", "blinding", (), "blinding"),
    ChecklistItem("9a", "methods: predictors", "choice of predictors", ("network",), ""),
    ChecklistItem("9b", "methods: predictors", "definition of predictors", ("network", "recipe"), ""),
    ChecklistItem("9c", "methods: predictors", "who assessed subjective predictors", ("images_only",), ""),
    ChecklistItem("10", "methods", "sample size", ("data",), "how it was determined"),
    ChecklistItem("11", "methods", "missing data", ("defects",), "missing clinical data"),
    ChecklistItem("12a", "methods: analysis", "use and partition of the data", ("folds",), ""),
    ChecklistItem("12b", "methods: analysis", "handling of predictors", ("recipe", "network"), ""),
    ChecklistItem(
        "12c",
        "methods: analysis",
        "kind of model, building steps, tuning, internal validation",
        ("recipe", "selection", "folds"),
        "",
    ),
    ChecklistItem("12d", "methods: analysis", "heterogeneity between clusters", ("subgroups",), ""),
    ChecklistItem("12e", "methods: analysis", "measures and plots of performance", ("scores", "figures"), ""),
    ChecklistItem("12f", "methods: analysis", "updating, e.g. recalibration", ("recalibration",), ""),
    ChecklistItem("12g", "methods: analysis", "how predictions were computed when evaluated", ("predict_command",), ""),
    ChecklistItem("13", "methods", "class imbalance", ("training", "recipe"), ""),
    ChecklistItem("14", "methods", "fairness", ("subgroups",), "approach and reason"),
    ChecklistItem("15", "methods", "output of the model and thresholds", ("thresholds", "labels"), ""),
    ChecklistItem("16", "methods", "differences between training and evaluation data", ("acquisition", "external"), ""),
    ChecklistItem("17", "methods", "ethical approval", ("ethics",), ""),
    ChecklistItem("18a", "open science", "funding", ("funding",), ""),
    ChecklistItem("18b", "open science", "conflicts of interest", (), "conflicts"),
    ChecklistItem("18c", "open science", "protocol", (), "protocol"),
    ChecklistItem("18d", "open science", "registration", (), "registration"),
    ChecklistItem("18e", "open science", "availability of data", ("data_license",), "statement"),
    ChecklistItem("18f", "open science", "availability of code", ("availability",), "statement"),
    ChecklistItem("19", "patients and public", "involvement", (), "involvement"),
    ChecklistItem(
        "20a",
        "results: participants",
        "flow, numbers with and without the outcome",
        ("data", "prevalence"),
        "flow chart",
    ),
    ChecklistItem("20b", "results: participants", "characteristics", ("acquisition",), "clinical facts"),
    ChecklistItem(
        "20c",
        "results: participants",
        "comparison of evaluation and development data",
        ("external", "acquisition"),
        "comparison",
    ),
    ChecklistItem("21", "results", "participants and events in each analysis", ("scores", "data"), ""),
    ChecklistItem("22", "results", "complete specification of the model", ("network", "recipe", "weights"), ""),
    ChecklistItem(
        "23a", "results", "performance with intervals, also of groups", ("scores", "subgroups", "figures"), ""
    ),
    ChecklistItem("23b", "results", "heterogeneity between clusters", ("subgroups",), ""),
    ChecklistItem("24", "results", "results of updating", ("recalibration",), ""),
    ChecklistItem("25", "discussion", "interpretation", (), "discussion"),
    ChecklistItem("26", "discussion", "limitations", ("limitations",), "discussion"),
    ChecklistItem("27a", "discussion", "poor or missing input in use", ("defects",), "discussion"),
    ChecklistItem("27b", "discussion", "interaction and expertise of users", ("instructions",), ""),
    ChecklistItem("27c", "discussion", "next steps", (), "discussion"),
)
"""TRIPOD+AI, 27 items with their parts."""
