"""Drafts for tests of the store, with arbitrary but plausible values."""

import os
import socket

from ichx.store import (
    DatasetVersion,
    EnsembleDraft,
    EnsembleMember,
    ExperimentDraft,
    FoldDraft,
    PredictionDraft,
    RunDraft,
    VersionDraft,
)


def version_draft(
    dataset: str = "train", *, test_of: str | None = None, k: int = 3, digest: str = "d1", leaking: int = 0
) -> VersionDraft:
    """Return a labelled version with `k` folds that share `leaking` patients, or a test set of `test_of`."""
    return VersionDraft(
        dataset=dataset,
        test_of=test_of,
        source="/data/files",
        path=f"datasets/{dataset}/{digest}",
        digest=digest,
        label_digest=None if test_of else f"labels-{digest}",
        slices=120,
        patients=6,
        defects=1,
        sample="sample.csv" if test_of else None,
        summary={"positive": {"any": 17}, "spacing": [0.5, 5.0]},
        folds=() if test_of else (FoldDraft("default", k, 7, f"folds-{digest}", leaking),),
    )


def experiment_draft(version: DatasetVersion, name: str = "first", parent: int | None = None) -> ExperimentDraft:
    """Return an experiment pinned to `version` and its first folds."""
    assert version.label_digest is not None
    return ExperimentDraft(
        name=name,
        plugin="tiny_resnet",
        size=64,
        window_kind="sigmoid",
        recipe='[model]\nbackbone = "test_resnet"\n',
        recipe_digest="r1",
        version_id=version.id,
        label_digest=version.label_digest,
        fold_set_id=version.folds[0].id,
        fold_digest=version.folds[0].digest,
        epochs=8,
        parent=parent,
    )


def run_draft(experiment: int = 1, fold: int = 0, *, host: str | None = None, pid: int | None = None) -> RunDraft:
    """Return a run of a fold, by default in this process."""
    return RunDraft(
        experiment=experiment,
        fold=fold,
        host=socket.gethostname() if host is None else host,
        pid=os.getpid() if pid is None else pid,
        code_version="0.1.0+g1234567",
        libraries={"torch": "2.6.0"},
        device="cpu, fp32",
        command=f"ichx run {experiment} --fold {fold}",
    )


def prediction_draft(version_id: int, fold: int = 0, view: str = "identity", role: str = "oof") -> PredictionDraft:
    """Return a prediction of experiment 1."""
    return PredictionDraft(
        experiment=1,
        fold=fold,
        version_id=version_id,
        role=role,
        view=view,
        path=f"experiments/1/fold-{fold}/{role}-{view}.parquet",
        slices=40,
        digest="p1",
        score=0.1 if role == "oof" else None,
    )


def ensemble_draft(version: DatasetVersion, *members: int, partial: str | None = None) -> EnsembleDraft:
    """Return an ensemble of the experiments `members` with equal weights."""
    return EnsembleDraft(
        dataset=version.dataset,
        version_id=version.id,
        fold_digest=version.folds[0].digest,
        tta="hflip",
        method="convex",
        score=0.061,
        nested_score=0.0613,
        partial=partial,
        submissions=("ensembles/1/hidden.csv",),
        members=tuple(EnsembleMember(number, 1 / len(members), 0.063) for number in members),
    )
