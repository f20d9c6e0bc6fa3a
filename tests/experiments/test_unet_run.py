"""Masks from the command line to the report: a U-Net learns where it bleeds, and does without."""

import json
from pathlib import Path

import pytest
from conftest import SHORT, Program

from ichx.datasets.add import AddRequest, add_dataset
from ichx.experiments.callbacks import RunCallbacks
from ichx.experiments.prepare import prepare_experiment
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.phantom.dicom_files import PhantomFiles
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.store import open_store
from ichx.training.run_options import RunOptions
from ichx.workspace import init_workspace, open_workspace

pytestmark = pytest.mark.slow


class Notes(RunCallbacks):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def note(self, message: str) -> None:
        self.messages.append(message)


@pytest.fixture(scope="module")
def bled(phantom: PhantomFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace with the phantom and its masks as `ph`, and without as `bare`."""
    workspace = init_workspace(tmp_path_factory.mktemp("unet") / "workspace")
    with open_store(workspace) as store:
        for name, masks in (("ph", phantom.train_masks), ("bare", None)):
            add_dataset(
                Project(workspace, store),
                AddRequest(name, phantom.train, labels=phantom.train_labels, masks=masks, folds=2),
            )
    return workspace.root


def dice(root: Path, number: int) -> list[dict[str, float]]:
    """Return what each epoch of fold 0 recorded of the masks."""
    with open_store(open_workspace(root)) as store:
        history = store.history(number, 0)
    return [{name: value for name, value in r.values.items() if name.startswith("dice")} for r in history]


def test_a_unet_learns_masks(bled: Path, ichx: Program) -> None:
    """From the command line to the report, against a network that stays as it began."""
    new = ("exp", "new", "--plugin", "tiny_unet", "--size", 48, "--dataset", "ph")
    learning = ("batch=8", "stage.full.epochs=5", "precision=fp32")
    still = ("stage.balanced.lr=1e-9", "stage.rebalanced.lr=1e-9", "stage.full.lr=1e-9", *SHORT)
    for number, settings in enumerate((learning, still), start=1):
        chosen = [part for setting in settings for part in ("--set", setting)]
        for arguments in ((*new, *chosen), ("run", number, "--fold", 0, "--device", "cpu")):
            done = ichx(*arguments, cwd=bled)
            assert done.code == 0, done.err
    learnt, untrained = dice(bled, 1)[-1], dice(bled, 2)[-1]
    assert set(learnt) == set(untrained)
    assert {"dice", "dice_subdural"} <= set(learnt)
    assert all(0 <= value <= 1 for value in learnt.values())
    # Subdural bleeds are large, and so the first that few steps teach.
    assert learnt["dice_subdural"] > untrained["dice_subdural"] + 0.15
    assert learnt["dice"] > untrained["dice"]
    assert ichx("report", 1, cwd=bled).code == 0
    page = (bled / "experiments" / "1" / "report.html").read_text(encoding="utf-8")
    assert "is the predicted mask" in page
    assert "is the Grad-CAM of" not in page


def test_masks_are_added_from_the_command_line(tmp_path: Path, phantom: PhantomFiles, ichx: Program) -> None:
    init_workspace(tmp_path / "w")
    source = (phantom.train, "--labels", phantom.train_labels, "--folds", 2)
    added = ichx("data", "add", "ph", *source, "--masks", phantom.train_masks, "--json", cwd=tmp_path / "w")
    assert added.code == 0, added.err
    masks = len(list(phantom.train_masks.iterdir()))
    assert json.loads(added.out)["version"]["summary"]["masks"]["slices"] == masks
    assert f"masks: {masks:,} slices;" in ichx("data", "show", "ph", cwd=tmp_path / "w").out
    refused = ichx("data", "add", "other", *source, "--masks", phantom.train, cwd=tmp_path / "w")
    assert refused.code == 1
    assert "has no PNG or NIfTI files" in refused.err


def test_without_masks_only_labels_are_learned_with_one_note(bled: Path) -> None:
    workspace, notes = open_workspace(bled), Notes()
    with open_store(workspace) as store:
        made = new_experiment(
            store, load_registry(), ExperimentRequest(plugin="tiny_unet", dataset="bare", size=32, settings=SHORT)
        )
        run_experiment(
            Project(workspace, store, load_registry()),
            made.number,
            callbacks=notes,
            options=RunOptions(device="cpu", workers=0),
        )
        (note,) = (note for note in notes.messages if "mask" in note)
        assert "bare" in note
        assert "model.mask_weight" in note
        assert store.experiment(made.number).score is not None
        assert dice(bled, made.number) == [{}] * 3


def test_masks_have_no_effect_without_a_weight(bled: Path) -> None:
    workspace, notes = open_workspace(bled), Notes()
    with open_store(workspace) as store:
        for plugin, weight in (("tiny_unet", 0), ("tiny_resnet", 0), ("tiny_resnet", 2)):
            settings = (*SHORT, f"model.mask_weight={weight}")
            made = new_experiment(
                store, load_registry(), ExperimentRequest(plugin=plugin, dataset="ph", size=32, settings=settings)
            )
            assert prepare_experiment(Project(workspace, store, load_registry()), made, notes).masks is None
    assert notes.messages == ["tiny_resnet predicts no masks: model.mask_weight has no effect, only labels are learned"]
