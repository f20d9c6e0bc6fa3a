"""Phantom studies as DICOM files in the layout of the RSNA 2019 challenge, with label files and masks.

What a head looks like is decided elsewhere (`phantom`); here stand headers, identifiers, folders and processes.
"""

import csv
import dataclasses
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import config
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from ichx.errors import ConflictError, ResourceError, StorageError, raise_problems
from ichx.files import absolute_path
from ichx.labels import LABELS
from ichx.phantom.prevalence import CHALLENGE_PREVALENCE, combination_chances
from ichx.phantom.scanners import Scanner
from ichx.phantom.study import PhantomStudy, make_study, study_rng, study_scanner
from ichx.text import format_bytes, format_count
from ichx.worker_pool import map_in_processes, worker_count

TRAIN_FOLDER = "stage_2_train"
TEST_FOLDER = "stage_2_test"
TRAIN_MASKS = "stage_2_train_masks"
TRAIN_LABELS = "stage_2_train.csv"
SAMPLE_SUBMISSION = "stage_2_sample_submission.csv"
TEST_LABELS = "stage_2_test_labels.csv"

PADDING = -2000
"""Stored value outside the circular field of view of scanners that have one."""


STUDY_SLICES = 32
"""Mean number of slices of a study."""

HEADER_BYTES = 1100
"""Mean size of a file without its pixels."""


@dataclass(frozen=True)
class PhantomFiles:
    """Files written by `write_phantom`.

    Without training or test patients the paths of that set are None, and without a positive training slice
    `train_masks` is.
    """

    folder: Path
    train: Path | None
    train_labels: Path | None
    train_masks: Path | None
    test: Path | None
    sample_submission: Path | None
    test_labels: Path | None
    train_slices: int
    test_slices: int
    patients: int
    test_patients: int


