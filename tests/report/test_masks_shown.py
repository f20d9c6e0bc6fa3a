"""A report of a network that learnt masks shows these, to scale, in place of Grad-CAM, and says so."""

import base64
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from browser import PROGRAM, Browser
from conftest import SHORT

from ichx.datasets.add import AddRequest, add_dataset
from ichx.experiments.register import ExperimentRequest, new_experiment
from ichx.experiments.run import run_experiment
from ichx.labels import LABELS
from ichx.phantom.dicom_files import PhantomFiles
from ichx.plugins import load_registry
from ichx.project import Project
from ichx.report import write_report
from ichx.store import open_store
from ichx.training.run_options import RunOptions
from ichx.workspace import init_workspace

SIZE = 48
SAID = "The fourth picture is the mask that the network predicts"


@pytest.fixture(scope="module")
def pages(phantom: PhantomFiles, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the pages of a U-Net that learnt masks, of one whose recipe left them out, and of one without any."""
    workspace = init_workspace(tmp_path_factory.mktemp("masks") / "workspace")
    registry, written = load_registry(), {}
    with open_store(workspace) as store:
        for name, masks in (("ph", phantom.train_masks), ("bare", None)):
            add_dataset(
                Project(workspace, store),
                AddRequest(name, phantom.train, labels=phantom.train_labels, masks=masks, folds=2),
            )
        for kind, dataset, settings in (
            ("learnt", "ph", ()),
            ("left", "ph", ("model.mask_weight=0",)),
            ("bare", "bare", ()),
        ):
            made = new_experiment(
                store,
                registry,
                ExperimentRequest(plugin="tiny_unet", dataset=dataset, size=SIZE, settings=[*SHORT, *settings]),
            )
            options = RunOptions(device="cpu", workers=0)
            run_experiment(Project(workspace, store, registry), made.number, folds=[0], options=options)
            written[kind] = write_report(Project(workspace, store), made.number).path
    return written


def heats(page: str) -> list[np.ndarray]:
    """Return the heat maps of a page as (H, W, 4) uint8, in their order."""
    pattern = r'class="heat" data-heat="\w+"><image href="data:image/png;base64,([^"]+)"'
    found = [np.frombuffer(base64.b64decode(text), np.uint8) for text in re.findall(pattern, page)]
    return [np.asarray(cv2.imdecode(content, cv2.IMREAD_UNCHANGED)) for content in found]


def test_the_page_says_which_map_it_shows(pages: dict[str, Path]) -> None:
    for kind, path in pages.items():
        page = " ".join(path.read_text(encoding="utf-8").split())
        assert (SAID in page) == (kind == "learnt")
        assert ("The fourth picture is Grad-CAM" in page) == (kind != "learnt")
        assert (f"{SIZE} × {SIZE} pixels" in page) == (kind == "learnt")


def test_masks_are_shown_pixel_by_pixel_and_to_one_scale(pages: dict[str, Path]) -> None:
    shown = heats(pages["learnt"].read_text(encoding="utf-8"))
    assert len(shown) % len(LABELS) == 0
    assert {one.shape for one in shown} == {(SIZE, SIZE, 4)}
    # Hardly trained, it is sure of nothing: scaled to its own maximum each map would have a pixel of full colour.
    assert min(int(one[..., 3].max()) for one in shown) < 150
    for card in range(0, len(shown), len(LABELS)):
        alpha = np.stack([one[..., 3] for one in shown[card : card + len(LABELS)]])
        assert np.array_equal(alpha[-1], alpha[:-1].max(axis=0))
    coarse = heats(pages["left"].read_text(encoding="utf-8"))
    assert {one.shape[0] for one in coarse} < {1, 2, 3, 4}


@pytest.mark.skipif(PROGRAM is None, reason="chromium is not installed (apt-get install chromium)")
def test_the_page_in_a_browser(pages: dict[str, Path]) -> None:
    visible = (
        "[...document.querySelectorAll('.heat')].filter((o) => o.getClientRects().length).map((o) => o.dataset.heat)"
    )
    with Browser() as browser:
        browser.open(pages["learnt"])
        cards = browser.run("document.querySelectorAll('.card').length")
        browser.run("document.querySelector('label[for=choose-subdural]').click()")
        assert browser.run(visible) == ["subdural"] * cards
        assert browser.refused == []
