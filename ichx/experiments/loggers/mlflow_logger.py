"""Logs runs to an MLflow server: one MLflow run per run of a fold, with recipe, epochs and final state."""

import os
import time
from typing import TYPE_CHECKING, Any

from ichx.errors import MissingDependencyError
from ichx.experiments.callbacks import RunCallbacks
from ichx.recipe import flatten, literal
from ichx.training.callbacks import EpochResult

if TYPE_CHECKING:
    from ichx.recipe import Recipe
    from ichx.store import Experiment, Run

PARAMETERS = 100
"""Parameters that a server accepts at once."""
LONGEST = 500
"""Characters of a value that any server accepts."""
STATUS = {"done": "FINISHED", "stopped": "KILLED"}


class MlflowLogger(RunCallbacks):
    """Sends a run to the server, folder or database at `uri`, into the MLflow experiment called `group`."""

    label = "mlflow"

    def __init__(self, uri: str, group: str, experiment: "Experiment", recipe: "Recipe") -> None:
        self._uri, self._group = uri, group
        self._experiment, self._recipe = experiment, recipe
        self._client: Any = None
        self._run = ""

    def run_started(self, run: "Run") -> None:
        """Create a run, with the recipe's values as parameters."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would report its use to others than this server
        try:
            from mlflow import MlflowClient
            from mlflow.entities import Param
        except ImportError as error:
            raise MissingDependencyError(
                f"It cannot be imported ({error}).", "Install it: pip install 'ichx[mlflow]'."
            ) from error
        self._client = MlflowClient(tracking_uri=self._uri)
        known = self._client.get_experiment_by_name(self._group)
        group = self._client.create_experiment(self._group) if known is None else known.experiment_id
        e = self._experiment
        name = f"{e.number} {e.name}, fold {run.fold}, attempt {run.attempt}"
        tags = {
            "ichx.experiment": str(e.number),
            "ichx.name": e.name,
            "ichx.fold": str(run.fold),
            "ichx.attempt": str(run.attempt),
            "ichx.dataset": f"{e.dataset} v{e.dataset_version}",
            "ichx.recipe_digest": e.recipe_digest,
            "ichx.code_version": run.code_version,
            "ichx.device": run.device,
            "ichx.tags": ", ".join(e.tags),
        }
        self._run = self._client.create_run(group, tags=tags, run_name=name).info.run_id
        values = [Param(key, literal(value)[:LONGEST]) for key, value in flatten(self._recipe).items()]
        for first in range(0, len(values), PARAMETERS):
            self._client.log_batch(self._run, params=values[first : first + PARAMETERS])

    def epoch_ended(self, result: EpochResult) -> None:
        """Send an epoch's values as `STAGE/NAME`."""
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        values = [Metric(f"{result.stage}/{name}", value, now, result.epoch) for name, value in result.values.items()]
        self._client.log_batch(self._run, metrics=values)

    def fold_ended(self, fold: int, score: float) -> None:
        """Send the fold's OOF score."""
        self._client.log_metric(self._run, "oof_score", score)

    def run_finished(self, state: str, reason: str | None) -> None:
        """End the run."""
        if reason:
            self._client.set_tag(self._run, "ichx.reason", reason[:LONGEST])
        self._client.set_terminated(self._run, STATUS.get(state, "FAILED"))
