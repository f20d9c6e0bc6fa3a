"""Decoding every slice of a dataset once, to find what its headers do not show.

The findings are stored next to the version's catalog (`ichx.datasets.decode_findings`). An interrupted check resumes. A
cache reports the same defects when it is built (`ichx.cache.hu_cache`).
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
from ichx.datasets.ingest import ProgressCallback
from ichx.datasets.sources import (
    SourceFile,
    SourceFiles,
    find_drift,
    list_files,
    read_source_slice,
)
from ichx.errors import IchxError
from ichx.worker_pool import run_jobs, worker_count

if TYPE_CHECKING:
    from ichx.project import Project


PART_FILE: Final = "check.part.jsonl"
CHUNK: Final = 128
"""Slices that a process decodes before it reports, and that an interruption may cost."""


@dataclass(frozen=True)
class CheckJob:
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
    """Decode every slice of a version; return `decode_findings.describe_findings` of it, `version` and `new` files.

    Raises `IchxError` for an unknown name or number, and where files are gone or have changed.
    """
    version = project.store.version(name, number)
    catalog = load_catalog(project.workspace, version)
    folder = project.workspace.root / version.path
    findings, new = check_slices(folder, Path(version.source), catalog, processes=processes, progress=progress)
    return {"version": version, **describe_findings(catalog, findings), "new": list(new)}


def check_slices(
    folder: Path,
    source: Path,
    catalog: pd.DataFrame,
    *,
    processes: int | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[DecodeFindings, tuple[str, ...]]:
    """Decode all usable slices of `catalog`; return the findings, and the names of files that it does not know.

    `folder` is the version's: the findings are kept there. Raises `IchxError` where `source` is gone, or files of the
    catalog are gone or changed.
    """
    files = list_files(source)
    drift = find_drift(files, catalog)
    drift.raise_if_changed(source)
    slices = usable_slices(catalog)
    total = len(slices)
    part = folder / PART_FILE
    found = _read_part(part)
    todo = [start for start in range(0, total, CHUNK) if start not in found]
    done = sum(min(CHUNK, total - start) for start in found)
    source_files = SourceFiles(source, slices)
    jobs = (CheckJob(start, source_files.select(range(start, min(start + CHUNK, total)))) for start in todo)
    workers = worker_count(processes, len(todo))
    if progress is not None:
        progress(done, total)
    try:
        with part.open("a", encoding="utf-8") as handle:
            if not found:
                handle.truncate(0)
                handle.write(json.dumps({"decoder": DECODER_VERSION, "chunk": CHUNK}) + "\n")
            for start, read, found_defects in run_jobs(decode_chunk, jobs, workers):
                found[start] = found_defects
                handle.write(json.dumps({"start": start, "defects": found_defects}) + "\n")
                handle.flush()
                done += read
                if progress is not None:
                    progress(done, total)
        ids = slices["slice_id"].to_numpy()
        named = {str(ids[int(row)]): reason for of_chunk in found.values() for row, reason in of_chunk.items()}
        findings = DecodeFindings(total, datetime.now(UTC).isoformat(timespec="seconds"), named)
        write_findings(folder / CHECK_FILE, findings)
        part.unlink(missing_ok=True)
    except OSError as error:
        what = error.strerror or str(error)
        raise IchxError(f"cannot write the findings to {folder}: {what}", "make room, or make it writable") from error
    return findings, drift.new


def decode_chunk(job: CheckJob) -> tuple[int, int, dict[str, str]]:
    """Return the job's `start`, its number of slices, and row -> reason of those that cannot be decoded."""
    undecoded = {}
    for row, file in enumerate(job.files, job.start):
        try:
            read_source_slice(file)
        except DicomDefectError as defect:
            undecoded[str(row)] = defect.reason
    return job.start, len(job.files), undecoded


def _read_part(path: Path) -> dict[int, dict[str, str]]:
    """Return the finished chunks of a check that was stopped; none where another decoder began it."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    found: dict[int, dict[str, str]] = {}
    for number, line in enumerate(lines):
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # the process was killed while it wrote this line
        if number == 0 and entry != {"decoder": DECODER_VERSION, "chunk": CHUNK}:
            return {}
        if number:
            found[entry["start"]] = entry["defects"]
    return found
