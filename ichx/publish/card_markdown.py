"""The model card in Markdown. Fields that are not stored are named as open."""

from collections.abc import Sequence
from typing import Final

from ichx import __version__
from ichx.formatting import format_duration
from ichx.labels import LABELS
from ichx.publish.about import ABOUT_FILE, FIELDS
from ichx.publish.card_facts import CardFacts
from ichx.publish.card_tables import (
    calibration_table,
    call_cells,
    call_table,
    describe_intervals,
    recalibration_tables,
    score_tables,
    subgroup_tables,
)
from ichx.publish.card_text import (
    describe_input,
    describe_network,
    describe_pretrained,
    describe_threshold,
    known_limitations,
    model_version,
)
from ichx.publish.markdown import number, paragraph, plain, table
from ichx.text import format_count

OPEN: Final = "**open**"


def card_markdown(facts: CardFacts) -> str:
    """Return the card."""
    published, about = facts.published, facts.about
    title = about.text("name") or f"ichx {published.subject}: {published.name}"
    parts = [
        f"# Model card: {plain(title)}",
        "**Research, not for clinical use.**",
        f"Written by ichx {__version__} from what is stored about {published.subject}. Fields marked {OPEN} are not "
        f"stored; the authors fill them in {ABOUT_FILE}.",
        "## Model",
        _model(facts),
        "## Intended use",
        _intended(facts),
        "## Data",
        _data(facts),
        "## Training",
        _training(facts),
        "## Scores",
        f"Predictions {plain(published.source)}, tta {published.tta}, {published.average} mean. "
        f"{_marks(published.marks)}{describe_intervals(facts.scored.card.slices)}",
        *score_tables(facts.scored),
        "## Operating points",
        _thresholds(facts),
        "## Calibration",
        "Of slices. Calibrated: intercept 0, slope 1. Too extreme: slope below 1.",
        calibration_table(facts.scored),
        *recalibration_tables(facts.recalibrations),
        "## Subgroups",
        *subgroup_tables(facts.scored),
        "## External evaluation",
        *_external(facts),
        "## Use of test sets",
        _use(facts),
        "## Environment",
        _environment(facts),
        "## Limitations",
        paragraph(about.text("limitations") or "") or f"Known to the authors: {OPEN}",
        "Known from what is stored:",
        "\n".join(f"- {plain(line)}" for line in known_limitations(facts)),
        "## Open fields",
        _open(facts),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _model(facts: CardFacts) -> str:
    published, about = facts.published, facts.about
    subject = published.subject
    folds = ", ".join(map(str, facts.scored.card.folds))
    rows: list[tuple[str, str]] = [
        ("in this workspace", f"{subject} ({plain(published.name)})"),
        ("version", plain(about.text("version") or model_version(facts))),
        ("weights (SHA-256)", facts.weights or f"not available: {plain(facts.weights_problem)}"),
        ("created", f"{published.experiment.created:%Y-%m-%d}"),
        ("task", f"probability of {', '.join(LABELS)} hemorrhage per slice and study of a head CT"),
        ("folds", f"{folds}; a new study gets the mean over these networks" if facts.weights else folds),
        ("licence of the trained weights", _told(facts, "license")),
        ("link", _told(facts, "link")),
        ("availability", _told(facts, "availability")),
        ("authors", _told(facts, "authors")),
        ("organizations", _told(facts, "organizations")),
        ("contact", _told(facts, "contact")),
        ("references", _told(facts, "references")),
    ]
    networks = [
        (
            one.experiment.number,
            plain(one.experiment.name),
            "-" if one.weight is None else f"{one.weight:.4f}",
            plain(describe_network(one)),
            "-" if one.recipe is None or one.experiment.members else plain(describe_input(one.recipe)),
            plain(describe_pretrained(one)),
        )
        for one in facts.networks
    ]
    heads = ("experiment", "name", "weight", "network", "input", "pretrained weights, licence")
    return f"{table(('field', 'value'), rows)}\n\n{table(heads, networks)}"


def _intended(facts: CardFacts) -> str:
    keys = ("indications", "intended_uses", "excluded_uses", "intended_users", "clinical_benefit", "instructions")
    rows = [(FIELDS[key].title, _told(facts, key)) for key in (*keys, "regulatory", "ethics", "funding")]
    return table(("field", "value"), rows)


def _data(facts: CardFacts) -> str:
    version = facts.published.data.version
    folds = version.fold_set_of(facts.published.experiment)
    summary = version.summary
    leaky = f"; {format_count(folds.leaking_patients, 'patient')} in several folds" if folds.leaking_patients else ""
    rows = [
        ("dataset", f"{plain(version.dataset)} version {version.number}"),
        ("digest", version.digest),
        ("digest of the labels", facts.published.experiment.label_digest),
        ("slices, patients", f"{version.slices:,}, {version.patients:,}"),
        ("studies, series", f"{summary.get('studies', 0):,}, {summary.get('series', 0):,}"),
        ("excluded files", f"{version.defects:,}"),
        (
            "folds",
            f"{folds.k} ({plain(folds.name)}, seed {folds.seed}, digest {folds.digest}), "
            f"disjoint by {summary.get('group_by', 'patient')}{leaky}",
        ),
        ("source", _told(facts, "data_source")),
        ("reference standard", _told(facts, "reference_standard")),
        ("licence", _told(facts, "data_license")),
    ]
    shares = [(label, f"{share:.4f}") for label, share in (summary.get("prevalences") or {}).items()]
    parts = [table(("field", "value"), rows), table(("label", "share of positive slices"), shares)]
    for field, groups in facts.groups.items():
        counts = [(plain(one.name), f"{one.slices:,}", f"{one.patients:,}") for one in groups]
        parts.append(table((field.replace("_", " "), "slices", "patients"), counts))
    return "\n\n".join(parts)


def _training(facts: CardFacts) -> str:
    rows = []
    for one in facts.networks:
        if one.recipe is None:
            continue
        stages = "; ".join(
            f"{s.name}: {format_count(s.epochs, 'epoch')}, lr {s.lr:g}, {s.scheduler}" for s in one.recipe.stage
        )
        rows.append(
            (
                one.experiment.number,
                plain(stages),
                plain(one.recipe.optimizer.name),
                one.recipe.batch,
                one.recipe.seed,
                f"[recipe](recipe-{one.experiment.number}.toml), digest {one.experiment.recipe_digest[:16]}",
                "yes" if one.experiment.tuned is not None else "no",
            )
        )
    heads = ("experiment", "stages", "optimizer", "batch", "seed", "all values", "values from tuning")
    return table(heads, rows) if rows else "Another tool trained the networks: nothing is stored."


def _thresholds(facts: CardFacts) -> str:
    if not facts.thresholds:
        return f"{OPEN}: no threshold is stored. `ichx threshold` chooses one on out-of-fold predictions."
    rows = [(plain(describe_threshold(one.request, one.threshold)), *call_cells(one.calls)) for one in facts.thresholds]
    return "Chosen on out-of-fold predictions, where they look better than elsewhere.\n\n" + call_table(rows)


def _external(facts: CardFacts) -> list[str]:
    if not facts.evaluations and not facts.external:
        return [f"{OPEN}: none is recorded. `ichx evaluate` scores a model on another dataset."]
    parts = []
    if facts.evaluations:
        recorded = [
            (
                f"{one.created:%Y-%m-%d}",
                f"{plain(one.dataset)} version {one.version}",
                one.command,
                number(one.score),
                one.predictions[:12],
            )
            for one in facts.evaluations
        ]
        heads = ("date", "dataset", "command", "weighted log loss", "digest of the predictions")
        parts += ["Scores of slices, or of studies where only studies are labelled.", table(heads, recorded)]
    for scored in facts.external:
        version = scored.published.data.version
        parts += [
            f"### {plain(version.dataset)} version {version.number}",
            f"{_marks(scored.card.marks)}{describe_intervals(scored.card.slices)}",
            *score_tables(scored),
            calibration_table(scored),
        ]
        if scored.calls:
            rows = [
                (plain(describe_threshold(one.chosen.request, one.chosen.threshold)), *call_cells(one.calls))
                for one in scored.calls
            ]
            parts.append("Stored thresholds, applied unchanged:\n\n" + call_table(rows))
        parts += subgroup_tables(scored)
    if not facts.external:
        parts.append("Scores with intervals: rerun `ichx card` with --dataset.")
    return parts


def _use(facts: CardFacts) -> str:
    if not facts.counts:
        return "No evaluation on another dataset is recorded, and there is no test set."
    rows = [(plain(name), one.evaluations, one.predictions) for name, one in facts.counts.items()]
    heads = ("dataset", "evaluations by any model", "different predictions")
    return "Counted in this workspace.\n\n" + table(heads, rows)


def _environment(facts: CardFacts) -> str:
    rows = []
    for one in facts.networks:
        for run in one.runs:
            seconds = ((run.ended or run.heartbeat) - run.started).total_seconds()
            changed = " with local changes" if (run.provenance or {}).get("dirty") else ""
            rows.append(
                (
                    one.experiment.number,
                    run.fold,
                    plain(run.code_version) + changed,
                    plain(run.device),
                    format_duration(seconds),
                )
            )
    libraries = sorted(
        {f"{name} {version}" for one in facts.networks for run in one.runs for name, version in run.libraries.items()}
    )
    found = table(("experiment", "fold", "code", "device", "duration"), rows) if rows else "No finished run is stored."
    return f"{found}\n\nLibraries: {plain(', '.join(libraries)) or OPEN}."


def _open(facts: CardFacts) -> str:
    return "\n".join(f"- {title}" for title in facts.about.open) or "None."


def _told(facts: CardFacts, key: str) -> str:
    found = facts.about.texts(key) if FIELDS[key].many else [facts.about.text(key) or ""]
    return "; ".join(plain(one) for one in found if one) or OPEN


def _marks(found: Sequence[str]) -> str:
    return f"Marks: {plain(', '.join(found))}. " if found else ""
