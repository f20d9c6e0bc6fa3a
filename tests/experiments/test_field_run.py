"""A field in millimetres and air beyond the ends: training, new files and heat maps read the same input."""

from pathlib import Path

import numpy as np
import pytest

from ichx.datasets.dataset import load_version
from ichx.evaluation.predictions import read_predictions
from ichx.experiments.callbacks import RunCallbacks
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.inference.export_slices import preprocessing
from ichx.inference.predict import predict_files
from ichx.inference.ready_model import ready_experiment
from ichx.inference.trained import InferenceOptions
from ichx.labels import LABELS
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.recipe_text import from_toml
from ichx.report.slice_heat import SliceToExplain, slice_heat
from ichx.store import open_store
from ichx.training.run_options import RunOptions
from ichx.workspace import open_workspace


@pytest.mark.slow
def test_every_consumer_reads_the_same_input(dataset_copy: Path, tmp_path: Path) -> None:
    workspace = open_workspace(dataset_copy)
    settings = ["input.field=150", "input.size=48", "input.crop=0", "input.ends=air", "batch=8"]
    settings += [f"stage.{name}.epochs=1" for name in ("balanced", "rebalanced", "full")]
    with open_store(workspace) as store:
        project = Project(workspace, store, load_registry())
        request = ExperimentRequest("tiny_fine_25d", settings=settings, dataset="ph")
        experiment = new_experiment(store, project.registry, request)
        run_experiment(project, experiment.number, folds=[0], options=RunOptions(device="cpu"))
        (stored,) = [
            p for p in store.predictions(experiment.number) if (p.fold, p.role, p.view) == (0, "oof", "identity")
        ]
        oof = read_predictions(workspace.root / stored.path)
        data = load_version(workspace, store.version("ph"))
        options = InferenceOptions(folds=[0], device="cpu", precision="fp32")
        model = ready_experiment(project, experiment.number, options, print)
        found = predict_files(project, model, data.source, callbacks=RunCallbacks())
        predicted = found.slices.set_index("slice_id")[list(LABELS)].loc[list(oof.slice_ids)].to_numpy()
        np.testing.assert_allclose(predicted, 1 / (1 + np.exp(-oof.logits)), atol=2e-2)  # bf16 in training
        assert any("150 mm" in step for step in preprocessing(from_toml(experiment.recipe).input))

        row = int(data.slices.index[data.slices["slice_id"] == oof.slice_ids[3]][0])
        series = data.slices[data.slices["series"] == data.slices["series"].iloc[row]]
        given = SliceToExplain("other", "unknown", data.source, series.assign(row=series.index), oof.slice_ids[3])
        decoded = slice_heat(project, experiment.number, 0, given, masks=False)
        from ichx.cache.hu_cache import slices_digest

        cached = SliceToExplain(
            "ph", slices_digest(data.slices), data.source, series.assign(row=series.index), oof.slice_ids[3]
        )
        np.testing.assert_allclose(slice_heat(project, experiment.number, 0, cached, masks=False), decoded, atol=1e-5)
