"""Findings of a decode check, stored next to a version's catalog. The check itself is in `ichx.cache.decode_check`."""

import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pandas as pd

from ichx.ct.dicom import DECODER_VERSION
from ichx.datasets.summary import defects
from ichx.errors import IchxError

CHECK_FILE: Final = "check.json"


@dataclass(frozen=True)
class Findings:
    """What decoding showed: `defects` is slice id -> reason, of the `slices` that were decoded until `when`."""

    slices: int
    when: str
    defects: Mapping[str, str]


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
    once per frame. `reasons` lists the reasons as `summary.defects` does, with `seen_in` (headers or decoding).
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


def write_findings(path: Path, findings: Findings) -> None:
    """Write `findings` to `path` atomically."""
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
