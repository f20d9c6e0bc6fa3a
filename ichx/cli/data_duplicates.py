"""`ichx data duplicates`: near-duplicate images under different patients."""

from typing import Annotated

import typer

from ichx.cli.output import console, info, print_json, progress, warn
from ichx.cli.parameters import AsJson, DatasetName
from ichx.cli.session import session
from ichx.cli.tables import print_table

SHOWN = 20
"""Pairs of patients in the table; `--json` prints all."""


def duplicates(
    name: DatasetName,
    against: Annotated[str | None, typer.Option("--against", help="Compare with this dataset.")] = None,
    similarity: Annotated[float, typer.Option("--similarity", help="Least similarity of a pair, 0.5 to 1.")] = 0.85,
    processes: Annotated[int | None, typer.Option(min=1, help="Number of processes; default: one per core.")] = None,
    as_json: AsJson = False,
) -> None:
    """Find near-duplicate images of different patients.

    Compares perceptual hashes of the cached slices: copies are found if they were shifted, scaled, compressed or saved
    in another window. Needs a cache (`ichx data cache NAME --size 256`). Hashes are computed once.

    Example: `ichx data duplicates cq500 --against rsna`
    """
    from ichx.cache.duplicates import find_duplicates
    from ichx.text import format_count

    with session() as project, progress("comparing images") as report:
        found = find_duplicates(project, name, against, least=similarity, processes=processes, progress=report)
    if as_json:
        print_json(found)
        return
    subject = f"{found.dataset} version {found.version}"
    if against:
        subject += f" and {found.other} version {found.other_version}"
    counts = f"{format_count(found.slices, 'slice')}; {found.unhashed:,} show too little brain"
    if not found.patients:
        info(f"No near-duplicates of different patients in {subject}: {counts}.")
        return
    rows = [
        (
            p.patient,
            p.other_patient,
            p.pairs,
            f"{p.similarity:.3f}",
            p.slice_id,
            p.other_slice_id,
            "yes" if p.known else "no",
        )
        for p in found.patients[:SHOWN]
    ]
    heads = ("patient", "other patient", "pairs", "similarity", "slice", "other slice", "same id")
    cut = {"patient": 8, "other patient": 8, "slice": 12, "other slice": 12}
    print_table(f"near-duplicates in {subject}", heads, rows, cut=cut, drop=("similarity",))
    patients = format_count(len(found.patients), "pair of patients", "pairs of patients")
    console.print(f"{format_count(found.pairs, 'pair')} of slices, {patients}; {counts}", markup=False)
    if len(found.patients) > SHOWN:
        info(f"{len(found.patients) - SHOWN:,} more pairs of patients; --json prints all.")
    if unknown := sum(not p.known for p in found.patients):
        warn(f"{format_count(unknown, 'pair of patients', 'pairs of patients')} under different ids.")
