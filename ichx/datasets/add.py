"""Adding a version of a dataset to the workspace: what is found at a path is matched, checked, divided and kept.

The version's folder is written first, under another name, and renamed: without its row in the store it counts for
nothing. Reading a version is in `ichx.datasets.dataset`.
"""

import dataclasses
import hashlib
import re
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.catalog import (
    build_catalog,
    catalog_digest,
    label_digest,
    usable,
    write_catalog,
    write_parquet,
)
from ichx.datasets.dataset import CATALOG_FILE, DEFAULT_FOLDS, SAMPLE_FILE, folds_file, load_catalog, load_dataset
from ichx.datasets.folds import assign_folds, fold_digest, rare_labels
from ichx.datasets.id_matching import Match, join_labels, match_images
from ichx.datasets.ingest import Progress, scan_source
from ichx.datasets.ingest_report import catalog_told, shared_told, tell_labels, tell_sample
from ichx.datasets.label_csv import SampleTable, read_labels, read_sample
from ichx.datasets.masks import MASKS_FILE, masks_frame, read_masks
from ichx.datasets.summary import summarize
from ichx.errors import IchxError
from ichx.labels import LABELS
from ichx.store import DatasetVersion, FoldDraft, Store, VersionDraft
from ichx.text import format_count
from ichx.workspace import Workspace

if TYPE_CHECKING:
    from ichx.project import Project


@dataclass(frozen=True)
class AddReport:
    """What `add_dataset` did. `created` is False when nothing had changed and `version` is the one that was there.

    `messages` tell what was found, `warnings` what deserves a look.
    """

    version: DatasetVersion
    created: bool
    messages: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class AddRequest:
    """What `add_dataset` adds.

    With `labels` the dataset is trainable and gets `folds` patient-grouped folds drawn with `fold_seed`; `masks` show
    where the slices bleed (see `ichx.datasets.masks`). With `test_of` it is a test set of that dataset, and `sample`
    has the ids of its submission.
    """

    name: str
    source: Path
    """A folder, a zip, a folder in a zip, or one DICOM file."""
    labels: Path | None = None
    test_of: str | None = None
    sample: Path | None = None
    masks: Path | None = None
    folds: int = 5
    fold_seed: int = 0
    keep_ids: bool = False
    """Store patient, study and series ids as they are instead of as keyed hashes."""


