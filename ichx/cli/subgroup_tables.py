"""Tables and CSV of the subgroups of `ichx scores --by` and `ichx evaluate --by`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ichx.cli.output import console, info, print_csv, print_json, warn
from ichx.cli.tables import format_bounds, print_table
from ichx.formatting import format_value
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.evaluation.bootstrap import Interval
    from ichx.evaluation.subgroup_scores import Predicted, SubgroupScores

METRICS = ("log_loss", "auc", "average_precision")


def parse_fields(texts: Sequence[str] | None) -> list[str]:
    """Return the fields of `--by scanner,kernel --by age`."""
    return list(dict.fromkeys(name for text in texts or () for part in text.split(",") if (name := part.strip())))


def check_fields(fields: Sequence[str]) -> None:
    """Raise `InvalidInputError` if a field is unknown, before anything is predicted."""
    from ichx.datasets.subgroups import check_field

    for field in fields:
        check_field(field)


def known_fields(predicted: "Predicted", fields: Sequence[str]) -> list[str]:
    """Return the `fields` that some slice has; warn of the others. Raises like `fields_with_values`."""
    from ichx.datasets.subgroups import fields_with_values

    found, missing = fields_with_values(predicted.slices, fields)
    if missing:
        warn(f"No slice has a value for {', '.join(map(repr, missing))} in its header: left out.")
    return found


def show_subgroups(found: Sequence["SubgroupScores"], *, as_csv: bool, as_json: bool) -> None:
    """Print subgroups as JSON, CSV or tables."""
    if as_json:
        print_json(found)
    elif as_csv:
        print_subgroups_csv(found)
    else:
        print_subgroups(found)


def print_subgroups(found: Sequence["SubgroupScores"]) -> None:
    """Print a table per field and unit; groups that are too small for an interval are dimmed."""
    for of in found:
        field, units = of.field.replace("_", " "), "slices" if of.unit == "slice" else "studies"
        rows = [
            (
                group.name,
                group.rows,
                group.patients,
                group.positives,
                *(_format(getattr(group, metric)) for metric in METRICS),
            )
            for group in of.groups
        ]
        heads = (field, units, "patients", of.label, "log loss", f"AUC {of.label}", "average precision")
        small = [number for number, group in enumerate(of.groups) if group.small]
        print_table(f"by {field}, per {of.unit}", heads, rows, dim=small, split=True)
        if small:
            info(f"{format_count(len(small), 'group')} with too few patients for an interval of the AUC.")
        if (worst := of.worst) is not None:
            text = f"Lowest AUC of {of.label}: {worst.name}, {format_value(worst.auc.value)}"
            console.print(f"{text} ({worst.auc.low:.4f}-{worst.auc.high:.4f})", markup=False)


def print_subgroups_csv(found: Sequence["SubgroupScores"]) -> None:
    """Print one row per field, unit and group as CSV."""
    bounds = [f"{metric}{end}" for metric in METRICS for end in ("", "_low", "_high")]
    print_csv(
        ["field", "unit", "group", "count", "patients", "label", "positives", *bounds],
        [
            [of.field, of.unit, group.name, group.rows, group.patients, of.label, group.positives]
            + [value for metric in METRICS for value in _bounds(getattr(group, metric))]
            for of in found
            for group in of.groups
        ],
    )


def _bounds(found: "Interval") -> tuple[float | None, ...]:
    return found.value, found.low, found.high


def _format(found: "Interval") -> str:
    return format_bounds(found, 5, bounds=4, joint="-")
