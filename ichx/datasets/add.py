"""Adding a version of a dataset to the workspace. Versions are read in `dataset`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ichx.datasets.attached_masks import attached_volume_masks
from ichx.datasets.catalog import (
    build_catalog,
    catalog_digest,
    label_digest,
    usable_slices,
)
from ichx.datasets.dataset import DEFAULT_FOLDS, load_dataset
from ichx.datasets.file_ids import with_file_ids
from ichx.datasets.folds import fold_digest
from ichx.datasets.formats.contract import FormatContents
from ichx.datasets.formats.registry import read_format
from ichx.datasets.id_matching import match_images
from ichx.datasets.identity import GroupBy
from ichx.datasets.ingest import ProgressCallback, scan_source
from ichx.datasets.ingest_report import IngestReport
from ichx.datasets.label_csv import read_sample
from ichx.datasets.label_sheet import SheetColumns
from ichx.datasets.label_table import LabelTable
from ichx.datasets.masks import read_masks
from ichx.datasets.new_folds import new_folds
from ichx.datasets.new_version import check_name, require_usable_slices, store_version
from ichx.datasets.overlap import IDENTITY_FILE, find_overlaps, identity_keys
from ichx.datasets.prepared_version import PreparedVersion
from ichx.datasets.requested_labels import join_requested_labels, read_label_file
from ichx.datasets.sample_counts import sample_counts
from ichx.datasets.series_rules import SERIES_CHOICES, SeriesChoice, read_series_rules
from ichx.datasets.series_selection import select_series
from ichx.datasets.shared_patients import count_in_training
from ichx.datasets.study_flags import studies_of_format, table_summary
from ichx.datasets.study_labels import with_study_labels
from ichx.datasets.summary import summarize
from ichx.datasets.unscored_labels import with_unscored_labels
from ichx.datasets.version_changes import add_acquisition, version_changes
from ichx.datasets.volume_mask_store import store_volume_masks
from ichx.errors import ConflictError, InvalidInputError
from ichx.files import absolute_path, printable_path
from ichx.store import DatasetVersion, FoldDraft, Store, VersionDraft
from ichx.text import format_examples

if TYPE_CHECKING:
    from ichx.project import Project


@dataclass(frozen=True)
class AddRequest:
    """What `add_dataset` adds."""

    name: str
    source: Path
    """A folder, a zip, a folder in a zip, or a DICOM or NIfTI file."""
    labels: Path | None = None
    """Label CSV or spreadsheet: makes the dataset trainable."""
    columns: SheetColumns | None = None
    """Columns of the spreadsheet `labels`; None for a CSV with the six labels of every slice."""
    test_of: str | None = None
    """The dataset whose test set this is."""
    sample: Path | None = None
    """Sample submission of a test set."""
    label_tables: tuple[LabelTable, ...] = ()
    """Labels that are read already, beside or instead of `labels`."""
    masks: Path | None = None
    """Folder or zip of masks, see `ichx.datasets.masks`."""
    folds: int = 5
    """Number of patient-grouped folds of a labelled dataset; 0 for none, of a dataset that is only evaluated."""
    fold_seed: int = 0
    keep_ids: bool = False
    """Store patient, study and series ids instead of their keyed hashes."""
    format: str | None = None
    """Name of the format of `source`, see `ichx.datasets.formats`."""
    group_by: GroupBy = "patient"
    """What counts as a patient: `study` ignores the PatientIDs, for files in which they are placeholders."""
    format_options: Mapping[str, str] = field(default_factory=dict)
    """Values of options of the format by name."""
    series: SeriesChoice | None = None
    """`auto` selects one series per study by the rules in `series_rules`; `all` adds every series; None does what the
    format prefers, and adds every series without a format."""
    series_rules: Path | None = None
    """TOML file with the rules of `series="auto"`; None for the default ones, see `ichx.datasets.series_rules`."""

    @property
    def labelled(self) -> bool:
        """Whether it brings labels, which make the dataset trainable, or may do so as its format has them."""
        return self.labels is not None or bool(self.label_tables) or bool(self.format or self.masks)


@dataclass(frozen=True)
class AddReport:
    """Result of `add_dataset`."""

    version: DatasetVersion
    created: bool
    """False if nothing has changed; `version` is the existing one then."""
    messages: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class CheckReport:
    """Result of `check_dataset`."""

    slices: int
    patients: int
    summary: dict[str, Any]
    """See `DatasetVersion.summary`."""
    messages: tuple[str, ...]
    warnings: tuple[str, ...]


def add_dataset(project: "Project", request: AddRequest, *, progress: ProgressCallback | None = None) -> AddReport:
    """Add a dataset, or the next version of an existing one; unchanged files create no version.

    Args:
        project: Workspace and store.
        request: What to add.
        progress: Receives (done, total) files.

    Raises:
        InvalidInputError: An argument or a file is invalid.
        ConflictError: The request contradicts the dataset's versions.
        IchxError: Files cannot be read or written. No error leaves files or rows in the store.
    """
    _check_request(project.store, request)
    report = IngestReport()
    prepared = _prepare(project, request, report, progress)
    draft = _draft(request, prepared)
    exists = any(dataset.name == request.name for dataset in project.store.datasets())
    latest = project.store.version(request.name) if exists else None
    if latest is not None:
        changes = version_changes(project.workspace, latest, draft, prepared.catalog)
        if not changes:
            add_acquisition(project.workspace, latest, prepared.catalog, report)
            return AddReport(latest, False, tuple(report.messages), tuple(report.warnings))
        report.inform(f"Changed since version {latest.number}: {', '.join(changes)}.")
        if imported := [f.name for f in latest.folds if f.name != DEFAULT_FOLDS]:
            report.warn(f"Version {latest.number} has imported folds ({', '.join(imported)}); import them again.")
    version = store_version(project, draft, 1 if latest is None else latest.number + 1, prepared.write)
    return AddReport(version, True, tuple(report.messages), tuple(report.warnings))


def check_dataset(project: "Project", request: AddRequest, *, progress: ProgressCallback | None = None) -> CheckReport:
    """Return what `add_dataset` would add, and add nothing. Raises like it."""
    _check_request(project.store, request)
    report = IngestReport()
    prepared = _prepare(project, request, report, progress)
    draft = _draft(request, prepared)
    return CheckReport(
        draft.slices, draft.patients, dict(draft.summary), tuple(report.messages), tuple(report.warnings)
    )


def _check_request(store: Store, request: AddRequest) -> None:
    name, test_of = request.name, request.test_of
    check_name(name, "a dataset")
    if request.group_by not in ("patient", "study"):
        raise InvalidInputError(f"Invalid grouping: {request.group_by!r}.", "Use 'patient' or 'study'.")
    if request.series not in (None, *SERIES_CHOICES):
        raise InvalidInputError(f"Invalid selection of series: {request.series!r}.", "Use 'auto' or 'all'.")
    if request.format_options and request.format is None:
        raise InvalidInputError("--format-option requires --format.", "Name the format: --format NAME.")
    if not 0 <= request.fold_seed < 1 << 63:
        raise InvalidInputError(f"Invalid seed of the folds: {request.fold_seed}.", "Use 0 to 2**63 - 1.")
    if test_of is not None and request.labelled:
        raise InvalidInputError(
            "--test-of and --labels exclude each other: a test set has no labels.",
            "Omit --labels, or omit --test-of to add a labelled dataset.",
        )
    if request.columns is not None and request.labels is None:
        raise InvalidInputError("--id-column, --label, --sheet and the like require --labels.", "Give --labels, too.")
    if request.sample is not None and test_of is None:
        raise InvalidInputError("--sample requires --test-of.", "Name the training set: --test-of TRAIN.")
    if test_of == name:
        raise InvalidInputError(f"{name!r} cannot be its own test set.", "Give the test set another name.")
    if test_of is not None and not store.dataset(test_of).trainable:
        raise ConflictError(f"Dataset {test_of!r} has no labels.", "Name a labelled dataset.")
    for dataset in store.datasets():
        if dataset.name != name:
            continue
        if store.version(name).part_names:
            raise ConflictError(f"Dataset {name!r} is a mixture.", "Choose another name, or use `ichx data mix`.")
        if dataset.test_of != test_of:
            kind = f"the test set of {dataset.test_of!r}" if dataset.test_of else "not a test set"
            raise ConflictError(f"Dataset {name!r} exists and is {kind}.", "Choose another name.")
        if dataset.trainable and not request.labelled:
            raise ConflictError(f"Dataset {name!r} has labels.", "Give --labels, or choose another name.")
        if not request.masks and not request.format and "masks" in store.version(name).summary:
            raise ConflictError(f"Dataset {name!r} has masks.", "Give --masks, or choose another name.")


def _prepare(
    project: "Project", request: AddRequest, report: IngestReport, progress: ProgressCallback | None
) -> PreparedVersion:
    """Read everything that `request` names, and report it."""
    tables = [*([read_label_file(request.labels, request.columns)] if request.labels else []), *request.label_tables]
    sample = read_sample(request.sample) if request.sample else None
    source = absolute_path(request.source)
    contents = read_format(request.format, source, request.format_options) if request.format else FormatContents()
    tables += contents.labels
    source = source / contents.folder
    scan = with_file_ids(scan_source(source, include=contents.include, progress=progress), contents.ids)
    catalog, counts = build_catalog(scan, project.workspace.privacy_key(), request.group_by, keep_ids=request.keep_ids)
    require_usable_slices(source, catalog)
    selection = _select_series(request, contents.series, scan, catalog, report)
    catalog, counts = selection[0], counts | selection[1]
    volume_masks = attached_volume_masks(
        request.masks and absolute_path(request.masks), absolute_path(request.source), contents, catalog, report
    )
    if volume_masks is None and request.masks and not tables:
        raise InvalidInputError("--masks with PNG files requires --labels.", "Give --labels, too.")
    if volume_masks is not None and (contents.labels_from_masks or not tables):
        tables.append(volume_masks.labels(catalog, "the masks"))
        report.inform("Slices of volumes with a mask are labelled by the masks.")
    joined = join_requested_labels(tables, source, scan, catalog)
    if joined is not None:
        catalog = joined.catalog
    study_labels = None if joined is None else joined.groups
    known = catalog if study_labels is None else with_study_labels(catalog, study_labels)
    known = with_unscored_labels(known)
    slices = usable_slices(known)
    summary = summarize(known) | counts | {"keep_ids": request.keep_ids}
    if request.group_by != "patient":
        summary["group_by"] = request.group_by
    if request.format:
        summary |= {"format": request.format, "include": contents.include}
        report.add_notes(request.format, contents.notes)
    report.add_catalog(catalog, slices, summary)
    if joined is not None:
        report.add_labels(joined, slices)
        summary |= joined.summary(slices)
    if sample is not None and request.sample is not None:
        sample_match = match_images(catalog, sample.images, request.sample)
        summary["sample"] = sample_counts(sample, sample_match, len(slices))
        report.add_sample(summary["sample"], sample_match)
    masks = None
    if volume_masks is not None:
        masks, found = store_volume_masks(volume_masks, catalog, report, published=request.format is not None)
        summary |= {"masks": found} if masks is not None else {}
    elif request.masks is not None:
        masks, summary["masks"] = read_masks(absolute_path(request.masks), catalog, report)
    identity = _find_overlaps(project, request, scan, catalog, report)
    if request.test_of is not None:
        train = load_dataset(project, request.test_of)
        by_study = "study" in (request.group_by, train.version.summary.get("group_by"))
        shared = count_in_training(project.workspace, slices, identity, train, by_study=by_study)
        report.add_shared(request.test_of, *shared)
    tables_of = {IDENTITY_FILE: identity}
    for file, (name, found_table) in studies_of_format(contents, catalog, scan, report).items():
        tables_of[file], summary[name] = found_table, table_summary(found_table)
    folds = None
    if joined is not None and request.folds:
        folds = new_folds(slices, request.folds, request.fold_seed, report)
    return PreparedVersion(
        source, catalog, slices, joined is not None, summary, study_labels, folds, masks, sample, tables_of
    )


def _find_overlaps(
    project: "Project", request: AddRequest, scan: pd.DataFrame, catalog: pd.DataFrame, report: IngestReport
) -> pd.DataFrame:
    """Report patients that are also in other datasets; return the hashes by which they are recognized."""
    key = project.workspace.privacy_key()
    identity = identity_keys(scan, catalog, key, by_study=request.group_by == "study")
    good = catalog[catalog["defect"].isna()]
    overlaps, unread = find_overlaps(project, {request.name, request.test_of}, identity, good)
    for line in [*map(str, overlaps), *unread]:
        report.warn(line)
    return identity


def _select_series(
    request: AddRequest, default: SeriesChoice, scan: pd.DataFrame, catalog: pd.DataFrame, report: IngestReport
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return `catalog` after the selection of series, and its counts for the summary."""
    if (request.series or default) == "all":
        if request.series_rules is not None:
            raise InvalidInputError("--series-rules requires --series auto.", "Add --series auto.")
        return catalog, {}
    rules = read_series_rules(request.series_rules)
    catalog, selection = select_series(catalog, scan["image_type"], rules)
    if not selection.selected:
        raise InvalidInputError(
            f"No study of {request.source} has a series that the rules accept"
            f"{format_examples(selection.without, len(selection.without))}.",
            "Use `--series all`, or other rules with `--series-rules FILE`.",
        )
    report.add_selection(selection)
    return catalog, {"series_selection": selection.to_dict(rules)}


def _draft(request: AddRequest, prepared: PreparedVersion) -> VersionDraft:
    slices = prepared.slices
    folds: tuple[FoldDraft, ...] = ()
    if prepared.folds is not None:
        digest = fold_digest(slices["slice_id"].to_numpy(object), prepared.folds)
        folds = (FoldDraft(DEFAULT_FOLDS, request.folds, request.fold_seed, digest),)
    return VersionDraft(
        dataset=request.name,
        test_of=request.test_of,
        source=printable_path(prepared.source),
        path="",
        digest=catalog_digest(prepared.catalog),
        label_digest=label_digest(slices) if prepared.labelled else None,
        slices=len(slices),
        patients=int(slices["patient"].nunique()),
        defects=int(prepared.catalog["defect"].notna().sum()),
        sample=None,
        summary=prepared.summary,
        folds=folds,
    )
