"""Audit of pseudo-labels: whether a training read only what the networks of its own fold predicted, and scores none.

Predictions, blends and rules are read again, and the labels follow from them once more. The checks are part of
`ichx.evaluation.audit`.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ichx.datasets.dataset import LoadedDataset, load_version
from ichx.datasets.fold_labels import FoldLabels, read_fold_labels
from ichx.datasets.fold_masks import MASKS, masks_of_parts
from ichx.datasets.fold_numbers import TRAIN_ONLY
from ichx.datasets.pseudo_parts import AssignedFolds, different_folds
from ichx.datasets.shared_patients import of_shared_patients
from ichx.errors import NotFoundError
from ichx.evaluation.checks import UnknownError, WrongError
from ichx.evaluation.member_outputs import inputs_of
from ichx.evaluation.pseudo_blends import read_blends
from ichx.evaluation.pseudo_labels import ROLE, LabelRule, PseudoSource, predicted_by_fold
from ichx.files import sha256_file
from ichx.labels import PSEUDO
from ichx.text import format_count, format_examples

if TYPE_CHECKING:
    from ichx.project import Project
    from ichx.store import DatasetVersion

Folds = npt.NDArray[np.int16]


@dataclass(frozen=True)
class PseudoAudit:
    """The checks of the pseudo-labels of one dataset version in an experiment."""

    project: "Project"
    version: "DatasetVersion"
    """The version with the pseudo-labels."""

    @property
    def origin(self) -> dict[str, Any]:
        """What is recorded of the labels."""
        origin: dict[str, Any] = self.version.summary[PSEUDO]
        return origin

    @cached_property
    def labels(self) -> FoldLabels:
        """The labels; raises if they were changed."""
        labels = read_fold_labels(self.project.workspace, self.version)
        assert labels is not None  # the version has some
        return labels

    @cached_property
    def own(self) -> LoadedDataset:
        """The slices of the version."""
        return load_version(self.project.workspace, self.version)

    def unscored(self, slices: pd.DataFrame, folds: Folds) -> tuple[str, None]:
        """Check that the labels are the recorded ones, and that no fold validates on one of their slices."""
        ids = pd.Index(slices["slice_id"])
        rows = ids.get_indexer(pd.Index(self.own.slices["slice_id"]))
        scored = rows[(rows >= 0) & (folds[rows] != TRAIN_ONLY)]
        if len(scored):
            raise WrongError(
                f"{format_count(len(scored), 'slice')} with pseudo-labels would be scored"
                f"{format_examples(map(str, ids[scored]), len(scored))}"
            )
        counts = ", ".join(f"{count['slices']:,}" for count in self.origin["counts"])
        by = self.origin["by"]
        return f"digest {self.labels.digest} by {by['kind']} {by['number']}, {counts} slices by fold, none scored", None

    def patients(self, version: "DatasetVersion", slices: pd.DataFrame, folds: Folds) -> tuple[str, None]:
        """Check that no patient with pseudo-labels is in the labelled part of an experiment's `version`."""
        labelled = slices[folds != TRAIN_ONLY]
        shared = of_shared_patients(self.project.workspace, self.version, self.own.slices, version, labelled)
        if shared.any():
            names = np.unique(self.own.slices["patient"].to_numpy(object)[shared])
            raise WrongError(
                f"{format_count(len(names), 'patient')} with pseudo-labels in the labelled part"
                f"{format_examples(map(str, names), len(names))}"
            )
        count = format_count(self.version.patients, "patient")
        return f"none of {count} is among the {labelled['patient'].nunique():,} of the labelled part", None

    def same_folds(self, assigned: AssignedFolds) -> tuple[str, None]:
        """Check that a fold has the same patients here as in the training of the networks."""
        try:
            known, differs = different_folds(self.project, self.origin, assigned)
        except NotFoundError as error:
            raise UnknownError(f"{error.problem.rstrip('.')}: its folds cannot be compared") from error
        if len(differs):
            raise WrongError(
                f"{format_count(len(differs), 'labelled slice')} in another fold than in the training of the networks"
                f"{format_examples(differs, len(differs))}"
            )
        return f"{format_count(known, 'labelled slice')} in the same fold as in the training of the networks", None

    def fold(self, fold: int) -> tuple[str, None]:
        """Check that the labels of `fold` follow from predictions of networks that trained without it."""
        networks = self._networks(fold)
        source, of = self._source(), self.origin["of"]
        try:
            data = load_version(self.project.workspace, self.project.store.version(of["dataset"], of["version"]))
        except NotFoundError as error:
            raise UnknownError(f"{error.problem.rstrip('.')}: the labels cannot be computed again") from error
        self._predictions(fold, data.version.id)
        rule = LabelRule.parse(self.origin["keep"], hard=self.origin["hard"])
        ids, p, _ = predicted_by_fold(self.project, source, data, fold)
        kept = rule.kept(p)
        again = FoldLabels.of({fold: (ids[kept], rule.labels(p[kept]))})
        stored = FoldLabels(self.labels.table[self.labels.table["fold"] == fold].reset_index(drop=True))
        if again.digest != stored.digest:
            raise WrongError(
                f"the labels are not those that the networks of fold {fold} predict: digest {stored.digest}, "
                f"computed again {again.digest}"
            )
        by = format_count(networks, "network")
        return f"{len(again.table):,} slices, computed again from {by} of fold {fold} alone", None

    def masks(self, fold: int) -> tuple[str, None]:
        """Check that the masks of `fold` are the recorded ones, of labelled slices, by networks without the fold."""
        recorded = self.origin[MASKS]
        masks = masks_of_parts(self.version)[self.version.dataset].read(self.project.workspace, fold)
        labelled = set(self.labels.table["slice_id"][self.labels.table["fold"] == fold])
        if others := sorted(set(masks.slice_ids) - labelled):
            examples = format_examples(map(str, others), len(others))
            raise WrongError(f"{format_count(len(others), 'mask')} of slices without labels in fold {fold}{examples}")
        experiments = recorded["experiments"]
        unknown = [n for n in experiments if f"{n}/{fold}" not in self.origin["by"]["networks"]]
        if unknown or not experiments:
            raise WrongError(f"no network of fold {fold} of experiment {', '.join(map(str, unknown))} is recorded")
        self._networks(fold)
        by = ", ".join(map(str, experiments))
        return (
            f"digest {masks.digest}, {format_count(len(masks.pngs), 'mask')} by fold {fold} of experiment {by} alone, "
            "none scored",
            None,
        )

    def _source(self) -> PseudoSource:
        """Return the source as it was recorded."""
        by = self.origin["by"]
        try:
            experiments = {at: self.project.store.experiment(n) for at, n in enumerate(by["experiments"])}
        except NotFoundError as error:
            raise UnknownError(f"{error.problem.rstrip('.')}: the labels cannot be computed again") from error
        blends = read_blends(self.project.workspace.root / self.version.path)
        if (blends is None) != (by["kind"] == "experiment"):
            raise WrongError("the blends behind the labels are missing")
        folds = tuple(range(self.origin["folds"]))
        tta, average = self.origin["tta"], self.origin["average"]
        return PseudoSource(by["kind"], by["number"], by["name"], experiments, folds, tta, average, blends)

    def _networks(self, fold: int) -> int:
        """Return the number of networks of the fold; check that each trained without it and is unchanged."""
        import safetensors

        recorded = {key: digest for key, digest in self.origin["by"]["networks"].items() if key.endswith(f"/{fold}")}
        if not recorded:
            raise WrongError(f"no network of fold {fold} is recorded")
        for key, digest in recorded.items():
            number = int(key.partition("/")[0])
            path = self.project.workspace.experiment_files(number).fold(fold).weights
            what = f"the weights of fold {fold} of experiment {number}"
            if not path.is_file():
                raise UnknownError(f"{what} are gone")
            if sha256_file(path) != digest:
                raise UnknownError(f"{what} have changed since the labels were created")
            with safetensors.safe_open(path, framework="numpy") as opened:
                metadata = opened.metadata() or {}
            experiment = self.project.store.experiment(number)
            if metadata.get("fold") != str(fold) or experiment.leaked or inputs_of(experiment) == ("logits",):
                raise WrongError(f"{what} were trained on patients of fold {fold}")
        return len(recorded)

    def _predictions(self, fold: int, version_id: int) -> None:
        """Check that the predictions behind the labels are unchanged."""
        for key, digest in self.origin["predictions"].items():
            number, of_fold, view = key.split("/")
            if int(of_fold) != fold:
                continue
            stored = self.project.store.predictions(int(number), role=ROLE, version_id=version_id)
            found = next((p for p in stored if (p.fold, p.view) == (fold, view)), None)
            path = None if found is None else self.project.workspace.root / found.path
            if path is None or not path.is_file():
                raise UnknownError(f"the predictions of fold {fold} of experiment {number} are gone")
            if sha256_file(path) != digest:
                raise UnknownError(f"{path.name} of experiment {number} was predicted again since")
