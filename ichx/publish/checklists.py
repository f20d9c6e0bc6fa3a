"""Checklists for reviewers, CLAIM 2024 and TRIPOD+AI: each item links to what answers it, or is left to the authors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ichx.publish.card_facts import CardFacts
from ichx.publish.checklist_items import CLAIM, TRIPOD, ChecklistItem
from ichx.publish.markdown import plain, table

TO_WRITE: Final = "to be written by the authors"

CHECKLISTS: Final = {
    "claim-2024.md": ("CLAIM 2024", CLAIM, "Tejani et al., Radiol Artif Intell 2024; 6(4):e240300"),
    "tripod-ai.md": ("TRIPOD+AI", TRIPOD, "Collins et al., BMJ 2024; 385:e078378"),
}
"""Title, items and source of each file."""


@dataclass(frozen=True)
class Artefact:
    """Something that answers items."""

    text: str
    """Markdown, usually a link."""


def checklist_markdown(name: str, facts: CardFacts) -> str:
    """Return the checklist of the file `name`, a key of `CHECKLISTS`."""
    title, items, source = CHECKLISTS[name]
    available = artefacts(facts)
    rows = [_row(item, available) for item in items]
    answered = sum(TO_WRITE not in row[3] for row in rows)
    about = facts.about.text("name") or f"ichx {facts.published.subject}: {facts.published.name}"
    return (
        "\n\n".join(
            (
                f"# {title}: {plain(about)}",
                f"Items in short words of ichx, not in those of the checklist, which is the reference: {source}.",
                f"{answered} of {len(rows)} items are answered by what ichx stores. Links are relative to this file.",
                table(("item", "section", "topic", "answer"), rows),
            )
        )
        + "\n"
    )


def artefacts(facts: CardFacts) -> dict[str, Artefact]:
    """Return what is available for this model, by the keys of the items."""
    published, about = facts.published, facts.about
    subject, version = published.subject, published.data.version
    of = subject.argument
    recipes = [one.experiment.number for one in facts.networks if one.recipe is not None]
    found = {
        "data": "[data](card.md#data)",
        "prevalence": "[prevalences](card.md#data)",
        "defects": f"[excluded files](card.md#data), `ichx data show {plain(version.dataset)}`",
        "privacy": "ids are stored as they are (`--keep-ids`)"
        if version.summary.get("keep_ids")
        else "ichx reads no names and dates and stores keyed hashes of ids",
        "labels": "[labels](card.md#model)",
        "folds": "[folds](card.md#data)",
        "audit": f"`ichx audit {subject.number}`" if not subject.ensemble else "",
        "network": "[networks](card.md#model)",
        "pretrained": "[pretrained weights](card.md#model)",
        "training": "[training](card.md#training)",
        "environment": "[environment](environment.json)",
        "selection": _selection(facts),
        "members": "[members and weights](card.md#model)" if subject.ensemble else "[folds](card.md#model)",
        "scores": "[scores](card.md#scores)",
        "scores_file": "[all scores](scores.json)",
        "comparison": "`ichx exp diff` compares two experiments, paired over patients",
        "figures": f"`ichx figures {of} --out figures`",
        "failures": f"`ichx report {subject.number}` shows the slices with the highest loss"
        if not subject.ensemble
        else "",
        "heat_maps": f"`ichx figures {of} --out figures` (slices)",
        "images_only": "not applicable: the only predictors are images",
        "predict_command": f"`ichx evaluate {of} --dataset NAME`",
        "limitations": "[limitations](card.md#limitations)",
    }
    found |= {
        "recipe": ", ".join(f"[recipe {number}](recipe-{number}.toml)" for number in recipes),
        "acquisition": "[header fields](card.md#data)" if facts.groups else "",
        "thresholds": "[operating points](card.md#operating-points)" if facts.thresholds else "",
        "subgroups": "[subgroups](card.md#subgroups)" if facts.scored.subgroups else "",
        "external": "[external evaluation](card.md#external-evaluation)" if facts.evaluations else "",
        "recalibration": "[recalibrations](card.md#calibration)" if facts.recalibrations else "",
        "weights": f"weights SHA-256 {facts.weights}" if facts.weights else "",
    }
    stated = {
        "intended": ("indications", "intended-use"),
        "instructions": ("instructions", "intended-use"),
        "ethics": ("ethics", "intended-use"),
        "funding": ("funding", "intended-use"),
        "availability": ("availability", "model"),
        "data_source": ("data_source", "data"),
        "data_license": ("data_license", "data"),
        "reference_standard": ("reference_standard", "data"),
    }
    for key, (field, place) in stated.items():
        found[key] = f"[{field.replace('_', ' ')}](card.md#{place})" if about.text(field) else ""
    return {key: Artefact(text) for key, text in found.items() if text}


def _row(item: ChecklistItem, available: dict[str, Artefact]) -> Sequence[str]:
    answers = [available[key].text for key in item.artefacts if key in available]
    if not answers:
        answer = TO_WRITE
    elif item.authors:
        answer = f"{'; '.join(answers)}; {TO_WRITE}: {item.authors}"
    else:
        answer = "; ".join(answers)
    return item.number, item.section, item.topic, answer


def _selection(facts: CardFacts) -> str:
    tuned = [one.experiment.number for one in facts.networks if one.experiment.tuned is not None]
    early = [
        one.experiment.number
        for one in facts.networks
        if one.recipe is not None and any(stage.patience for stage in one.recipe.stage)
    ]
    parts = [f"values from tuning: experiment {', '.join(map(str, tuned))}" if tuned else "no values from tuning"]
    if early:
        parts.append(f"early stopping: experiment {', '.join(map(str, early))}")
    if facts.published.marks:
        parts.append(f"marks: {plain(', '.join(facts.published.marks))}")
    return f"[training](card.md#training): {'; '.join(parts)}"
