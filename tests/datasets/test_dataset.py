"""Adding and loading datasets."""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from dicom_files import head, write_ct, write_study
from zip_files import change_entry, zip_folder

from ichx.cache.build import ensure_cache
from ichx.cache.hu_cache import CacheSpec, slices_digest
from ichx.datasets.add import AddReport, AddRequest, add_dataset
from ichx.datasets.catalog import catalog_digest, read_catalog, usable_slices
from ichx.datasets.dataset import describe_dataset, load_catalog, load_dataset, load_folds
from ichx.errors import (
    ChangedDataError,
    ConflictError,
    CorruptFileError,
    IchxError,
    InvalidInputError,
    NotFoundError,
    StorageError,
)
from ichx.labels import LABELS
from ichx.project import Project
from ichx.store import Store, open_store
from ichx.workspace import Workspace, init_workspace


class Cohort:
    """A folder of studies with its label CSV."""

    def __init__(self, root: Path, patients: int = 6, slices: int = 4) -> None:
        self.files, self.labels = root / "files", root / "labels.csv"
        self.ids = [i for p in range(patients) for i in write_study(self.files / f"p{p}", str(p), slices)]
        self.positive = set(self.ids[::3])
        self.write_labels()

    def write_labels(self, images: list[str] | None = None, extra: str = "") -> None:
        rows = [
            f"{i}_{label},{int(i in self.positive and label != 'epidural')}"
            for i in images or self.ids
            for label in LABELS
        ]
        self.labels.write_text("ID,Label\n" + "\n".join(rows) + "\n" + extra)


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(tmp_path / "cohort")


def add(workspace: Workspace, store: Store, cohort: Cohort, name: str = "train", **options) -> AddReport:
    progress = options.pop("progress", None)
    request = AddRequest(name, cohort.files, **{"labels": cohort.labels, "folds": 3} | options)
    return add_dataset(Project(workspace, store), request, progress=progress)


def mentions(report: AddReport, *values: str) -> bool:
    """Return whether a message or warning contains all `values`, in this order."""
    pattern = ".*".join(map(re.escape, values))
    return any(re.search(pattern, message) for message in report.messages + report.warnings)


