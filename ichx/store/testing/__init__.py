"""The contract of the store as a test class, for this package and for other databases. Needs pytest.

Derive from `StoreContract` and override its `url` fixture:

    class TestMyDatabase(StoreContract):
        @pytest.fixture
        def url(self, tmp_path: Path) -> str:
            return f"sqlite:///{tmp_path / 'ichx.db'}"
"""

from ichx.store.testing.curation import CurationContract
from ichx.store.testing.datasets import DatasetContract
from ichx.store.testing.drafts import ensemble_draft, experiment_draft, prediction_draft, run_draft, version_draft
from ichx.store.testing.evaluations import EvaluationContract
from ichx.store.testing.experiments import ExperimentContract
from ichx.store.testing.reviews import ReviewContract
from ichx.store.testing.runs import RunContract

__all__ = [
    "StoreContract",
    "ensemble_draft",
    "experiment_draft",
    "prediction_draft",
    "run_draft",
    "version_draft",
]


class StoreContract(
    DatasetContract, ExperimentContract, RunContract, CurationContract, ReviewContract, EvaluationContract
):
    """All rules that a store obeys, whatever its database."""
