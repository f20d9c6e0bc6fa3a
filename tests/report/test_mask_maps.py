"""The report of a network that was trained with masks shows predicted masks instead of Grad-CAM."""

import base64
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import SHORT
from report_browser import OpenReport

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
DESCRIPTION = "The fourth image is the predicted mask"


@pytest.fixture(scope="module")
def pages(phantom: PhantomFiles, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the pages of a U-Net trained with masks, with mask weight 0, and on a dataset without masks."""
    workspace = init_workspace(tmp_path_factory.mktemp("masks") / "workspace")
    registry, paths = load_registry(), {}
    with open_store(workspace) as store:
        for name, masks in (("ph", phantom.train_masks), ("no-masks", None)):
            add_dataset(
                Project(workspace, store),
                AddRequest(name, phantom.train, labels=phantom.train_labels, masks=masks, folds=2),
            )
        for kind, dataset, settings in (
            ("trained", "ph", ()),
            ("weight 0", "ph", ("model.mask_weight=0",)),
            ("no masks", "no-masks", ()),
        ):
            experiment = new_experiment(
                store,
                registry,
                ExperimentRequest(plugin="tiny_unet", dataset=dataset, size=SIZE, settings=[*SHORT, *settings]),
            )
            options = RunOptions(device="cpu", workers=0)
            run_experiment(Project(workspace, store, registry), experiment.number, folds=[0], options=options)
            paths[kind] = write_report(Project(workspace, store), experiment.number).path
    return paths


def heat_maps(page: str) -> list[np.ndarray]:
    """Return the heat maps of a page in order, as `(H, W, 4)` uint8."""
    pattern = r'class="heat" data-heat="\w+"><image href="data:image/png;base64,([^"]+)"'
    found = [np.frombuffer(base64.b64decode(text), np.uint8) for text in re.findall(pattern, page)]
    return [np.asarray(cv2.imdecode(content, cv2.IMREAD_UNCHANGED)) for content in found]


def test_the_page_describes_its_maps(pages: dict[str, Path]) -> None:
    for kind, path in pages.items():
        page = " ".join(path.read_text(encoding="utf-8").split())
        assert (DESCRIPTION in page) == (kind == "trained")
        assert ("The fourth image is the Grad-CAM" in page) == (kind != "trained")
        assert (f"{SIZE} × {SIZE} pixels" in page) == (kind == "trained")


def test_masks_have_full_resolution_and_one_scale(pages: dict[str, Path]) -> None:
    shown = heat_maps(pages["trained"].read_text(encoding="utf-8"))
    assert len(shown) % len(LABELS) == 0
    assert {one.shape for one in shown} == {(SIZE, SIZE, 4)}
    # The network is hardly trained, so all probabilities are low; maps scaled to their maximum would reach 190.
    assert min(int(one[..., 3].max()) for one in shown) < 150
    for card in range(0, len(shown), len(LABELS)):
        alpha = np.stack([one[..., 3] for one in shown[card : card + len(LABELS)]])
        assert np.array_equal(alpha[-1], alpha[:-1].max(axis=0))
    coarse = heat_maps(pages["weight 0"].read_text(encoding="utf-8"))
    assert {one.shape[0] for one in coarse} < {1, 2, 3, 4}


def test_selecting_a_label_shows_its_masks(pages: dict[str, Path], open_report: OpenReport) -> None:
    visible = (
        "[...document.querySelectorAll('.heat')].filter((o) => o.getClientRects().length).map((o) => o.dataset.heat)"
    )
    view = open_report(pages["trained"])
    cards = view.page.locator(".card").count()
    view.page.locator(".chooser label[for=choose-subdural]").click()
    assert view.run(visible) == ["subdural"] * cards
    assert view.errors == []