def add_dataset(project: "Project", request: AddRequest, *, progress: Progress | None = None) -> AddReport:
    """Add a dataset, or the next version of an existing one; unchanged files create no version.

    Args:
        project: Workspace and store to add it to.
        request: What to add.
        progress: Receives (done, total) files.

    Raises:
        IchxError: The request contradicts the store, or files cannot be used. Nothing is stored then.
    """
    name, labels, test_of, sample, masks = request.name, request.labels, request.test_of, request.sample, request.masks
    folds, fold_seed, keep_ids = request.folds, request.fold_seed, request.keep_ids
    _check_request(project.store, name, labels, test_of, sample, masks)
    source = request.source.expanduser().resolve()
    table = read_labels(labels) if labels else None
    asked = read_sample(sample) if sample else None
    catalog, counts = build_catalog(
        scan_source(source, progress=progress), None if keep_ids else project.workspace.privacy_key()
    )
    require_usable_slices(source, catalog)
    match, sample_match = None, None
    if table is not None and labels is not None:
        catalog, match = join_labels(catalog, table, labels)
    if asked is not None and sample is not None:
        sample_match = match_images(catalog, asked.images, sample)
    slices = usable(catalog)
    summary = summarize(catalog) | counts | {"keep_ids": keep_ids}
    messages, warnings = catalog_told(catalog, slices, summary)
    if match is not None and table is not None:
        tell_labels(table, match, summary, messages, warnings)
    if sample_match is not None and asked is not None:
        summary["sample"] = _sample_facts(asked, sample_match, len(slices))
        tell_sample(summary["sample"], sample_match, messages, warnings)
    drawn = None if masks is None else read_masks(masks.expanduser().resolve(), catalog)
    if drawn is not None:
        summary["masks"] = drawn.facts
        messages += drawn.messages
        warnings += drawn.warnings
    if test_of is not None:
        warnings += shared_told(slices, load_dataset(project, test_of).slices, test_of)
    fold = None
    if table is not None:
        patients, truth = slices["patient"].to_numpy(object), slices[list(LABELS)].to_numpy(np.float32)
        fold = assign_folds(slices["slice_id"].to_numpy(object), patients, truth, folds, fold_seed)
        rare = rare_labels(patients, truth, folds)
        if rare:
            told = ", ".join(f"{label} ({count})" for label, count in rare.items())
            warnings.append(f"in fewer patients than {folds} folds, so that some folds have none: {told}")
    known = [dataset for dataset in project.store.datasets() if dataset.name == name]
    latest = project.store.version(name) if known else None
    number = 1 if latest is None else latest.number + 1
    wanted = project.workspace.datasets_dir / name / f"v{number}"
    draft = VersionDraft(
        dataset=name,
        test_of=test_of,
        source=str(source),
        path="",
        digest=catalog_digest(catalog),
        label_digest=None if table is None else label_digest(slices),
        slices=len(slices),
        patients=int(slices["patient"].nunique()),
        defects=int(catalog["defect"].notna().sum()),
        sample=None,
        summary=summary,
        folds=()
        if fold is None
        else (FoldDraft(DEFAULT_FOLDS, folds, fold_seed, fold_digest(slices["slice_id"].to_numpy(object), fold)),),
    )
    if latest is not None:
        changes = _changes(project.workspace, latest, draft, catalog)
        if not changes:
            return AddReport(latest, False, tuple(messages), tuple(warnings))
        messages.append(f"changed since version {latest.number}: {', '.join(changes)}")
        imported = [f.name for f in latest.folds if f.name != DEFAULT_FOLDS]
        if imported:
            warnings.append(
                f"imported folds do not come along ({', '.join(imported)}): import them again with `ichx data folds`"
            )

    def write(into: Path) -> None:
        write_catalog(catalog, into / CATALOG_FILE)
        if fold is not None:
            of_patient = pd.DataFrame({"patient": slices["patient"], "fold": fold}).drop_duplicates()
            write_parquet(of_patient, into / folds_file(DEFAULT_FOLDS))
        if drawn is not None:
            write_parquet(masks_frame(drawn), into / MASKS_FILE)
        if asked is not None:
            pd.DataFrame({"ID": asked.ids, "Label": 0.5}).to_csv(into / SAMPLE_FILE, index=False)

    folder = write_folder(wanted, write)
    path = folder.relative_to(project.workspace.root).as_posix()
    placed = dataclasses.replace(draft, path=path, sample=f"{path}/{SAMPLE_FILE}" if asked else None)
    try:
        version = project.store.add_version(placed)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return AddReport(version, True, tuple(messages), tuple(warnings))


def _check_request(
    store: Store, name: str, labels: Path | None, test_of: str | None, sample: Path | None, masks: Path | None
) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
        raise IchxError(
            f"{name!r} is no name for a dataset",
            "use letters, digits, '-', '_' and '.', at most 100, not beginning with '-' or '.'",
        )
    if test_of is not None and labels is not None:
        raise IchxError(
            "a test set has no labels here: --test-of and --labels exclude each other",
            "leave out --labels, or leave out --test-of to make a dataset of its own",
        )
    if masks is not None and labels is None:
        raise IchxError("--masks say where labelled slices bleed, and there are no --labels", "give --labels, too")
    if sample is not None and test_of is None:
        raise IchxError("--sample belongs to a test set", "say whose test set it is: --test-of TRAIN")
    if test_of is not None:
        if test_of == name:
            raise IchxError(f"{name!r} cannot be its own test set", "give the test set another name")
        if not store.dataset(test_of).trainable:
            raise IchxError(f"dataset {test_of!r} has no labels", "a test set belongs to a labelled dataset")
    for dataset in store.datasets():
        if dataset.name == name and dataset.test_of != test_of:
            now = f"a test set of {dataset.test_of!r}" if dataset.test_of else "a dataset of its own"
            raise IchxError(f"{name!r} is {now} already", "choose another name")
        if dataset.name == name and dataset.trainable and labels is None:
            raise IchxError(f"{name!r} has labels in its earlier versions", "give --labels, or choose another name")
        if dataset.name == name and masks is None and "masks" in store.version(name).summary:
            raise IchxError(f"{name!r} has masks in its earlier versions", "give --masks, or choose another name")


