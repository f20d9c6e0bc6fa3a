"""Findings of a decode check, stored next to a version's catalog. The check is in `ichx.cache.decode_check`."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ichx.ct.dicom import DECODER_VERSION
from ichx.errors import CorruptFileError
from ichx.files import write_text
from ichx.text import parse_json

if TYPE_CHECKING:
    import pandas as pd

CHECK_FILE: Final = "check.json"


@dataclass(frozen=True)
class DecodeFindings:
    """Result of decoding all slices of a version."""

    slices: int
    """Number of decoded slices."""
    when: str
    """End of the check, ISO 8601."""
    defects: dict[str, str]
    """Defect by slice id."""


def read_findings(folder: Path) -> DecodeFindings | None:
    """Return the findings in the version's `folder`; None without a check, or after one with another decoder.

    Raises `CorruptFileError` for a damaged file.
    """
    path = folder / CHECK_FILE
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        if content["decoder"] != DECODER_VERSION:
            return None
        return DecodeFindings(content["slices"], content["when"], content["defects"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptFileError(
            f"Cannot read {path}: {error}.", "Remove it, then rerun `ichx data check` for the dataset."
        ) from error


def describe_findings(catalog: "pd.DataFrame", findings: DecodeFindings) -> dict[str, Any]:
    """Return the counts of a checked dataset.

    `found` = `slices` + `refused_in_headers` + `refused_in_decoding`, in `files`; each frame of a file counts.
    `reasons` lists the defects as `describe_defects` does, with `seen_in` (headers or decoding).
    """
    from ichx.datasets.summary import describe_defects

    undecodable = undecodable_rows(catalog, findings)
    in_headers = int(catalog["defect"].notna().sum())
    return {
        "files": int(catalog["file"].nunique()),
        "found": len(catalog),
        "slices": len(catalog) - in_headers - len(undecodable),
        "refused_in_headers": in_headers,
        "refused_in_decoding": len(undecodable),
        "when": findings.when,
        "reasons": [
            {"seen_in": seen_in} | defect
            for seen_in, part in (("headers", catalog), ("decoding", undecodable))
            for defect in describe_defects(part)
        ],
    }


def undecodable_rows(catalog: "pd.DataFrame", findings: DecodeFindings) -> "pd.DataFrame":
    """Return the rows of the slices that could not be decoded, with their `defect`."""
    found = catalog[catalog["defect"].isna() & catalog["slice_id"].isin(list(findings.defects))]
    return found.assign(defect=found["slice_id"].map(findings.defects))


def write_findings(path: Path, findings: DecodeFindings) -> None:
    """Write `findings` to `path` atomically. Raises `StorageError`."""
    write_text(path, json.dumps({"decoder": DECODER_VERSION, **asdict(findings)}), "the findings")
