"""How `ichx data` shows datasets to a person, within 80 columns. Not for finding out what there is to show."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from ichx.cli.formatting import format_value
from ichx.cli.output import console, info, warn
from ichx.cli.tables import print_table
from ichx.text import format_count

if TYPE_CHECKING:
    from ichx.datasets.add import AddReport

SYNTAXES = {
    "1.2.840.10008.1.2": "implicit VR",
    "1.2.840.10008.1.2.1": "explicit VR",
    "1.2.840.10008.1.2.1.99": "deflated",
    "1.2.840.10008.1.2.2": "big endian",
    "1.2.840.10008.1.2.5": "RLE",
    "1.2.840.10008.1.2.4.50": "JPEG 8 bit",
    "1.2.840.10008.1.2.4.51": "JPEG 12 bit",
    "1.2.840.10008.1.2.4.57": "JPEG lossless",
    "1.2.840.10008.1.2.4.70": "JPEG lossless",
    "1.2.840.10008.1.2.4.80": "JPEG-LS",
    "1.2.840.10008.1.2.4.81": "JPEG-LS lossy",
    "1.2.840.10008.1.2.4.90": "JPEG 2000",
    "1.2.840.10008.1.2.4.91": "JPEG 2000 lossy",
    "1.2.840.10008.1.2.4.201": "HTJ2K",
    "1.2.840.10008.1.2.4.202": "HTJ2K",
    "1.2.840.10008.1.2.4.203": "HTJ2K lossy",
}
"""Transfer syntaxes by the names that people use."""

MOST_ROWS = 12
"""Rows of a table that may have hundreds; --json has all."""


def show_added(added: "AddReport") -> None:
    """Show what `ichx data add` did."""
    version = added.version
    for message in added.messages:
        info(message)
    for warning in added.warnings:
        warn(warning)
    done = "added" if added.created else "nothing has changed:"
    console.print(f"{done} {version.dataset} version {version.number}: {version.slices:,} slices", markup=False)


def show_facts(facts: dict[str, Any]) -> None:
    """Show what `ichx.datasets.dataset.describe` tells of a version."""
    version, summary = facts["version"], facts["version"].summary
    what = f"test set of {version.test_of}" if version.test_of else "dataset"
    console.print(f"{version.dataset} version {version.number}, {what}: {version.source}", markup=False)
    counts = ("files", "slices", "patients", "studies", "series", "intercept_repaired", "window_missing")
    print_table("counts", ("what", "number"), [(name.replace("_", " "), summary[name]) for name in counts])
    _show_prevalences(facts)
    families = [_family(family) for family in facts["families"]]
    _long_table("headers", ("pixels", "slope", "intercept", "size", "transfer syntax", "slices"), families)
    _show_series(facts)
    if facts["defects"]:
        rows = [(d["reason"], d["files"], _with_examples(d)) for d in facts["defects"]]
        print_table("left out", ("reason", "files", "meaning"), rows)
    if facts["check"]:
        _say_sum(facts["check"])
        rows = [(r["reason"], r["files"], _with_examples(r)) for r in facts["check"]["reasons"] if _by_decoding(r)]
        if rows:
            print_table("cannot be decoded", ("reason", "files", "meaning"), rows)
    else:
        console.print(f"not decoded yet: `ichx data check {version.dataset}` does it", markup=False)
    if masks := summary.get("masks"):
        said = f"masks of {masks['slices']:,} slices; {masks['undrawn']:,} positive slices have none,"
        console.print(said, markup=False)
        rest = f"{masks['beyond_labels']:,} have a subtype that the labels lack, {masks['short_of_labels']:,} lack one"
        console.print(rest, markup=False)
    asked = summary.get("sample")
    if asked:
        said = f"sample: {asked['ids']:,} ids of {asked['images']:,} images; {asked['absent']:,} in no file,"
        console.print(said, markup=False)
        rest = f"{asked['defective']:,} in files left out; {asked['not_asked']:,} slices are not in it"
        console.print(rest, markup=False)


def show_checked(checked: dict[str, Any]) -> None:
    """Show what `ichx.cache.decode_check.check_dataset` found."""
    rows = [(r["reason"], r["seen_in"], r["files"], _with_examples(r)) for r in checked["reasons"]]
    if rows:
        print_table("refused", ("reason", "seen in", "files", "meaning"), rows)
    _say_sum(checked)


def _show_prevalences(facts: dict[str, Any]) -> None:
    version, shares = facts["version"], facts["version"].summary["prevalences"]
    if not shares:
        return
    whole = {"slices": version.slices, "patients": version.patients, "prevalences": shares}
    parts = [whole, *facts["folds"]]
    rows: list[tuple[object, ...]] = [(name, *(part[name] for part in parts)) for name in ("slices", "patients")]
    rows += [(label, *(f"{part['prevalences'][label]:.2%}" for part in parts)) for label in shares]
    columns = ("", "all", *(f"fold {part['fold']}" for part in facts["folds"]))
    print_table("share of positive slices", columns, rows, split=True)
    others = [fold_set.name for fold_set in version.folds[1:]]
    if others:
        console.print(f"other folds: {', '.join(others)}; see `ichx data folds {version.dataset}`", markup=False)


def _show_series(facts: dict[str, Any]) -> None:
    series = facts["series"]
    names = tuple(series["lengths"])
    print_table("slices in a series", names, [tuple(series["lengths"].values())])
    spacings = [f"{s['mm']:g} mm ({s['series']:,})" for s in series["spacings"]]
    more = f" and {len(spacings) - 6} others" if len(spacings) > 6 else ""
    if spacings:
        console.print(f"usual step between slices (series): {', '.join(spacings[:6])}{more}", markup=False)
    if series["tilted"]:
        tilt = f"tilted gantry: {series['tilted']:,} of {format_count(series['series'], 'series', 'series')}"
        console.print(f"{tilt}, by {series['median_tilt']:.1f} degrees in the middle", markup=False)
    if facts["geometry"]:
        rows = [(g["flag"].replace("_", " "), g["series"], g["slices"], _with_examples(g)) for g in facts["geometry"]]
        print_table("geometry", ("flag", "series", "slices", "meaning"), rows)


def _family(family: dict[str, Any]) -> tuple[object, ...]:
    sign = "signed" if family["signed"] else "unsigned"
    syntax = SYNTAXES.get(family["transfer_syntax"], family["transfer_syntax"])
    size = f"{family['rows']} x {family['columns']}"
    pixels = f"{family['bits_stored']} bit {sign}"
    return pixels, f"{family['slope']:g}", f"{family['intercept']:g}", size, syntax, family["slices"]


def _long_table(title: str, columns: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    print_table(title, columns, rows[:MOST_ROWS])
    if len(rows) > MOST_ROWS:
        rest = sum(int(str(row[-1])) for row in rows[MOST_ROWS:])
        console.print(f"and {len(rows) - MOST_ROWS} others, of {rest:,} slices; --json has all", markup=False)


def _with_examples(what: dict[str, Any]) -> str:
    return "\n".join([what["meaning"], *(f"- {example}" for example in what["examples"])])


def _by_decoding(reason: dict[str, Any]) -> bool:
    return bool(reason["seen_in"] == "decoding")


def _say_sum(checked: dict[str, Any]) -> None:
    files = f" in {format_count(checked['files'], 'file')}" if checked["files"] != checked["found"] else ""
    console.print(
        f"decoded {format_value(datetime.fromisoformat(checked['when']))}: {checked['found']:,} found{files}",
        markup=False,
    )
    parts = f"= {checked['slices']:,} slices + {checked['refused_in_headers']:,} refused in the headers"
    console.print(f"{parts} + {checked['refused_in_decoding']:,} in decoding", markup=False)
