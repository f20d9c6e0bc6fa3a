"""Real RSNA slices through the whole job: added, trained on, and predicted with weights from the phantom."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Program

from ichx.datasets.dataset import load_dataset
from ichx.evaluation.metric import probabilities
from ichx.evaluation.predictions import read_predictions
from ichx.labels import LABELS
from ichx.project import Project
from ichx.store import open_store
from ichx.training.weights import read_weights
from ichx.workspace import init_workspace, open_workspace

STAGES = ("balanced", "rebalanced", "full")
SHORT = [f"--set=stage.{name}.epochs=1" for name in STAGES]
EVERY_SLICE = [f"--set=stage.{name}.sampling=all" for name in STAGES[:2]]
ASKED = 192
"""Ids of the sample submission: six for each of the study's 32 slices."""


@pytest.fixture
def mini(shared_data: Path) -> Path:
    return shared_data / "rsna_mini"


@pytest.fixture
def real(mini: Path, tmp_path: Path, ichx: Program) -> Path:
    """Return a workspace with `rsna` (20 slices, 2 folds) and its test set `rsna-test`, added as a user does."""
    root = init_workspace(tmp_path / "real").root
    labels, sample = mini / "stage_2_train.csv", mini / "stage_2_sample_submission.csv"
    train = ichx("data", "add", "rsna", mini / "stage_2_train", "--labels", labels, "--folds", 2, cwd=root)
    assert (train.code, train.out) == (0, "added rsna version 1: 20 slices\n")
    test = ichx("data", "add", "rsna-test", mini / "stage_2_test", "--test-of", "rsna", "--sample", sample, cwd=root)
    assert (test.code, test.out) == (0, "added rsna-test version 1: 32 slices\n")
    return root


def register(root: Path, ichx: Program, *settings: str) -> None:
    made = ichx("exp", "new", "--plugin", "tiny_resnet", "--size", 32, "--set=batch=4", *SHORT, *settings, cwd=root)
    assert made.code == 0, made.err


def test_what_was_added(real: Path, ichx: Program) -> None:
    shown = json.loads(ichx("data", "show", "rsna", "--json", cwd=real).out)
    assert (shown["version"]["patients"], shown["version"]["defects"]) == (20, 0)
    assert shown["version"]["summary"]["prevalences"] == dict.fromkeys(LABELS, 0.0)
    assert [fold["slices"] for fold in shown["folds"]] == [10, 10]
    workspace = open_workspace(real)
    with open_store(workspace) as store:
        slices = load_dataset(Project(workspace, store), "rsna-test").slices
    assert slices["series"].nunique() == 1
    assert slices["order"].tolist() == list(range(32))
    assert slices["position"].is_monotonic_increasing
    assert slices["slice_id"].tolist() != sorted(slices["slice_id"]), "the files are named in no order"


def test_a_few_steps_of_training(real: Path, ichx: Program) -> None:
    register(real, ichx, *EVERY_SLICE)
    done = ichx("run", 1, cwd=real)
    assert done.code == 0, done.err
    assert "Warning" not in done.err
    with open_store(open_workspace(real)) as store:
        assert store.experiment(1).state == "done"
        for fold in (0, 1):
            history = store.history(1, fold)
            assert [record.stage for record in history] == list(STAGES)
            assert [record.values["images"] for record in history] == [8, 8, 8]  # two batches of 4 out of 10 slices
            assert all(record.values["loss"] > 0 for record in history)
            assert history[-1].values["score"] < history[0].values["score"], "it learns that nothing is positive"


def test_without_positives_an_undersample_is_refused(real: Path, ichx: Program) -> None:
    """All 20 slices are negative: as many negatives as positives are none, and no loss of them exists."""
    register(real, ichx)
    refused = ichx("run", 1, cwd=real)
    assert (refused.code, refused.out) == (1, "")
    assert "Fold 0 has no training slice that is positive for `any`" in refused.err
    assert "no data for stage balanced, rebalanced" in refused.err
    assert "--set stage.balanced.sampling=all --set stage.rebalanced.sampling=all" in refused.err
    assert "Traceback" not in refused.err
    with open_store(open_workspace(real)) as store:
        assert store.runs(1) == []
        assert store.history(1, 0) == []
    assert not list((real / "experiments").rglob("*.pt"))


def test_weights_from_the_phantom_predict_the_real_study(
    real: Path, trained_root: Path, mini: Path, ichx: Program
) -> None:
    weights = trained_root / "experiments" / "1" / "fold-0" / "weights.safetensors"
    # Rates this small leave the phantom's weights as they are: the study is predicted with them.
    register(real, ichx, *EVERY_SLICE, *(f"--set=stage.{name}.lr=1e-12" for name in STAGES))
    done = ichx("run", 1, "--weights", weights, cwd=real)
    assert done.code == 0, done.err
    tensors = len(read_weights(weights))
    assert f"weights.safetensors: {tensors} of {tensors} tensors loaded" in done.err
    kept, given = read_weights(real / "experiments" / "1" / "fold-1" / "weights.safetensors"), read_weights(weights)
    learned = [name for name in given if name.endswith((".weight", ".bias"))]
    assert learned
    for name in learned:
        np.testing.assert_allclose(kept[name].numpy(), given[name].numpy(), atol=1e-6)

    out = real / "submission.csv"
    blended = ichx("ensemble", "--top", 1, "--tta", "hflip", "--out", out, cwd=real)
    assert blended.code == 0, blended.err
    asked = pd.read_csv(mini / "stage_2_sample_submission.csv")["ID"].tolist()
    submission = pd.read_csv(out)
    assert len(asked) == ASKED
    assert list(submission.columns) == ["ID", "Label"]
    assert submission["ID"].tolist() == asked
    assert submission["Label"].between(0, 1).all()
    assert submission["Label"].nunique() > 32, "slices differ"

    parts = [
        read_predictions(real / "experiments" / "1" / f"fold-{fold}" / f"test-rsna-test-v1-{view}.parquet")
        for fold in (0, 1)
        for view in ("identity", "hflip")
    ]
    mean = probabilities(np.mean([part.logits for part in parts], axis=0, dtype=np.float64))
    rows = {slice_id: row for row, slice_id in enumerate(parts[0].slice_ids)}
    for name, value in submission.itertuples(index=False):
        image, _, label = name.rpartition("_")
        assert value == pytest.approx(mean[rows[image], LABELS.index(label)], rel=1e-6), name
