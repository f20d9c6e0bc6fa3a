"""What `ichx data` prints about a dataset, within 80 columns.

The figures are computed in `ichx.datasets`.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ichx.cli.data_pseudo import print_origin
from ichx.cli.output import console, info, warn
from ichx.cli.tables import print_table
from ichx.datasets.header_texts import FAMILY_HEADS, family_texts
from ichx.datasets.next_step import next_step
from ichx.formatting import format_value
from ichx.labels import PSEUDO
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.datasets.add import AddReport, CheckReport
    from ichx.store import EvaluationCount

MAX_ROWS = 12
"""Rows shown of a table that may have hundreds; `--json` prints all."""


def print_added(added: "AddReport") -> None:
    """Print the report of `ichx data add`."""
    version = added.version
    for message in added.messages:
        info(message)
    for warning in added.warnings:
        warn(warning)
    result = "added" if added.created else "unchanged:"
    console.print(f"{result} {version.dataset} version {version.number}: {version.slices:,} slices", markup=False)
    if (shares := version.summary["prevalences"]) and any(share is not None for share in shares.values()):
        info(f"Positive slices: {', '.join(f'{label} {_share(share)}' for label, share in shares.items())}.")
    info(f"Next: {next_step(version)}")


def print_checked(name: str, checked: "CheckReport") -> None:
    """Print the report of `ichx data add --check`."""
    for message in checked.messages:
        info(message)
    for warning in checked.warnings:
        warn(warning)
    if counts := checked.summary.get("label_counts"):
        _print_label_counts(counts)
    found = f"{format_count(checked.slices, 'slice')} of {format_count(checked.patients, 'patient')}"
    console.print(f"checked {name}: {found}; nothing was added", markup=False)


def print_dataset(facts: dict[str, Any]) -> None:
    """Print what `ichx.datasets.dataset.describe` returns."""
    version, summary = facts["version"], facts["version"].summary
    parts = facts["mixture"]
    kind = (
        f"test set of {version.test_of}"
        if version.test_of
        else "mixture"
        if parts
        else "dataset"
        if version.label_digest
        else "unlabelled dataset"
    )
    console.print(f"{version.dataset} version {version.number}, {kind}: {version.source}", markup=False)
    if parts:
        print_parts(parts)
    counts = ("files", "slices", "patients", "studies", "series")
    print_table("counts", ("item", "count"), [(name.replace("_", " "), summary[name]) for name in counts])
    if summary.get("group_by") == "study":
        warn("Grouped by study: each study counts as a patient, whatever its PatientID.")
    if summary.get("joined_patients"):
        joined = format_count(summary["joined_patients"], "patient")
        info(f"{joined} that share studies or series count as {format_count(summary['joined_groups'], 'patient')}.")
    if PSEUDO in summary:
        print_origin(summary)
    _print_prevalences(facts)
    families = [tuple(family_texts(family).values()) for family in facts["families"]]
    _print_long_table("headers", FAMILY_HEADS, families)
    _print_series(facts)
    if facts["assumptions"]:
        rows = [(a["assumption"].replace("_", " "), a["slices"], _meaning(a)) for a in facts["assumptions"]]
        print_table("assumptions", ("assumption", "slices", "meaning"), rows)
    if facts["defects"]:
        rows = [(d["reason"], d["files"], _meaning(d)) for d in facts["defects"]]
        print_table("excluded", ("defect", "files", "meaning"), rows)
    if facts["check"]:
        _print_check_totals(facts["check"])
        undecodable = [r for r in facts["check"]["reasons"] if r["seen_in"] == "decoding"]
        if undecodable:
            rows = [(r["reason"], r["files"], _meaning(r)) for r in undecodable]
            print_table("cannot be decoded", ("defect", "files", "meaning"), rows)
    elif not parts:
        console.print(f"Slices not decoded yet. Next: `ichx data check {version.dataset}`", markup=False)
    if masks := summary.get("masks"):
        lines = (
            f"masks: {masks['slices']:,} slices; {masks['undrawn']:,} positive slices without a mask;",
            f"{masks['beyond_labels']:,} with a subtype that the labels lack, {masks['short_of_labels']:,} lacking one",
        )
        console.print("\n".join(lines), markup=False)
    if (counted := facts["evaluations"]).evaluations:
        console.print(_evaluations(counted), markup=False)
    if sample := summary.get("sample"):
        lines = (
            f"sample: {sample['ids']:,} ids of {sample['images']:,} images; {sample['absent']:,} missing,",
            f"{sample['defective']:,} excluded; {sample['not_asked']:,} slices not in the sample",
        )
        console.print("\n".join(lines), markup=False)


def print_parts(parts: Sequence[dict[str, Any]]) -> None:
    """Print the parts of a mixture, as `describe_dataset` describes them."""
    rows = [
        (
            part["dataset"],
            part["number"],
            part["slices"],
            part["patients"],
            f"{part['weight']:g}",
            f"{part['share']:.0%}",
            "train only" if part["train_only"] else part["folds"],
        )
        for part in parts
    ]
    heads = ("part", "version", "slices", "patients", "weight", "per epoch", "folds")
    print_table("parts", heads, rows, caption="per epoch: share of the part's slices that an epoch samples")


def print_decode_check(checked: dict[str, Any]) -> None:
    """Print what `ichx.cache.decode_check.check_dataset` returns."""
    rows = [(r["reason"], r["seen_in"], r["files"], _meaning(r)) for r in checked["reasons"]]
    if rows:
        print_table("excluded", ("defect", "found in", "files", "meaning"), rows)
    _print_check_totals(checked)


def print_prevalences(title: str, total: dict[str, Any], folds: Sequence[dict[str, Any]], caption: str = "") -> None:
    """Print slices, patients and the share of positive slices per label, of a dataset version and of its folds."""
    parts = [total, *folds]
    rows: list[tuple[object, ...]] = [(name, *(part[name] for part in parts)) for name in ("slices", "patients")]
    rows += [(label, *(_share(part["prevalences"][label]) for part in parts)) for label in total["prevalences"] or ()]
    columns = ("", "all", *("train only" if part["fold"] < 0 else f"fold {part['fold']}" for part in folds))
    print_table(title, columns, rows, caption=caption, split=True)


def _print_label_counts(counts: dict[str, Any]) -> None:
    """Print how many labels of slices, and of studies or series, are known in a version that lacks some."""
    groups = {"study": "studies"}.get(counts.get("level", ""), counts.get("level", ""))
    units = {"slices": "slices"} | ({"groups": groups} if groups else {})
    heads = ("label", *(f"{name} {what}" for what in units.values() for name in ("positive", "known", "unknown")))
    rows = [
        (label, *(counts[unit][label][count] for unit in units for count in ("positive", "known", "unknown")))
        for label in counts["slices"]
    ]
    reason = "- in the shares: the label is not known for any slice, or for a selection by its value only"
    print_table("known labels", heads, rows, caption=reason, split=True)


def _share(share: float | None) -> str:
    """Return a share of slices, a dash for a label that is not known for any."""
    return "-" if share is None else f"{share:.2%}"


def _evaluations(counted: "EvaluationCount") -> str:
    """Return e.g. `labels used by 3 evaluations of 2 different predictions, 2026-01-01 to 2026-02-01`."""
    first, last = (f"{when:%Y-%m-%d}" for when in (counted.first, counted.last) if when is not None)
    when = first if first == last else f"{first} to {last}"
    different = format_count(counted.predictions, "different prediction")
    return f"labels used by {format_count(counted.evaluations, 'evaluation')} of {different}, {when}"


def _print_prevalences(facts: dict[str, Any]) -> None:
    version, shares = facts["version"], facts["version"].summary["prevalences"]
    if not shares:
        return
    total = {"slices": version.slices, "patients": version.patients, "prevalences": shares}
    print_prevalences("share of positive slices", total, facts["folds"])
    if counts := version.summary.get("label_counts"):
        _print_label_counts(counts)
    others = [fold_set.name for fold_set in version.folds[1:]]
    if others:
        console.print(f"other folds: {', '.join(others)}; see `ichx data folds {version.dataset}`", markup=False)


def _print_series(facts: dict[str, Any]) -> None:
    series = facts["series"]
    print_table("slices per series", tuple(series["lengths"]), [tuple(series["lengths"].values())])
    spacings = [f"{s['mm']:g} mm ({s['series']:,})" for s in series["spacings"]]
    more = f" and {format_count(len(spacings) - 6, 'other')}" if len(spacings) > 6 else ""
    if spacings:
        console.print(f"median slice spacing (series): {', '.join(spacings[:6])}{more}", markup=False)
    if series["tilted"]:
        tilted = f"tilted gantry: {series['tilted']:,} of {format_count(series['series'], 'series', 'series')}"
        console.print(f"{tilted}, median {series['median_tilt']:.1f} degrees", markup=False)
    if series["several_runs"]:
        runs = f"several runs: {series['several_runs']:,} of {format_count(series['series'], 'series', 'series')}"
        console.print(f"{runs}, of interleaved scans or distant parts", markup=False)
    if facts["geometry"]:
        rows = [(g["flag"].replace("_", " "), g["series"], g["slices"], _meaning(g)) for g in facts["geometry"]]
        print_table("geometry", ("flag", "series", "slices", "meaning"), rows)


def _print_long_table(title: str, columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    print_table(title, columns, rows[:MAX_ROWS])
    if len(rows) > MAX_ROWS:
        rest = sum(int(str(row[-1])) for row in rows[MAX_ROWS:])
        console.print(f"{len(rows) - MAX_ROWS} more rows with {rest:,} slices; --json prints all", markup=False)


def _meaning(entry: dict[str, Any]) -> str:
    details = entry.get("details") or [""] * len(entry["examples"])
    pairs = zip(entry["examples"], details, strict=True)
    return "\n".join([entry["meaning"], *(f"- {file}: {detail}" if detail else f"- {file}" for file, detail in pairs)])


def _print_check_totals(checked: dict[str, Any]) -> None:
    files = f" in {format_count(checked['files'], 'file')}" if checked["files"] != checked["found"] else ""
    when = format_value(datetime.fromisoformat(checked["when"]))
    console.print(f"decoded {when}: {checked['found']:,} found{files}", markup=False)
    parts = f"= {checked['slices']:,} slices + {checked['refused_in_headers']:,} excluded by their headers"
    console.print(f"{parts} + {checked['refused_in_decoding']:,} by decoding", markup=False)
