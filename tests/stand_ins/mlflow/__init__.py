"""A stand-in for MLflow, which the tests do without: the calls that ichx makes, with MLflow's own signatures.

It writes each call as a line of JSON into the file that the tracking URI names;
`away://` is a server that is not there.
"""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class MlflowClient:
    def __init__(self, tracking_uri: str | None = None) -> None:
        self.uri = str(tracking_uri)

    def _write(self, call: str, **values: Any) -> None:
        if self.uri.startswith("away://"):
            raise ConnectionError(f"no server at {self.uri}")
        with Path(self.uri).open("a") as file:
            file.write(json.dumps({"call": call, **values}) + "\n")

    def get_experiment_by_name(self, name: str) -> SimpleNamespace | None:
        self._write("get_experiment_by_name", name=name)
        calls = [json.loads(line) for line in Path(self.uri).read_text().splitlines()]
        made = any(c["call"] == "create_experiment" and c["name"] == name for c in calls)
        return SimpleNamespace(experiment_id="1") if made else None

    def create_experiment(self, name: str) -> str:
        self._write("create_experiment", name=name)
        return "1"

    def create_run(self, experiment_id: str, *, tags: dict[str, str], run_name: str) -> SimpleNamespace:
        self._write("create_run", experiment_id=experiment_id, tags=tags, run_name=run_name)
        return SimpleNamespace(info=SimpleNamespace(run_id="abc"))

    def log_batch(self, run_id: str, metrics: tuple[Any, ...] = (), params: tuple[Any, ...] = ()) -> None:
        assert len(params) <= 100
        self._write("log_batch", metrics=[vars(m) for m in metrics], params={p.key: p.value for p in params})

    def log_metric(self, run_id: str, key: str, value: float) -> None:
        self._write("log_metric", key=key, value=value)

    def set_tag(self, run_id: str, key: str, value: str) -> None:
        self._write("set_tag", key=key, value=value)

    def set_terminated(self, run_id: str, status: str) -> None:
        self._write("set_terminated", status=status)