def write_phantom(
    folder: Path,
    *,
    patients: int,
    seed: int,
    size: int = 512,
    test_patients: int = 0,
    prevalence: Mapping[str, float] | None = None,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PhantomFiles:
    """Write `patients` training and `test_patients` test studies to `folder`, which must be empty or absent.

    Each positive training slice has a mask, an 8-bit PNG of its id's name: 0, or 1 + the index in
    `ichx.labels.SUBTYPES`.

    `size` is the edge in pixels, `prevalence` the per-slice shares by label name (the challenge's when None);
    `progress` is called with the studies done and their number. The bytes depend on the seed and these arguments alone,
    not on `processes` (one per core when None). After an error nothing is left
    behind.

    Raises:
        InvalidInputError: An argument is invalid.
        ConflictError: The folder exists and is not empty.
        StorageError: The folder cannot be written.
        ResourceError: The disk has too little space for the studies.
    """
    check_size(patients, test_patients, seed, size, processes)
    wanted = dict(CHALLENGE_PREVALENCE if prevalence is None else prevalence)
    combination_chances(tuple(sorted(wanted.items())))
    folder = absolute_path(folder)
    with phantom_folder(folder, patients + test_patients, size) as draft:
        folders = ([TRAIN_FOLDER, TRAIN_MASKS] if patients else []) + ([TEST_FOLDER] if test_patients else [])
        for name in folders:
            (draft / name).mkdir()
        total = patients + test_patients
        train_job = _Job(draft / TRAIN_FOLDER, draft / TRAIN_MASKS, seed, 0, size, wanted)
        test_job = dataclasses.replace(train_job, folder=draft / TEST_FOLDER, masks=None)
        jobs = [
            dataclasses.replace(train_job if patient < patients else test_job, patient=patient)
            for patient in range(total)
        ]
        rows: dict[int, list[tuple[str, tuple[int, ...]]]] = {}
        for patient, labelled in map_in_processes(_write_study, jobs, worker_count(processes, total)):
            rows[patient] = labelled
            if progress:
                progress(len(rows), total)
        train = sorted(row for patient in range(patients) for row in rows[patient])
        test = sorted(row for patient in range(patients, total) for row in rows[patient])
        bleeding = any(values[-1] for _, values in train)
        if patients and not bleeding:
            (draft / TRAIN_MASKS).rmdir()
        if patients:
            _write_labels(draft / TRAIN_LABELS, train)
        if test_patients:
            _write_labels(draft / SAMPLE_SUBMISSION, [(name, (0.5,) * len(LABELS)) for name, _ in test])
            _write_labels(draft / TEST_LABELS, test)
    return PhantomFiles(
        folder=folder,
        train=folder / TRAIN_FOLDER if patients else None,
        train_labels=folder / TRAIN_LABELS if patients else None,
        train_masks=folder / TRAIN_MASKS if bleeding else None,
        test=folder / TEST_FOLDER if test_patients else None,
        sample_submission=folder / SAMPLE_SUBMISSION if test_patients else None,
        test_labels=folder / TEST_LABELS if test_patients else None,
        train_slices=len(train),
        test_slices=len(test),
        patients=patients,
        test_patients=test_patients,
    )


@dataclass(frozen=True)
class _Job:
    folder: Path
    masks: Path | None
    seed: int
    patient: int
    size: int
    prevalence: dict[str, float]


def check_size(patients: int, test_patients: int, seed: int, size: int, processes: int | None = None) -> None:
    """Raise `InvalidInputError` with all invalid arguments of a phantom."""
    problems = []
    if patients < 0 or test_patients < 0 or patients + test_patients == 0:
        problems.append(f"{patients} patients and {test_patients} test patients: give 1 or more of either")
    if not 32 <= size <= 1024:
        problems.append(f"size {size}: give 32 to 1024 pixels")
    if seed < 0:
        problems.append(f"seed {seed}: give 0 or more")
    if processes is not None and processes < 1:
        problems.append(f"{processes} processes: give 1 or more")
    raise_problems(problems, "correct these values")


def _require_space(folder: Path, patients: int, size: int) -> None:
    """Raise `ResourceError` if the disk has less space than that many studies take on average."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    needed, free = int(patients * STUDY_SLICES * (2 * size**2 + HEADER_BYTES)), shutil.disk_usage(existing).free
    if needed > free:
        raise ResourceError(
            f"{format_count(patients, 'patient')} of {size} x {size} pixels take about {format_bytes(needed)}; "
            f"{format_bytes(free)} are free in {existing}.",
            "Write fewer patients or smaller slices, or choose a folder on another disk.",
        )


@contextmanager
def phantom_folder(folder: Path, patients: int, size: int) -> Iterator[Path]:
    """Yield a hidden sibling of `folder` that is renamed to `folder` at the end, or removed after an error.

    What a killed process has left of earlier drafts is removed.
    """
    draft = folder.with_name(f".{folder.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConflictError(f"{folder} exists and is not an empty folder.", "Use a new folder for the phantom.")
        for left in folder.parent.glob(f".{escape(folder.name)}.*-*"):
            if not _is_alive(left.name.rpartition(".")[2].partition("-")[0]):
                shutil.rmtree(left, ignore_errors=True)
        _require_space(folder, patients, size)
        draft.mkdir(parents=True)
        yield draft
        draft.replace(folder)
    except OSError as error:
        raise StorageError(
            f"Cannot write the phantom to {folder}: {error.strerror or error}.",
            "Free some space, or use a writable folder.",
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _is_alive(pid: str) -> bool:
    """Return whether a process with this id is running; other texts count as running."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (ValueError, PermissionError):
        return True
    return True


def _write_study(job: _Job) -> tuple[int, list[tuple[str, tuple[int, ...]]]]:
    """Write the study of a job; return its patient and its labelled slices."""
    study = make_study(job.seed, job.patient, size=job.size, prevalence=job.prevalence)
    scanner = study_scanner(job.seed, job.patient, job.size)
    rng = study_rng(job.seed, job.patient, "header")
    names = [_identifier(9, "image", job.seed, job.patient, index) for index in range(len(study.hu))]
    shared = _study_header(job, scanner, rng)
    for index, name in enumerate(names):
        dataset = _slice_header(shared, study, scanner, index, name)
        _write_slice(job.folder / f"{name}.dcm", dataset, scanner, job, index)
        if job.masks is not None and study.labels[index].any():
            (job.masks / f"{name}.png").write_bytes(imagecodecs.png_encode(study.mask[index]))
    return job.patient, [(name, tuple(int(v) for v in row)) for name, row in zip(names, study.labels, strict=True)]


def _identifier(digits: int, *parts: object) -> str:
    """Return `ID_` and hex digits derived from `parts`."""
    return "ID_" + hashlib.sha256(repr(parts).encode()).hexdigest()[:digits]


def _valid_uid(*parts: object) -> str:
    """Return a valid UID (PS3.5 B.2) derived from `parts`."""
    return f"2.25.{int(hashlib.sha256(repr(parts).encode()).hexdigest()[:31], 16)}"


@dataclass(frozen=True)
class _StudyHeader:
    """Values that all slices of a study share: identifiers, window, numeric form, position of the first slice."""

    patient: str
    study: str
    series: str
    window: tuple[str, str]
    number: Callable[[float], str]
    origin: tuple[float, float, float]


def _study_header(job: _Job, scanner: Scanner, rng: np.random.Generator) -> _StudyHeader:
    philips = (("00040\\00040", "00080\\00080"), ("00036\\00036", "00080\\00080"), ("00080\\00080", "00200\\00200"))
    windows = {
        "ge": ("30", "80"),
        "ge_flat": ("50", "100"),
        "philips": philips[int(rng.choice(3, p=[0.5, 0.35, 0.15]))],
        "toshiba": ("35.000000", "135.000000"),
    }
    numbers: dict[str, Callable[[float], str]] = {
        "ge": _six_decimals if rng.random() < 0.6 else _three_decimals,
        "ge_flat": _three_decimals,
        "philips": _shortest,
        "toshiba": _six_decimals,
    }
    half = scanner.spacing * job.size / 2
    origin = (-half, -half + float(rng.normal(0, 8)), float(rng.uniform(-60, 260)))
    return _StudyHeader(
        patient=_identifier(8, "patient", job.seed, job.patient),
        study=_identifier(10, "study", job.seed, job.patient),
        series=_identifier(10, "series", job.seed, job.patient),
        window=windows[scanner.habit],
        number=numbers[scanner.habit],
        origin=origin,
    )


def _six_decimals(value: float) -> str:
    return f"{value:.6f}"


def _three_decimals(value: float) -> str:
    return f"{value:.3f}"


def _shortest(value: float) -> str:
    return f"{value:.9g}"


def _slice_header(header: _StudyHeader, study: PhantomStudy, scanner: Scanner, index: int, name: str) -> Dataset:
    tilt = np.deg2rad(scanner.tilt)
    # A tilted gantry leaves y alone while the table moves along z: planes lie thickness apart along their normal.
    position = (*header.origin[:2], header.origin[2] + index * study.thickness / float(np.cos(tilt)))
    along = [header.number(v) for v in (1, 0, 0, 0, float(np.cos(tilt)), float(np.sin(tilt)))]
    signed = scanner.habit != "philips"
    rows, columns = study.hu.shape[1:]
    intercept = "-1024.000000" if scanner.habit == "toshiba" else "-1024"
    centre, width = header.window
    values: list[tuple[int, str, object]] = [
        (0x00080016, "UI", str(CTImageStorage)),
        (0x00080018, "UI", name),
        (0x00080060, "CS", "CT"),
        (0x00100020, "LO", header.patient),
        (0x0020000D, "UI", header.study),
        (0x0020000E, "UI", header.series),
        (0x00200010, "SH", ""),
        (0x00200032, "DS", [header.number(v) for v in position]),
        (0x00200037, "DS", along),
        (0x00280002, "US", 1),
        (0x00280004, "CS", "MONOCHROME2"),
        (0x00280010, "US", rows),
        (0x00280011, "US", columns),
        (0x00280030, "DS", [f"{scanner.spacing:.6f}"] * 2),
        (0x00280100, "US", 16),
        (0x00280101, "US", 16 if signed else 12),
        (0x00280102, "US", 15 if signed else 11),
        (0x00280103, "US", 1 if signed else 0),
        (0x00281050, "DS", centre.split("\\")),
        (0x00281051, "DS", width.split("\\")),
        (0x00281052, "DS", intercept),
        (0x00281053, "DS", "1"),
        (0x7FE00010, "OW", stored_pixels(study.hu[index], scanner).tobytes()),
    ]
    dataset = Dataset()
    for tag, kind, value in values:
        dataset.add(DataElement(tag, kind, value, validation_mode=config.IGNORE))
    return dataset


def stored_pixels(hu: NDArray[np.int16], scanner: Scanner) -> NDArray[np.int16] | NDArray[np.uint16]:
    """Return the values that `scanner` stores for a slice in HU: HU + 1024, and its padding where HU is -1024."""
    stored = hu.astype("<i2") + np.int16(1024)
    if scanner.habit == "philips":
        unsigned: NDArray[np.uint16] = np.clip(stored, 0, 4095).astype("<u2")
        return unsigned
    if scanner.circular:
        stored[hu == -1024] = PADDING
    return stored


def _write_slice(path: Path, dataset: Dataset, scanner: Scanner, job: _Job, index: int) -> None:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = UID(_valid_uid("image", job.seed, job.patient, index))
    implicit = scanner.habit == "philips"
    meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(_valid_uid("ichx phantom"))
    meta.ImplementationVersionName = "ICHX_PHANTOM"
    meta.FileMetaInformationGroupLength = 0  # filled in when written
    dataset.file_meta = meta
    dataset.preamble = b"\0" * 128
    # Enforcing the format would put the image's invalid UID into the meta group, where the challenge has a valid one.
    content = BytesIO()  # pydicom would wrap a failed write in an error with a traceback in its text
    dcmwrite(content, dataset, enforce_file_format=False)
    path.write_bytes(content.getvalue())


def _write_labels(path: Path, rows: list[tuple[str, tuple[int, ...]]] | list[tuple[str, tuple[float, ...]]]) -> None:
    with path.open("w", newline="", encoding="ascii") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(("ID", "Label"))
        for name, values in rows:
            writer.writerows((f"{name}_{label}", value) for label, value in zip(LABELS, values, strict=True))