def require_usable_slices(source: Path, catalog: pd.DataFrame) -> None:
    """Raise an `IchxError` that counts the reasons where no file of `source` in `catalog` is a usable slice."""
    reasons = catalog["defect"].value_counts()
    if catalog["defect"].isna().any():
        return
    looked = format_count(len(catalog), "file")
    if set(reasons.index) == {"not_dicom"}:
        raise IchxError(f"no DICOM in {source}: looked at {looked}", "give the folder that holds the DICOM files")
    told = ", ".join(f"{reason} ({count:,})" for reason, count in reasons.items())
    raise IchxError(f"no usable CT slice in {source}: {looked} refused as {told}", "give a folder with CT slices")


def _sample_facts(asked: SampleTable, match: Match, slices: int) -> dict[str, Any]:
    matched = int((match.image >= 0).sum())
    return {
        "ids": len(asked.ids),
        "images": len(asked.images),
        "by": match.by,
        "digest": _text_digest(asked.ids),
        "absent": match.absent,
        "defective": match.defective,
        "not_asked": slices - matched,
    }


def _text_digest(ids: npt.NDArray[np.object_]) -> str:
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()[:16]


def _changes(workspace: Workspace, latest: DatasetVersion, draft: VersionDraft, catalog: pd.DataFrame) -> list[str]:
    """Return what differs between `latest` and `draft`, in words; nothing when no new version is due."""
    changes = []
    if latest.source != draft.source:
        changes.append("the place")
    if latest.digest != draft.digest or _known_times(workspace, latest) != _times(catalog):
        changes.append("the files")
    if latest.label_digest != draft.label_digest:
        changes.append("the labels")
    if _mask_digest(latest.summary) != _mask_digest(draft.summary):
        changes.append("the masks")
    before = [(f.k, f.seed, f.digest) for f in latest.folds if f.name == DEFAULT_FOLDS]
    if before != [(f.k, f.seed, f.digest) for f in draft.folds]:
        changes.append("the folds")
    if latest.summary.get("sample") != draft.summary.get("sample"):
        changes.append("the sample")
    if latest.summary.get("keep_ids") != draft.summary.get("keep_ids"):
        changes.append("how ids are kept")
    return changes


def _mask_digest(summary: Mapping[str, Any]) -> object:
    return summary.get("masks", {}).get("digest")


def _known_times(workspace: Workspace, version: DatasetVersion) -> dict[str, int] | None:
    try:
        return _times(load_catalog(workspace, version))
    except IchxError:
        return None  # gone or damaged: what it tells the user to do, adding again, must make a whole version


def _times(catalog: pd.DataFrame) -> dict[str, int]:
    return dict(zip(catalog["file"], catalog["mtime_ns"], strict=True))


def write_folder(wanted: Path, write: Callable[[Path], None]) -> Path:
    """Let `write` fill the folder of a version, which is complete or absent, and return it.

    It is `wanted`, or a name beside it where that is taken: by the rest of a try that broke before its row was in the
    store, or by another process that adds the same dataset at this moment.
    """
    draft = wanted.with_name(f".{wanted.name}.{secrets.token_hex(4)}")
    try:
        draft.mkdir(parents=True)
        write(draft)
        folder = wanted.with_name(f"{wanted.name}-{secrets.token_hex(4)}") if wanted.exists() else wanted
        return draft.rename(folder)
    except OSError as error:
        what = error.strerror or str(error)
        remedy = "make room there, or make it writable, and add the dataset again"
        raise IchxError(f"cannot write the dataset to {wanted}: {what}", remedy) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
