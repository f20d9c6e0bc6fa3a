"""Writes a model card: Markdown, JSON of RSNA ATLAS, checklists, and the artefacts that they link to."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ichx.errors import NotReadyError
from ichx.files import write_text
from ichx.formatting import json_value
from ichx.publish.about import ABOUT_FILE, read_about, write_template
from ichx.publish.atlas import atlas_document
from ichx.publish.card_facts import CardFacts, card_facts, scores_document
from ichx.publish.card_markdown import card_markdown
from ichx.publish.checklists import CHECKLISTS, checklist_markdown

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.publish.subject import PublishedPredictions

CARD_FILE: Final = "card.md"
ATLAS_FILE: Final = "atlas.json"
SCORES_FILE: Final = "scores.json"
ENVIRONMENT_FILE: Final = "environment.json"
_PRIVATE: Final = ("host", "pid", "process", "command", "job", "error")
"""What a run records about the machine and its user, which a card omits."""


@dataclass(frozen=True)
class WrittenCard:
    """A card in a folder."""

    files: tuple[Path, ...]
    open: tuple[str, ...]
    """Fields that the authors have not filled in."""
    notes: tuple[str, ...]
    """What is missing."""


def read_card(
    project: "Project",
    published: "PublishedPredictions",
    external: "Sequence[PublishedPredictions]" = (),
    *,
    fields: Sequence[str] = (),
    folder: Path | None = None,
) -> CardFacts:
    """Return the content of a card, with what the authors say in `folder`; raises like `card_facts`, `read_about`."""
    about = None if folder is None else read_about(folder / ABOUT_FILE)
    return card_facts(project, published, external, fields=fields, about=about)


def write_card(folder: Path, facts: CardFacts) -> WrittenCard:
    """Write the card and what it links to into `folder`. Raises `StorageError` if a file cannot be written."""
    written, notes = list[Path](), list[str]()

    def write(name: str, text: str) -> None:
        write_text(folder / name, text, "the model card")
        written.append(folder / name)

    write(CARD_FILE, card_markdown(facts))
    try:
        write(ATLAS_FILE, _json(atlas_document(facts)))
    except NotReadyError as error:
        (folder / ATLAS_FILE).unlink(missing_ok=True)  # of an earlier card, which had a link
        notes.append(f"No {ATLAS_FILE}: {error.problem} {error.remedy}")
    for name in CHECKLISTS:
        write(name, checklist_markdown(name, facts))
    for scored in (facts.scored, *facts.external):
        if scored.missing:
            name = scored.published.data.version.dataset
            notes.append(f"No subgroups of {name} by {', '.join(scored.missing)}: no header has a value.")
    write(SCORES_FILE, _json(scores_document(facts)))
    write(ENVIRONMENT_FILE, _json(environment(facts)))
    for one in facts.networks:
        if one.recipe is not None:
            write(f"recipe-{one.experiment.number}.toml", one.experiment.recipe)
    if write_template(folder / ABOUT_FILE):
        written.append(folder / ABOUT_FILE)
    return WrittenCard(tuple(written), tuple(facts.about.open), tuple(notes))


def environment(facts: CardFacts) -> list[dict[str, Any]]:
    """Return the finished runs without names of machines and commands."""
    return [
        {name: value for name, value in json_value(run).items() if name not in _PRIVATE}
        for one in facts.networks
        for run in one.runs
    ]


def _json(value: object) -> str:
    return json.dumps(json_value(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
