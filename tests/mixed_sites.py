"""A workspace with a mixture of two phantoms of different appearance and a part that trains only."""

from pathlib import Path

import pytest
from built_once import built_once

PARTS = {"site-a": (1.0, False), "site-b": (0.5, False), "site-c": (1.0, True)}
"""Weight of each part, and whether it trains only."""


@pytest.fixture(scope="session")
def mixed_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a workspace with the datasets `site-a` (with masks), `site-b` and `site-c` and a mixture `mixed`."""
    from ichx.datasets.add import AddRequest, add_dataset
    from ichx.datasets.mix import mix_datasets
    from ichx.datasets.mix_request import MixRequest, PartRequest
    from ichx.phantom.dicom_files import write_phantom
    from ichx.project import Project
    from ichx.store import open_store
    from ichx.workspace import init_workspace

    def build(folder: Path) -> Path:
        workspace = init_workspace(folder / "workspace")
        with open_store(workspace) as store:
            project = Project(workspace, store)
            for seed, (name, patients, size) in enumerate((("site-a", 6, 64), ("site-b", 4, 48), ("site-c", 2, 64))):
                test = 1 if name == "site-a" else 0
                files = write_phantom(
                    folder / name, patients=patients, seed=seed, size=size, test_patients=test, prevalence={"any": 0.4}
                )
                masks = files.train_masks if name == "site-a" else None
                request = AddRequest(name, files.train, labels=files.train_labels, masks=masks, folds=2)
                add_dataset(project, request)
                if files.test is not None:
                    sample = files.sample_submission
                    add_dataset(project, AddRequest("test-a", files.test, test_of="site-a", sample=sample))
            parts = tuple(PartRequest(name, None, weight, only) for name, (weight, only) in PARTS.items())
            mix_datasets(project, MixRequest("mixed", parts))
        return workspace.root

    return built_once(tmp_path_factory, "mixed", build)
