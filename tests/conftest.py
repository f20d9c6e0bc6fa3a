"""Fixtures for the whole suite."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real CT data; tests that need it skip where it is absent."""
    default = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"
    folder = Path(os.environ.get("ICHX_TEST_DATA", default)).resolve()
    if not (folder / "rsna_mini").is_dir():
        pytest.skip(f"no real CT data at {folder}; set ICHX_TEST_DATA")
    return folder


@pytest.fixture(autouse=True)
def _no_inherited_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's own workspace and store out of the tests."""
    monkeypatch.delenv("ICHX_WORKSPACE", raising=False)
    monkeypatch.delenv("ICHX_STORE", raising=False)
