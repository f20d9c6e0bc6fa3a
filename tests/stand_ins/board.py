"""A stand-in for `torch.utils.tensorboard`, which needs the package tensorboard: it writes what it is given as JSON."""

import json
from pathlib import Path


class SummaryWriter:
    def __init__(self, log_dir: str) -> None:
        Path(log_dir).mkdir(parents=True, exist_ok=True)
        self.path = Path(log_dir) / "events.jsonl"

    def _write(self, *values: object) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(values) + "\n")

    def add_text(self, tag: str, text: str) -> None:
        self._write("text", tag, text)

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self._write("scalar", tag, value, step)

    def flush(self) -> None:
        self._write("flush")

    def close(self) -> None:
        self._write("close")
