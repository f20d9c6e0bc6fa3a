"""What differs between a version of a dataset and what is added now, and header fields that the version lacks."""

import pandas as pd

from ichx.datasets.catalog import known_acquisition, write_catalog
from ichx.datasets.dataset import CATALOG_FILE, DEFAULT_FOLDS, load_catalog
from ichx.datasets.ingest import ACQUISITION
from ichx.datasets.ingest_report import IngestReport
from ichx.errors import IchxError
from ichx.store import DatasetVersion, VersionDraft
from ichx.workspace import Workspace


def version_changes(
    workspace: Workspace, latest: DatasetVersion, draft: VersionDraft, catalog: pd.DataFrame
) -> list[str]:
    """Return what differs between `latest` and `draft`; an empty list if no new version is needed."""
    before, after = latest.summary, draft.summary
    default_folds = [(f.k, f.seed, f.digest) for f in latest.folds if f.name == DEFAULT_FOLDS]
    differs = {
        "the location": latest.source != draft.source,
        "the files": latest.digest != draft.digest or _stored_times(workspace, latest) != _times(catalog),
        "the labels": latest.label_digest != draft.label_digest,
        "the masks": before.get("masks", {}).get("digest") != after.get("masks", {}).get("digest"),
        "the folds": default_folds != [(f.k, f.seed, f.digest) for f in draft.folds],
        "the sample": before.get("sample") != after.get("sample"),
        "the readers": before.get("readers") != after.get("readers"),
        "the flags of studies": before.get("flags") != after.get("flags"),
        "the grouping": before.get("group_by") != after.get("group_by"),
        "the storage of ids": before.get("keep_ids") != after.get("keep_ids"),
    }
    return [what for what, changed in differs.items() if changed]


def add_acquisition(workspace: Workspace, version: DatasetVersion, catalog: pd.DataFrame, report: IngestReport) -> None:
    """Add the acquisition fields of `catalog` to the stored catalog of the same files, if that has none."""
    stored = load_catalog(workspace, version)
    known = known_acquisition(catalog)
    if not known or known_acquisition(stored):
        return
    keys = ["file", "frame"]
    added = stored[keys].merge(catalog[[*keys, *ACQUISITION]], on=keys, how="left")
    complete = stored.assign(**{name: added[name].to_numpy() for name in ACQUISITION})
    write_catalog(complete, workspace.root / version.path / CATALOG_FILE)
    report.inform(f"Added header fields to version {version.number}: {', '.join(known)}.")


def _stored_times(workspace: Workspace, version: DatasetVersion) -> dict[str, int] | None:
    try:
        return _times(load_catalog(workspace, version))
    except IchxError:
        return None  # the message about a damaged catalog advises adding the dataset again: create a new version


def _times(catalog: pd.DataFrame) -> dict[str, int]:
    return dict(zip(catalog["file"], catalog["mtime_ns"], strict=True))
