"""Decode check: decode every slice of a dataset once to find defects that headers do not show.

The findings are stored next to the catalog of the version (`ichx.datasets.decode_findings`). An interrupted check
resumes. A cache reports the same defects when it is built (`ichx.cache.hu_cache`).
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from ichx.ct.dicom import DECODER_VERSION, DicomDefectError
from ichx.datasets.catalog import usable_slices
from ichx.datasets.dataset import load_catalog
from ichx.datasets.decode_findings import CHECK_FILE, DecodeFindings, describe_findings, write_findings
from ichx.datasets.file_list import list_added_files
from ichx.datasets.ingest import ProgressCallback
from ichx.datasets.mixture import mixture_parts
from ichx.datasets.sources import SourceFile, SourceFiles, find_drift, read_source_slice
from ichx.errors import ConflictError
from ichx.files import path_of, write_error
from ichx.text import parse_json
from ichx.worker_pool import map_in_processes, worker_count

if TYPE_CHECKING:
    from ichx.project import Project


PART_FILE: Final = "check.part.jsonl"
CHUNK: Final = 128
"""Slices per job. An interruption loses at most the jobs that are running."""


@dataclass(frozen=True)
class DecodeJob:
    """Decode `files`, the slices from row `start` on."""

    start: int
    files: tuple[SourceFile, ...]


def check_dataset(
    project: "Project",
    name: str,
    number: int | None = None,
    *,
    processes: int | None = None,
    progress: ProgressCallback | None = None,
) -> dict[str, Any]:
    """Decode every slice of a dataset and store the findings.

    Args:
        project: The project.
        name: The dataset.
        number: Version; the newest when None.
        processes: Worker processes; one per core when None.
        progress: Receives (done, total) slices.

    Returns:
        The result of `describe_findings`, the `version`, and the `new` files that the catalog does not have.

    Raises:
        NotFoundError: The dataset or version does not exist.
        ConflictError: It is a mixture.
        ChangedDataError: Files of the dataset are missing or have changed.
        StorageError: The findings cannot be written.
    """
    version = project.store.version(name, number)
    if parts := mixture_parts(version):
        commands = " and ".join(f"`ichx data check {part.dataset}`" for part in parts)
        raise ConflictError(f"{name} is a mixture, whose files are those of its parts.", f"Use {commands}.")
    catalog = load_catalog(project.workspace, version)
    source = path_of(version.source)
    drift = find_drift(list_added_files(source).matching(version.summary.get("include", "")), catalog)
    drift.raise_if_changed(source)
    folder = project.workspace.root / version.path
    try:
        findings = _decode_slices(folder / PART_FILE, source, usable_slices(catalog), processes, progress)
        write_findings(folder / CHECK_FILE, findings)
        (folder / PART_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise write_error(folder / CHECK_FILE, "the findings", error) from error
    return {"version": version, **describe_findings(catalog, findings), "new": list(drift.new)}


def decode_chunk(job: DecodeJob) -> tuple[int, int, dict[str, str]]:
    """Return `job.start`, the number of slices, and row -> reason of each slice that cannot be decoded."""
    defects = {}
    for row, file in enumerate(job.files, job.start):
        try:
            read_source_slice(file)
        except DicomDefectError as defect:
            defects[str(row)] = defect.reason
    return job.start, len(job.files), defects


def _decode_slices(
    part: Path, source: Path, slices: pd.DataFrame, processes: int | None, progress: ProgressCallback | None
) -> DecodeFindings:
    """Decode `slices`, except those that an interrupted check has recorded in `part`. Raises `OSError`."""
    total = len(slices)
    header = {"decoder": DECODER_VERSION, "chunk": CHUNK}
    found = _read_part(part, header)
    todo = [start for start in range(0, total, CHUNK) if start not in found]
    done = sum(min(CHUNK, total - start) for start in found)
    files = SourceFiles(source, slices)
    jobs = (DecodeJob(start, files.select(range(start, min(start + CHUNK, total)))) for start in todo)
    if progress is not None:
        progress(done, total)
    with part.open("a", encoding="utf-8") as handle:
        if not found:
            handle.truncate(0)
            handle.write(json.dumps(header) + "\n")
        for start, decoded, defects in map_in_processes(decode_chunk, jobs, worker_count(processes, len(todo))):
            found[start] = defects
            handle.write(json.dumps({"start": start, "defects": defects}) + "\n")
            handle.flush()
            done += decoded
            if progress is not None:
                progress(done, total)
    ids = slices["slice_id"].to_numpy()
    by_id = {str(ids[int(row)]): reason for defects in found.values() for row, reason in defects.items()}
    return DecodeFindings(total, datetime.now(UTC).isoformat(timespec="seconds"), by_id)


def _read_part(path: Path, header: dict[str, int]) -> dict[int, dict[str, str]]:
    """Return the finished jobs of an interrupted check, by `start`; none if its header differs from `header`."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    found: dict[int, dict[str, str]] = {}
    for number, line in enumerate(lines):
        try:
            entry = parse_json(line)
        except ValueError:
            continue  # the process was killed while it wrote this line
        if number == 0 and entry != header:
            return {}
        if number:
            found[entry["start"]] = entry["defects"]
    return found