def test_labelled_dataset(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    report = add(workspace, store, cohort)
    assert report.created
    assert (report.version.number, report.version.slices, report.version.patients, report.version.defects) == (
        1,
        24,
        6,
        0,
    )
    assert store.dataset("train").trainable
    assert mentions(report, "24 images", "SOPInstanceUID")
    loaded = load_dataset(Project(workspace, store), "train")
    assert loaded.source == cohort.files
    slices = loaded.slices
    assert sorted(slices["slice_id"]) == sorted(cohort.ids)
    assert slices.index.tolist() == list(range(24))
    assert ((slices["any"] == 1) == slices["slice_id"].isin(cohort.positive)).all()
    for _, series in slices.groupby("series", sort=False):
        assert series["order"].tolist() == [0, 1, 2, 3]
        assert series["position"].tolist() == [0, 5, 10, 15]
        assert series["instance_number"].tolist() == [4, 3, 2, 1]
    folds = load_folds(workspace, report.version, report.version.folds[0])
    assert pd.Series(folds).groupby(slices["patient"]).nunique().tolist() == [1] * 6
    assert np.bincount(folds).tolist() == [8, 8, 8]


def test_ids_are_hashed_unless_they_are_to_be_kept(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    report = add(workspace, store, cohort)
    hashed = load_catalog(workspace, report.version)
    assert hashed["patient"].str.fullmatch("[0-9a-f]{16}").all()
    folder = workspace.root / report.version.path
    assert all(b"ID_study" not in file.read_bytes() for file in folder.iterdir())
    with_ids = add(workspace, store, cohort, keep_ids=True)
    assert with_ids.created
    plain = load_catalog(workspace, with_ids.version)
    assert set(plain["patient"]) == {str(p) for p in range(6)}
    assert plain["patient"].nunique() == hashed["patient"].nunique()
    assert (with_ids.version.digest, with_ids.version.folds[0].digest) == (
        report.version.digest,
        report.version.folds[0].digest,
    )


def test_digests_and_rows_do_not_depend_on_the_workspace(
    tmp_path: Path, workspace: Workspace, store: Store, cohort: Cohort
) -> None:
    here = add(workspace, store, cohort).version
    other = init_workspace(tmp_path / "other")
    with open_store(other) as its_store:
        there = add(other, its_store, cohort).version
        its_ids = load_dataset(Project(other, its_store), "train").slices["slice_id"].tolist()
    # A seed must draw the same slices in every workspace, independent of its key.
    assert load_dataset(Project(workspace, store), "train").slices["slice_id"].tolist() == its_ids
    assert here.digest == there.digest
    assert here.label_digest == there.label_digest
    assert here.folds[0].digest == there.folds[0].digest


def test_unchanged_files_create_no_version(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    first = add(workspace, store, cohort)
    again = add(workspace, store, cohort)
    assert not again.created
    assert again.version == first.version
    assert [p.name for p in (workspace.datasets_dir / "train").iterdir()] == ["v1"]


def test_each_kind_of_change_creates_a_version(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    add(workspace, store, cohort)
    before = load_dataset(Project(workspace, store), "train", 1).slices
    cohort.positive.add(cohort.ids[1])
    cohort.write_labels()
    labels = add(workspace, store, cohort)
    assert labels.version.number == 2
    assert mentions(labels, "version 1", "labels")
    folds = add(workspace, store, cohort, fold_seed=5)
    assert folds.version.number == 3
    assert mentions(folds, "version 2", "folds")
    rewritten = next(cohort.files.rglob("*.dcm"))
    os.utime(rewritten, ns=(1, 1))
    files = add(workspace, store, cohort, fold_seed=5)
    assert files.version.number == 4
    assert files.version.digest == folds.version.digest
    assert mentions(files, "version 3", "files")
    rewritten.write_bytes(rewritten.read_bytes()[:-100])
    files = add(workspace, store, cohort, fold_seed=5)
    assert (files.version.number, files.version.slices, files.version.defects) == (5, 23, 1)
    pd.testing.assert_frame_equal(load_dataset(Project(workspace, store), "train", 1).slices, before)


def test_excluded_files_have_defects_and_counts_add_up(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    first = sorted(cohort.files.rglob("*.dcm"))[0]
    (cohort.files / "z_copy.dcm").write_bytes(first.read_bytes())
    (cohort.files / "notes.txt").write_text("hello")
    write_ct(cohort.files / "inverted.dcm", PhotometricInterpretation="MONOCHROME1")
    write_ct(cohort.files / "unlabelled.dcm")
    report = add(workspace, store, cohort)
    catalog = load_catalog(workspace, report.version)
    excluded = catalog[catalog["defect"].notna()].set_index("file")["defect"].to_dict()
    assert excluded == {
        "z_copy.dcm": "duplicate_instance",
        "notes.txt": "not_dicom",
        "inverted.dcm": "monochrome1",
        "unlabelled.dcm": "no_label",
    }
    assert (report.version.slices, report.version.defects, len(catalog)) == (24, 4, 28)
    for reason in excluded.values():
        assert mentions(report, f"{reason} 1")
    assert not set(load_dataset(Project(workspace, store), "train").slices["file"]) & set(excluded)
    facts = describe_dataset(Project(workspace, store), "train")
    assert {d["reason"]: d["examples"] for d in facts["defects"]} == {v: [k] for k, v in excluded.items()}
    assert sum(fold["slices"] for fold in facts["folds"]) == 24
    assert facts["families"][0]["slices"] == 24


def test_unmatched_labels_and_slices_are_counted(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    truncated = next(cohort.files.rglob("*.dcm"))
    truncated.write_bytes(truncated.read_bytes()[:-1])
    extra = "".join(f"ID_absent_{label},0\n" for label in LABELS)
    cohort.write_labels([i for i in cohort.ids if i != cohort.ids[-1]], extra + f"ID_absent_{LABELS[0]},0\n")
    report = add(workspace, store, cohort)
    assert mentions(report, "1 labelled image", "ID_absent")
    assert mentions(report, "1 labelled image", "excluded")
    assert mentions(report, "no_label 1")
    assert mentions(report, "1 duplicate row")
    assert mentions(report, "epidural (0)")
    summary = report.version.summary
    assert (summary["labels_absent"], summary["labels_merged"], summary["labels_by"]) == (1, 1, "slice_id")


def test_labels_match_by_file_name(tmp_path: Path, workspace: Workspace, store: Store) -> None:
    for index in range(4):
        write_ct(tmp_path / f"files/scan{index}.dcm", head(index), SOPInstanceUID=f"1.2.{index}", PatientID=str(index))
    labels = tmp_path / "labels.csv"
    header = f"image,{','.join(LABELS)}\n"
    labels.write_text(header + "".join(f"scan{i},0,0,0,0,{i % 2},{i % 2}\n" for i in range(4)))
    report = add_dataset(Project(workspace, store), AddRequest("train", tmp_path / "files", labels=labels, folds=2))
    assert mentions(report, "4 images", "file name")
    slices = load_dataset(Project(workspace, store), "train").slices.set_index("slice_id")
    assert slices["subdural"].to_dict() == {"1.2.0": 0, "1.2.1": 1, "1.2.2": 0, "1.2.3": 1}
    labels.write_text(header + "".join(f"{i},0,0,0,0,0,0\n" for i in ("scan0", "scan1", "more")))
    report = add_dataset(Project(workspace, store), AddRequest("other", tmp_path / "files", labels=labels, folds=2))
    assert mentions(report, "1 labelled image", "more")
    assert mentions(report, "no_label 2")
    labels.write_text(header + "scan,0,0,0,0,0,0\n")
    with pytest.raises(InvalidInputError, match=r"'scan'.*'1\.2\.0'"):
        add_dataset(Project(workspace, store), AddRequest("another", tmp_path / "files", labels=labels, folds=2))


def test_slices_without_patient_are_grouped_by_study_or_series(
    tmp_path: Path, workspace: Workspace, store: Store
) -> None:
    source = tmp_path / "files"
    for index in range(6):
        study = "ID_x" if index < 3 else None
        series = f"ID_s{index}" if index < 5 else None
        write_ct(source / f"{index}.dcm", PatientID="", StudyInstanceUID=study, SeriesInstanceUID=series)
    report = add_dataset(Project(workspace, store), AddRequest("loose", source))
    assert mentions(report, "6 slices", "PatientID")
    slices = load_dataset(Project(workspace, store), "loose").slices.set_index("file")
    assert slices["patient"][["0.dcm", "1.dcm", "2.dcm"]].nunique() == 1
    assert slices["patient"].nunique() == 4
    assert not store.dataset("loose").trainable


def test_test_set_with_sample(tmp_path: Path, workspace: Workspace, store: Store, cohort: Cohort) -> None:
    add(workspace, store, cohort)
    test = Cohort(tmp_path / "test", patients=1)
    sample = tmp_path / "sample.csv"
    ids = [f"{i}_{label}" for i in [*test.ids[1:], "ID_absent"] for label in reversed(LABELS)]
    sample.write_text("ID,Label\n" + "".join(f"{i},0.5\n" for i in ids))
    report = add(workspace, store, test, "test", labels=None, test_of="train", sample=sample)
    assert report.version.folds == ()
    assert [version.dataset for version in store.test_sets("train")] == ["test"]
    stored = pd.read_csv(workspace.root / report.version.sample)
    assert stored["ID"].tolist() == ids
    assert report.version.summary["sample"]["absent"] == 1
    assert mentions(report, "1 image of the sample", "ID_absent")
    assert mentions(report, "1 slice not in the sample")
    assert not add(workspace, store, test, "test", labels=None, test_of="train", sample=sample).created


@pytest.mark.parametrize(
    ("options", "error", "value"),
    [
        ({"name": "a b"}, InvalidInputError, "'a b'"),
        ({"name": "../x"}, InvalidInputError, "'../x'"),
        ({"name": ""}, InvalidInputError, "''"),
        ({"test_of": "train"}, InvalidInputError, "--labels"),
        ({"sample": "labels"}, InvalidInputError, "--sample"),
        ({"labels": None, "test_of": "nobody"}, NotFoundError, "'nobody'"),
        ({"labels": None, "test_of": "bare"}, ConflictError, "'bare'"),
        ({"labels": None, "name": "t", "test_of": "t"}, InvalidInputError, "'t'"),
        ({"labels": None, "name": "train", "test_of": "other"}, ConflictError, "'train'"),
        ({"labels": None, "name": "train"}, ConflictError, "'train'"),
        ({"folds": 7}, InvalidInputError, "6 patients"),
    ],
)
def test_invalid_requests(
    workspace: Workspace, store: Store, cohort: Cohort, options: dict, error: type[IchxError], value: str
) -> None:
    add(workspace, store, cohort)
    add(workspace, store, cohort, "other")
    add(workspace, store, cohort, "bare", labels=None)
    before = sorted(workspace.datasets_dir.rglob("*"))
    if "sample" in options:
        options = options | {"sample": cohort.labels}
    with pytest.raises(error, match=re.escape(value)):
        add(workspace, store, cohort, **options)
    assert sorted(workspace.datasets_dir.rglob("*")) == before
    assert len(store.datasets()) == 3


def test_sources_without_usable_slices(tmp_path: Path, workspace: Workspace, store: Store, cohort: Cohort) -> None:
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "notes.txt").write_text("hello")
    with pytest.raises(InvalidInputError, match=rf"1 file .*{folder}"):
        add_dataset(Project(workspace, store), AddRequest("x", folder))
    write_ct(folder / "mr.dcm", Modality="MR")
    with pytest.raises(InvalidInputError, match=rf"{folder}.* 2 files .*not_ct 1 \(MR 1\)"):
        add_dataset(Project(workspace, store), AddRequest("x", folder))
    other = Cohort(tmp_path / "y", patients=1)
    cohort.write_labels(["ID_1", "ID_2"])
    with pytest.raises(InvalidInputError, match=rf"{cohort.labels}.*'ID_1'"):
        add(workspace, store, other, labels=cohort.labels)
    assert store.datasets() == []
    assert not workspace.datasets_dir.exists()


def test_unwritable_folder_leaves_nothing(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    workspace.datasets_dir.mkdir()
    (workspace.datasets_dir / "train").write_text("a file instead of the folder")
    with pytest.raises(StorageError, match=str(workspace.datasets_dir)):
        add(workspace, store, cohort)
    assert store.datasets() == []
    (workspace.datasets_dir / "train").unlink()
    assert add(workspace, store, cohort).version.number == 1


def test_folder_of_a_killed_process_is_ignored(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    folder = workspace.datasets_dir / "train" / "v1"
    folder.mkdir(parents=True)
    (folder / "catalog.parquet").write_bytes(b"half")
    report = add(workspace, store, cohort)
    assert report.created
    assert len(load_dataset(Project(workspace, store), "train").slices) == 24
    assert load_folds(workspace, report.version, report.version.folds[0]).shape == (24,)


def test_missing_and_damaged_files_of_a_version(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    version = add(workspace, store, cohort).version
    catalog = workspace.root / version.path / "catalog.parquet"
    good = catalog.read_bytes()
    catalog.write_bytes(good[: len(good) // 2])
    with pytest.raises(CorruptFileError, match=f"{catalog} of train version 1"):
        load_dataset(Project(workspace, store), "train")
    catalog.unlink()
    with pytest.raises(ChangedDataError, match=f"{catalog} of train version 1"):
        load_dataset(Project(workspace, store), "train")
    catalog.mkdir()
    with pytest.raises(CorruptFileError, match=f"{catalog} of train version 1"):
        load_dataset(Project(workspace, store), "train")
    with pytest.raises(NotFoundError, match="'trian'"):
        load_dataset(Project(workspace, store), "trian")
    with pytest.raises(NotFoundError, match="7"):
        load_dataset(Project(workspace, store), "train", 7)


@pytest.mark.parametrize("damage", ["removed", "truncated"])
def test_adding_again_replaces_a_version_without_catalog(
    workspace: Workspace, store: Store, cohort: Cohort, damage: str
) -> None:
    first = add(workspace, store, cohort).version
    catalog = workspace.root / first.path / "catalog.parquet"
    if damage == "removed":
        catalog.unlink()
    else:
        catalog.write_bytes(catalog.read_bytes()[:500])
    with pytest.raises(IchxError, match=r"catalog\.parquet"):
        load_dataset(Project(workspace, store), "train")
    again = add(workspace, store, cohort)
    assert (again.created, again.version.number) == (True, 2)
    assert len(load_dataset(Project(workspace, store), "train").slices) == 24


def test_wrong_intercept_is_repaired_in_the_catalog(tmp_path: Path, workspace: Workspace, store: Store) -> None:
    shown = head().astype(int) - 1000
    stored = np.where(shown < 0, shown + 4096, shown).astype(np.uint16)
    write_ct(tmp_path / "files/a.dcm", stored, BitsStored=12, HighBit=11, RescaleIntercept=1)
    write_ct(tmp_path / "files/b.dcm")
    report = add_dataset(Project(workspace, store), AddRequest("x", tmp_path / "files"))
    catalog = read_catalog(workspace.root / report.version.path / "catalog.parquet").set_index("file")
    assert catalog["intercept_repaired"].to_dict() == {"a.dcm": True, "b.dcm": False}
    assert catalog["intercept"]["a.dcm"] == -1000
    assert mentions(report, "intercept", "1 slice")


def test_assumptions_are_counted_and_part_of_a_digest(tmp_path: Path, workspace: Workspace, store: Store) -> None:
    project, files = Project(workspace, store), tmp_path / "files"
    hu = head().astype(np.int16) - np.int16(1024)
    write_ct(files / "a.dcm", hu, RescaleSlope=None, RescaleIntercept=None, HighBit=14)
    write_ct(files / "b.dcm", RescaleType="US", WindowCenter=None)
    write_ct(files / "c.dcm")
    write_ct(files / "d.dcm", RescaleSlope=None, RescaleIntercept=None)
    report = add_dataset(project, AddRequest("x", files))
    expected = {"rescale_missing": 1, "rescale_type": 1, "bit_layout": 1, "window_missing": 1}
    assert report.version.summary["assumptions"] == expected
    for name, file in zip(expected, ("a.dcm", "b.dcm", "a.dcm", "b.dcm"), strict=True):
        assert mentions(report, f"`{name}`", "1 slice", file)
    described = describe_dataset(project, "x")["assumptions"]
    assert [(entry["assumption"], entry["slices"], entry["examples"]) for entry in described] == [
        ("rescale_missing", 1, ["a.dcm"]),
        ("rescale_type", 1, ["b.dcm"]),
        ("bit_layout", 1, ["a.dcm"]),
        ("window_missing", 1, ["b.dcm"]),
    ]
    catalog = load_catalog(workspace, report.version)
    assert catalog["assumptions"].tolist() == ["rescale_missing bit_layout", "rescale_type", "", ""]
    assert catalog["defect"].tolist()[3] == "bad_rescale"
    # Without assumptions the digest is that of version 0.1, whose catalogs lack the columns.
    path = workspace.root / report.version.path / "catalog.parquet"
    old = catalog.drop(columns=["assumptions", "detail"])
    old.to_parquet(path, index=False)
    read = load_catalog(workspace, report.version)
    assert (read["assumptions"] == "").all()
    assert catalog_digest(read) != catalog_digest(catalog)
    assert slices_digest(usable_slices(read)) != slices_digest(usable_slices(catalog))
    good = catalog[catalog["assumptions"] == ""]
    assert catalog_digest(good) == catalog_digest(read[catalog["assumptions"] == ""])
    assert slices_digest(usable_slices(good)) == slices_digest(usable_slices(read[catalog["assumptions"] == ""]))


def test_excluded_files_of_other_modalities_are_named(tmp_path: Path, workspace: Workspace, store: Store) -> None:
    files = tmp_path / "files"
    for name, modality in (("a", "MR"), ("b", "MR"), ("c", "SR")):
        write_ct(files / f"{name}.dcm", Modality=modality)
    with pytest.raises(InvalidInputError, match=r"not_ct 3 \(MR 2, SR 1\)"):
        add_dataset(Project(workspace, store), AddRequest("x", files))
    write_ct(files / "d.dcm")
    write_ct(files / "e.dcm", SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    report = add_dataset(Project(workspace, store), AddRequest("x", files))
    assert report.version.summary["modalities"] == {"MR": 2, "SR": 1}
    assert mentions(report, "not_ct 4 (MR 2, SR 1)")
    (described,) = describe_dataset(Project(workspace, store), "x")["defects"]
    assert (described["examples"][2], described["details"][2]) == ("c.dcm", "modality SR")
    details = load_catalog(workspace, report.version)["detail"].tolist()
    assert details[:4] == ["modality MR", "modality MR", "modality SR", ""]
    assert "Secondary Capture" in details[4]


def test_interrupted_add_leaves_nothing(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        add(workspace, store, cohort, progress=stop)
    assert store.datasets() == []
    assert not workspace.datasets_dir.exists()
    assert add(workspace, store, cohort).version.number == 1


def test_zip_and_folder_are_the_same_dataset(
    tmp_path: Path, workspace: Workspace, store: Store, cohort: Cohort
) -> None:
    plain = add(workspace, store, cohort).version
    archive = zip_folder(cohort.files, tmp_path / "c.zip", "comp/train/")
    report = add_dataset(
        Project(workspace, store), AddRequest("z", archive / "comp/train", labels=cohort.labels, folds=3)
    )
    packed = report.version
    assert (packed.digest, packed.label_digest) == (plain.digest, plain.label_digest)
    assert packed.folds[0].digest == plain.folds[0].digest
    assert packed.source == str(archive / "comp/train")
    assert not add_dataset(
        Project(workspace, store), AddRequest("z", archive / "comp/train", labels=cohort.labels, folds=3)
    ).created
    spec = CacheSpec(16, "series", "area")
    loaded = load_dataset(Project(workspace, store), "z")
    cache = ensure_cache(tmp_path / "cache", "z", loaded.source, loaded.slices, spec, processes=2)
    other = load_dataset(Project(workspace, store), "train")
    expected = ensure_cache(tmp_path / "cache", "f", other.source, other.slices, spec, processes=1)
    assert loaded.slices["slice_id"].tolist() == other.slices["slice_id"].tolist()
    assert all((cache.read(row) == expected.read(row)).all() for row in range(24))
    member = loaded.slices["file"][0]
    change_entry(archive, f"comp/train/{member}", crc=1)
    with pytest.raises(ChangedDataError, match=f"1 file .*{member}"):
        ensure_cache(tmp_path / "cache", "z", loaded.source, loaded.slices, CacheSpec(8, "none", "area"))
    changed = add_dataset(
        Project(workspace, store), AddRequest("z", archive / "comp/train", labels=cohort.labels, folds=3)
    )
    assert changed.version.number == 2
    assert mentions(changed, "version 1", "files")


def test_export_of_a_hospital(tmp_path: Path, workspace: Workspace, store: Store) -> None:
    """Files without extension, DICOMDIR, several series in a study, objects that are not CT slices."""
    root = tmp_path / "export"
    (root / "CD1").mkdir(parents=True)
    (root / "CD1/DICOMDIR").write_text("ignored")
    for series, (thickness, count) in enumerate(((5.0, 4), (1.25, 8))):
        for index in range(count):
            write_ct(
                root / f"CD1/ST0/SE{series}/IM{index}",
                head(index),
                SOPInstanceUID=f"1.2.{series}.{index}",
                SeriesInstanceUID=f"1.2.{series}",
                ImagePositionPatient=[0, 0, thickness * index],
            )
    write_ct(
        root / "CD1/ST0/SE2/IM0", SOPInstanceUID="1.2.9", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.67", Modality="SR"
    )
    write_ct(root / "CD1/ST0/SE3/IM0", SOPInstanceUID="1.2.8", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    labels = tmp_path / "labels.csv"
    rows = [f"1.2.{s}.{i},0,0,0,0,1,1\n" for s, n in ((0, 4), (1, 8)) for i in range(n)]
    labels.write_text(f"image,{','.join(LABELS)}\n" + "".join(rows))
    with pytest.raises(InvalidInputError, match="1 patient into 5 folds"):
        add_dataset(Project(workspace, store), AddRequest("h", root, labels=labels))
    report = add_dataset(Project(workspace, store), AddRequest("h", root))
    slices = load_dataset(Project(workspace, store), "h").slices
    assert slices.groupby("series")["step"].median().sort_values().tolist() == [1.25, 5]
    assert (slices["study"].nunique(), slices["series"].nunique(), len(slices)) == (1, 2, 12)
    excluded = load_catalog(workspace, report.version).set_index("file")["defect"].dropna()
    assert excluded.to_dict() == {"CD1/ST0/SE2/IM0": "not_ct", "CD1/ST0/SE3/IM0": "localizer"}


def test_geometry_is_reported(tmp_path: Path, workspace: Workspace, store: Store) -> None:
    for index, z in enumerate((0.0, 5, 10, 30, 35)):
        write_study(tmp_path / "f", "1", 1, start=index, ImagePositionPatient=[0, 0, z])
    write_study(tmp_path / "f", "2", 2, ImagePositionPatient=None)
    report = add_dataset(Project(workspace, store), AddRequest("x", tmp_path / "f"))
    assert mentions(report, "`gap`", "1 series, 1 slice")
    assert mentions(report, "`by_number`", "1 series, 2 slices")
    facts = describe_dataset(Project(workspace, store), "x")
    assert [(entry["flag"], entry["series"]) for entry in facts["geometry"]] == [("gap", 1), ("by_number", 1)]
    assert report.version.summary["geometry"]["gap"] == {"series": 1, "slices": 1}
    slices = load_dataset(Project(workspace, store), "x").slices
    assert slices["order"][slices["by_number"]].tolist() == [0, 1]


def test_catalog_of_another_version_of_ichx(workspace: Workspace, store: Store, cohort: Cohort) -> None:
    version = add(workspace, store, cohort).version
    path = workspace.root / version.path / "catalog.parquet"
    pd.read_parquet(path).drop(columns="step").to_parquet(path)
    with pytest.raises(CorruptFileError, match=rf"{path}.*\bstep\b"):
        load_dataset(Project(workspace, store), "train")


def test_real_slices(shared_data: Path, workspace: Workspace, store: Store) -> None:
    mini = shared_data / "rsna_mini"
    train = add_dataset(
        Project(workspace, store), AddRequest("rsna", mini / "stage_2_train", labels=mini / "stage_2_train.csv")
    )
    assert (train.version.slices, train.version.patients, train.version.defects) == (20, 20, 0)
    test = add_dataset(
        Project(workspace, store),
        AddRequest("rsna-test", mini / "stage_2_test", test_of="rsna", sample=mini / "stage_2_sample_submission.csv"),
    )
    assert (test.version.summary["sample"]["ids"], test.version.summary["sample"]["absent"]) == (192, 0)
    slices = load_dataset(Project(workspace, store), "rsna-test").slices
    assert slices["order"].tolist() == list(range(32))
    assert slices["pos_z"].is_monotonic_increasing  # from the neck to the crown
    steps = slices["position"].diff().dropna()
    assert steps.between(4.9, 5.1).all()  # 5 mm along the tilted normal
    assert slices["pos_z"].diff().dropna().between(5.09, 5.11).all()  # the z axis alone is wrong


def test_test_set_that_shares_slices_with_training_is_reported(
    workspace: Workspace, store: Store, cohort: Cohort
) -> None:
    add(workspace, store, cohort)
    report = add(workspace, store, cohort, "again", labels=None, test_of="train")
    assert mentions(report, "24 slices and 6 patients", "train")
