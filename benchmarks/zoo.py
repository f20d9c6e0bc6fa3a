"""The zoo: each built-in plugin trains at small size, stops, resumes, exports, predicts, and reads a file of timm.

    python benchmarks/zoo.py [--quick] [--json FILE] [--model NAME]

Every network has its own architecture and recipe, except for the image size (64 px), the batch (8) and three epochs of
all slices of a phantom at a rate of 1e-3. A run is stopped with SIGTERM after its second epoch and run again. `--quick`
takes the tiny networks only. Networks over series read two trained tiny networks.
"""

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import timm
from common import Figure, arguments, conclude
from safetensors.torch import save_file

from ichx.datasets.add import AddRequest, add_dataset
from ichx.experiments.callbacks import RunCallbacks
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.register_sequence import new_sequence
from ichx.experiments.run import run_experiment
from ichx.inference.export import TOLERANCE, ExportRequest, export_experiment
from ichx.inference.predict import predict_files
from ichx.inference.ready_model import ready_experiment
from ichx.inference.trained import InferenceOptions
from ichx.phantom.dicom_files import write_phantom
from ichx.plugins import Plugin, load_registry
from ichx.project import Project
from ichx.store import open_store
from ichx.training.callbacks import EpochResult
from ichx.training.network_head import head_names
from ichx.training.run_options import RunOptions
from ichx.training.stop_request import RunStopped
from ichx.training.weight_matching import match_weights
from ichx.training.weights import read_weights
from ichx.workspace import init_workspace

EPOCHS, PIXELS, BATCH, RATE = 3, 64, 8, 1e-3
PLUGINS = {name: plugin for name, plugin in load_registry().plugins.items() if plugin.build.__module__[:5] == "ichx."}


@dataclass
class Losses(RunCallbacks):
    """Remembers the training loss of each epoch; requests a stop after `stop_after` of them."""

    stop_after: int = 0
    losses: list[float] = field(default_factory=list)

    def epoch_ended(self, result: EpochResult) -> None:
        self.losses.append(result.values["loss"])
        if len(self.losses) == self.stop_after:
            os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    options = arguments(__doc__, models=tuple(PLUGINS))
    chosen = options.model or [name for name in PLUGINS if name.startswith("tiny_") or not options.quick]
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        files = write_phantom(folder / "files", patients=4, test_patients=1, seed=1, size=PIXELS)
        workspace = init_workspace(folder / "workspace")
        with open_store(workspace) as store:
            project = Project(workspace, store, load_registry())
            add_dataset(project, AddRequest("phantom", files.train, labels=files.train_labels, folds=2))
            for name in chosen:
                began = time.perf_counter()
                check = series if PLUGINS[name].kind == "sequence" else images
                found = list(check(project, PLUGINS[name], folder))
                figures += found
                state = "" if all(figure.met for figure in found) else ", NOT MET"
                print(f"{name}: {time.perf_counter() - began:.0f} s{state}", flush=True)
    conclude(figures, options)


def images(project: Project, plugin: Plugin, folder: Path) -> Iterator[Figure]:
    """Check a network for images."""
    experiment = new_experiment(project.store, project.registry, ExperimentRequest(plugin.name, settings=small(plugin)))
    yield from trained(project, plugin.name, experiment.number, [0])
    for format in ("safetensors", "torch-export"):
        (made,) = export_experiment(project, experiment.number, ExportRequest(format, [0]), callbacks=RunCallbacks())
        met = made.difference <= TOLERANCE
        yield Figure(f"{plugin.name}, {format}", made.difference, "", "the network", f"at most {TOLERANCE:g}", met)
    yield predicted(project, plugin.name, experiment.number, folder)
    yield file_of_timm(plugin, folder)


def series(project: Project, plugin: Plugin, folder: Path) -> Iterator[Figure]:
    """Check a network over series."""
    members = [e.number for e in project.store.experiments(limit=None) if e.name.startswith("member-")]
    for name in () if members else ("tiny_fine", "tiny_resnet"):
        request = ExperimentRequest(name, settings=small(PLUGINS[name]), name=f"member-{name}")
        members.append(new_experiment(project.store, project.registry, request).number)
        run_experiment(project, members[-1], options=RunOptions(device="cpu", pretrained=False))
    settings = [f"stage.{PLUGINS[plugin.name].recipe.stage[0].name}.epochs={EPOCHS}", "sequence.average_last=1"]
    experiment = new_sequence(project, ExperimentRequest(plugin.name, settings=settings), sorted(members))[0]
    yield from trained(project, plugin.name, experiment.number, [0])
    yield predicted(project, plugin.name, experiment.number, folder)


def small(plugin: Plugin) -> list[str]:
    """Return the settings of a training of `EPOCHS` epochs over all slices."""
    stages = plugin.recipe.stage
    epochs = EPOCHS // len(stages)
    of_stages = [
        f"stage.{stage.name}.{value}"
        for stage in stages
        for value in (
            f"epochs={epochs}",
            "sampling=all",
            f"lr={RATE}",
            *(["milestones=[]"] if stage.milestones else []),
        )
    ]
    return [f"input.size={PIXELS}", "input.crop=0", f"batch={BATCH}", "model.pretrained=false", *of_stages]


def trained(project: Project, name: str, number: int, folds: list[int]) -> Iterator[Figure]:
    """Train, stop after the second epoch, and resume."""
    options = RunOptions(device="cpu", pretrained=False)
    first, second = Losses(stop_after=2), Losses()
    try:
        run_experiment(project, number, folds=folds, options=options, callbacks=first)
    except RunStopped:
        pass
    run_experiment(project, number, folds=folds, options=options, callbacks=second)
    losses = first.losses + second.losses
    resumed = len(first.losses) == 2 and len(losses) == EPOCHS
    yield Figure(f"{name}, epochs of the second run", len(second.losses), "", "3 in all", "1", resumed)
    fall = losses[-1] / losses[0]
    yield Figure(f"{name}, loss of epoch 3", fall, "x", f"epoch 1 ({losses[0]:.3f})", "below 1", fall < 1)


def predicted(project: Project, name: str, number: int, folder: Path) -> Figure:
    """Predict the files of a test patient."""
    options = InferenceOptions(folds=[0], device="cpu")
    model = ready_experiment(project, number, options, print)
    found = predict_files(project, model, folder / "files" / "stage_2_test", callbacks=RunCallbacks())
    complete = found.predicted == len(found.slices) > 0
    return Figure(f"{name}, predicted", found.predicted, "slices", f"{len(found.slices)} files", "all", complete)


def file_of_timm(plugin: Plugin, folder: Path) -> Figure:
    """Load a file with the weights of timm's own network of the same backbone."""
    recipe = plugin.recipe
    if plugin.backbones != "timm":
        return Figure(f"{plugin.name}, file of timm", 0, "", "not a network of timm", "-", True)
    network = plugin.build(recipe, False)
    path = folder / "timm.safetensors"
    save_file(timm.create_model(recipe.model.backbone, pretrained=False).state_dict(), path)
    report = match_weights(network, read_weights(path))
    own = [key for key in network.state_dict() if not key.startswith(("decoder.", "segmentation_head."))]
    missing = set(own) - set(report.tensors) - head_names(network)
    name = f"{plugin.name}, backbone tensors missing in a file of timm"
    return Figure(name, len(missing), "", f"{len(report.tensors)} loaded", "0", not missing)


if __name__ == "__main__":
    main()
