"""Finding experiments and keeping order among them, on SQLite."""

from pathlib import Path

import pytest

from ichx.store.testing_organise import OrganiseContract


class TestOrganiseSqlite(OrganiseContract):
    """The contract on a file."""

    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path / 'ichx.db'}"
