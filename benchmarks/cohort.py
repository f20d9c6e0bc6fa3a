"""Cohorts of the size of the RSNA training set for benchmarks and tests: images, their patients and labels.

`real_cohort` uses real images, labels and numbers of slices per patient; `synthetic_cohort` needs no files.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.label_csv import read_labels
from ichx.labels import LABELS

PATIENTS = 18_938
IMAGES = 752_803
POSITIVES = (3_145, 36_118, 26_205, 35_675, 47_166, 107_933)
"""Positive images of the training set by label."""


@dataclass(frozen=True)
class Cohort:
    """Image ids (N,), patients (N,) and labels (N, 6), and a description of their origin."""

    images: npt.NDArray[np.object_]
    patients: npt.NDArray[np.object_]
    labels: npt.NDArray[np.float32]
    origin: str

    def first(self, images: int) -> "Cohort":
        """Return the first `images` of the cohort."""
        return Cohort(self.images[:images], self.patients[:images], self.labels[:images], self.origin)


def data_folder() -> Path | None:
    """Return the folder of real data, `ICHX_TEST_DATA`; None if it has no labels or metadata."""
    folder = Path(os.environ.get("ICHX_TEST_DATA", "-"))
    return folder if label_file(folder).is_file() and _metadata(folder).is_file() else None


def label_file(folder: Path) -> Path:
    """Return the real label file in a folder of real data."""
    return folder / "labels" / "stage_2_train.csv.gz"


def real_cohort(folder: Path) -> Cohort:
    """Return the real images and labels, assigned to patients.

    The metadata have the patients of every tenth image. Patients are sampled from them with their numbers of slices and
    sets of labels; some get the slices of a second one, until there are as many slices as images. Each image takes a
    slice with its set of labels; one in a hundred, for which none remains, takes any.
    """
    table = read_labels(label_file(folder))
    known = pd.read_csv(_metadata(folder), usecols=["PatientID", *LABELS])
    bits = 1 << np.arange(len(LABELS))
    sets = pd.Series(known[list(LABELS)].to_numpy() @ bits)
    of_patient = [part.to_numpy() for _, part in sets.groupby(known["PatientID"])]
    random, images = np.random.default_rng(0), len(table.ids)
    sampled, slices = [], 0
    while slices < images:
        sampled.append(of_patient[random.integers(len(of_patient))])
        slices += len(sampled[-1])
    patients = np.concatenate([np.arange(PATIENTS), random.integers(0, PATIENTS, len(sampled) - PATIENTS)])
    owner = np.repeat(patients, [len(part) for part in sampled])[:images]
    wanted = np.concatenate(sampled)[:images]
    real = (table.values > 0.5) @ bits
    image = np.full(images, -1)
    for labels in range(1 << len(LABELS)):
        at, of = random.permutation(np.flatnonzero(wanted == labels)), np.flatnonzero(real == labels)
        image[at[: len(of)]] = random.permutation(of)[: len(at)]
    image[image < 0] = random.permutation(np.setdiff1d(np.arange(images), image))
    origin = "real images and labels, patients sampled from the metadata"
    return Cohort(table.ids[image], _named(owner), table.values[image], origin)


def synthetic_cohort(images: int = IMAGES, patients: int = PATIENTS) -> Cohort:
    """Return synthetic images and labels with the training set's prevalences of the subtypes.

    Patients have similar numbers of slices. A bleed covers consecutive slices, half of a patient's.
    """
    random = np.random.default_rng(0)
    sizes = 20 + random.multinomial(images - 20 * patients, np.full(patients, 1 / patients))
    owner = np.repeat(np.arange(patients), sizes)
    position = np.concatenate([np.arange(size) / size for size in sizes])
    subtypes = np.zeros((images, 5), np.float32)
    for column, positives in enumerate(POSITIVES[:5]):
        bleeds = random.random(patients) < 2 * positives / IMAGES
        start = random.uniform(0, 0.5, patients)[owner]
        subtypes[:, column] = bleeds[owner] & (position >= start) & (position < start + 0.5)
    names = np.array([f"ID_{number:09x}" for number in random.permutation(images)], object)
    labels = np.column_stack([subtypes, subtypes.max(axis=1)])
    return Cohort(
        names, _named(owner), labels, "synthetic images, patients and labels (set ICHX_TEST_DATA for real ones)"
    )


def write_long(cohort: Cohort, path: Path) -> None:
    """Write the cohort's labels as `ID,Label`, six rows per image and the first four images twice."""
    images = np.concatenate([cohort.images, cohort.images[:4]])
    values = np.concatenate([cohort.labels, cohort.labels[:4]]).astype(int)
    ids = [f"{image}_{label}" for image in images for label in LABELS]
    pd.DataFrame({"ID": ids, "Label": values.ravel()}).to_csv(path, index=False, compression={"method": "infer"})


def write_wide(cohort: Cohort, path: Path) -> None:
    """Write the cohort's labels as `image` and six columns."""
    table = pd.DataFrame(cohort.labels.astype(int), columns=list(LABELS))
    table.insert(0, "image", cohort.images)
    table.to_csv(path, index=False)


def _metadata(folder: Path) -> Path:
    return folder / "metadata" / "slices_78545.csv.gz"


def _named(owner: npt.NDArray[np.int64]) -> npt.NDArray[np.object_]:
    return np.array([f"p{number:05}" for number in range(owner.max() + 1)], object)[owner]
