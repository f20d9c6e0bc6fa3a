"""Masks from the command line to the report: a U-Net learns where it bleeds, and does without."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import SHORT, Outcome, Program

from ichx.plugins import load_registry
from ichx.store import open_store
from ichx.training.events import RunEvents
from ichx.training.fold import RunOptions
from ichx.training.job import prepare_job
from ichx.training.register import new_experiment
from ichx.training.runner import run_experiment
from ichx.workspace import open_workspace


class Notes(RunEvents):
    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, message: str) -> None:
        self.said.append(message)


@pytest.fixture(scope="module")
def bled(tmp_path_factory: pytest.TempPathFactory, ichx_process: Program) -> Path:
    """Return a workspace with a phantom and its masks as `ph`, and without as `bare`, added from the command line."""
    root = tmp_path_factory.mktemp("unet")

    def typed(*arguments: object) -> Outcome:
        done = ichx_process(*arguments, cwd=root)
        assert done.code == 0, done.err
        return done

    typed("init", root)
    made = typed("data", "phantom", "made", "--patients", 10, "--seed", 5, "--size", 64, "--prevalence", "any=0.5")
    assert "--masks" in made.err
    source = ("made/stage_2_train", "--labels", "made/stage_2_train.csv", "--folds", 2)
    added = json.loads(typed("data", "add", "ph", *source, "--masks", "made/stage_2_train_masks", "--json").out)
    assert added["version"]["summary"]["masks"]["slices"] > 50
    typed("data", "add", "bare", *source)
    assert "masks of" in typed("data", "show", "ph").out
    assert "masks of" not in typed("data", "show", "bare").out
    return root


def dice(root: Path, number: int) -> list[float | None]:
    with open_store(open_workspace(root)) as store:
        return [record.values.get("dice") for record in store.history(number, 0)]


def test_a_unet_learns_where_it_bleeds(bled: Path, ichx_process: Program) -> None:
    size = ("--plugin", "tiny_unet", "--size", 48, "--dataset", "ph", "--json")
    learning = ("batch=8", "stage.full.epochs=8", "precision=fp32")
    still = ("stage.balanced.lr=1e-9", "stage.rebalanced.lr=1e-9", "stage.full.lr=1e-9", *SHORT)
    numbers = []
    for settings in (learning, still):
        chosen = [part for setting in settings for part in ("--set", setting)]
        made = ichx_process("exp", "new", *size, *chosen, cwd=bled)
        assert made.code == 0, made.err
        numbers.append(json.loads(made.out)["number"])
        done = ichx_process("run", numbers[-1], "--fold", 0, "--device", "cpu", cwd=bled)
        assert done.code == 0, done.err
    learnt, untrained = (dice(bled, number)[-1] for number in numbers)
    assert learnt is not None
    assert untrained is not None
    assert np.isfinite(dice(bled, numbers[0])).all()
    assert learnt > untrained + 0.1
    report = ichx_process("report", numbers[0], "--json", cwd=bled)
    assert report.code == 0, report.err
    page = (bled / "experiments" / str(numbers[0]) / "report.html").read_text()
    assert "the mask that the network predicts" in page
    assert "Grad-CAM of" not in page


def test_without_masks_labels_alone_are_learnt_and_that_is_told_once(bled: Path) -> None:
    workspace, notes = open_workspace(bled), Notes()
    with open_store(workspace) as store:
        made = new_experiment(store, load_registry(), plugin="tiny_unet", dataset="bare", size=32, settings=SHORT)
        run_experiment(
            workspace, store, load_registry(), made.number, events=notes, options=RunOptions(device="cpu", workers=0)
        )
        assert [note for note in notes.said if "mask" in note] == [
            "bare has no masks: model.mask_weight has no effect, only labels are learnt"
        ]
        assert store.experiment(made.number).score is not None
        assert dice(bled, made.number) == [None] * 3


def test_masks_have_no_effect_where_they_are_not_asked_for(bled: Path) -> None:
    workspace, notes = open_workspace(bled), Notes()
    with open_store(workspace) as store:
        for plugin, weight in (("tiny_unet", 0), ("tiny_resnet", 0), ("tiny_resnet", 2)):
            settings = (*SHORT, f"model.mask_weight={weight}")
            made = new_experiment(store, load_registry(), plugin=plugin, dataset="ph", size=32, settings=settings)
            assert prepare_job(workspace, store, load_registry(), made, notes).masks is None
    assert notes.said == ["tiny_resnet predicts no masks: model.mask_weight has no effect, only labels are learnt"]
