"""`ichx data formats` and the replicas of `ichx data phantom --layout`."""

from pathlib import Path

from ichx.cli.output import info, print_json, progress, warn
from ichx.cli.parameters import AsJson
from ichx.cli.tables import print_table


def list_formats(as_json: AsJson = False) -> None:
    """List the formats of public datasets.

    Example: `ichx data formats`
    """
    from ichx.datasets.formats.registry import load_formats

    registry = load_formats()
    for warning in registry.warnings:
        warn(warning)
    if as_json:
        facts = [
            {"name": f.name, "title": f.title, "licence": f.licence, "replica": f.write_replica is not None}
            for f in registry.formats.values()
        ]
        print_json(facts)
        return
    rows = [(f.name, f.title, f.licence) for f in registry.formats.values()]
    print_table("formats", ("name", "content", "terms of use"), rows)


def write_layout(folder: Path, layout: str, patients: int, seed: int, size: int) -> None:
    """Write a replica of the format `layout` and print how to add it."""
    from ichx.datasets.formats.contract import ReplicaOptions
    from ichx.datasets.formats.replica import write_replica
    from ichx.text import format_command

    with progress("writing studies") as report:
        written = write_replica(folder, layout, ReplicaOptions(patients, seed, size), progress=report)
    info(f"Wrote {written.slices:,} slices in the layout of {layout} to {written.folder}.")
    info(f"Next: {format_command('ichx data add', layout, written.folder, '--format', layout)}")
