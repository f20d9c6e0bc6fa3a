"""Decoding every slice of a dataset once, to find what its headers do not show.

The findings stand beside the version's catalog, where `ichx.data.dataset.describe` finds them. A check that was stopped
goes on where it was. Not for training: a cache names the same defects itself when it is built (`ichx.data.cache`).
"""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pandas as pd

from ichx.ct.dicom import DicomDefectError
from ichx.data.cache import DECODER_VERSION
from ichx.data.catalog import usable
from ichx.data.ingest import Progress
from ichx.data.sources import ADD_AGAIN, SourceFile, SourceFiles, find_drift, list_files, read_known
from ichx.data.summary import defects
from ichx.errors import IchxError
from ichx.processes import run_jobs, worker_count

CHECK_FILE: Final = "check.json"
PART_FILE: Final = "check.part.jsonl"
CHUNK: Final = 128
"""Slices that a process decodes before it reports, and that an interruption may cost."""


@dataclass(frozen=True)
class Findings:
    """What decoding showed: `defects` is slice id -> reason, of the `slices` that were decoded until `when`."""

    slices: int
    when: str
    defects: Mapping[str, str]


@dataclass(frozen=True)
class CheckJob:
    """Decode `files`, the slices from row `start` on."""

    start: int
    files: tuple[SourceFile, ...]


def check_slices(
    folder: Path, source: Path, catalog: pd.DataFrame, *, processes: int | None = None, progress: Progress | None = None
) -> tuple[Findings, tuple[str, ...]]:
    """Decode all usable slices of `catalog`; return the findings, and the names of files that it does not know.

    `folder` is the version's: the findings are kept there. Raises `IchxError` where `source` is gone, or files of the
    catalog are gone or changed.
    """
    files = list_files(source)
    drift = find_drift(files, catalog)
    if drift.told:
        raise IchxError(f"{source} is not what it was when the dataset was added: {drift.told}", ADD_AGAIN)
    slices = usable(catalog)
    total = len(slices)
    part = folder / PART_FILE
    found = _read_part(part)
    todo = [start for start in range(0, total, CHUNK) if start not in found]
    done = sum(min(CHUNK, total - start) for start in found)
    of = SourceFiles(source, slices)
    jobs = (CheckJob(start, of.of(range(start, min(start + CHUNK, total)))) for start in todo)
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
        findings = Findings(total, datetime.now(UTC).isoformat(timespec="seconds"), named)
        _write(folder / CHECK_FILE, findings)
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
            read_known(file)
        except DicomDefectError as defect:
            undecoded[str(row)] = defect.reason
    return job.start, len(job.files), undecoded


def read_findings(folder: Path) -> Findings | None:
    """Return the findings that stand in the version's `folder`, or None where it was never checked.

    Findings of another decoder do not count. Raises `IchxError` where they are damaged.
    """
    path = folder / CHECK_FILE
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        if kept["decoder"] != DECODER_VERSION:
            return None
        return Findings(kept["slices"], kept["when"], kept["defects"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IchxError(f"{path} cannot be read: {error}", "remove it, and check the dataset again") from error


def told(catalog: pd.DataFrame, findings: Findings) -> dict[str, Any]:
    """Return what a checked dataset amounts to; the counts add up.

    `found` = `slices` + `refused_in_headers` + `refused_in_decoding`, in `files`: a file of several frames is found
    once per frame. `reasons` lists what is behind these, as `ichx.data.summary.defects` does, with `seen_in` (headers
    or decoding).
    """
    undecoded = catalog[catalog["defect"].isna() & catalog["slice_id"].isin(list(findings.defects))]
    undecoded = undecoded.assign(defect=undecoded["slice_id"].map(dict(findings.defects)))
    in_headers = int(catalog["defect"].notna().sum())
    return {
        "files": int(catalog["file"].nunique()),
        "found": len(catalog),
        "slices": len(catalog) - in_headers - len(undecoded),
        "refused_in_headers": in_headers,
        "refused_in_decoding": len(undecoded),
        "when": findings.when,
        "reasons": [
            {"seen_in": seen_in} | reason
            for seen_in, refused in (("headers", catalog), ("decoding", undecoded))
            for reason in defects(refused)
        ],
    }


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


def _write(path: Path, findings: Findings) -> None:
    kept = {
        "decoder": DECODER_VERSION,
        "slices": findings.slices,
        "when": findings.when,
        "defects": dict(findings.defects),
    }
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with draft.open("w", encoding="utf-8") as handle:
            json.dump(kept, handle)
            handle.flush()
            os.fsync(handle.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
