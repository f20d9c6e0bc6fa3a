"""Options of a run that do not change what the experiment is. No torch: other processes only pass them on."""

from dataclasses import dataclass
from pathlib import Path

from ichx.files import absolute_path

CHECKPOINT_SECONDS = 300.0
"""Default time between two checkpoints within an epoch."""
MAX_WORKERS = 16
"""Loader processes by default, if there are as many cores."""

INFERENCE_BATCH = 64
"""Rows at once where nothing is learned: a training's small batch would only cost time."""


@dataclass(frozen=True)
class RunOptions:
    """Options of a run; None means as in the recipe or as the machine allows."""

    device: str = "auto"
    pretrained: bool | None = None
    weights: Path | None = None
    """Start from what fits in this file."""
    workers: int | None = None
    """Loader processes."""
    checkpoint_every: float = CHECKPOINT_SECONDS
    """Seconds between checkpoints within an epoch; 0 writes one per epoch."""
    save_features: bool = False
    """Whether to write pooled features next to predictions."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """The options as arguments of `ichx run`."""
        arguments = ["--device", self.device]
        if self.pretrained is not None:
            arguments.append("--pretrained" if self.pretrained else "--no-pretrained")
        if self.weights is not None:
            arguments += ["--weights", str(absolute_path(self.weights))]
        if self.workers is not None:
            arguments += ["--workers", str(self.workers)]
        if self.checkpoint_every != CHECKPOINT_SECONDS:
            arguments += ["--checkpoint-every", f"{self.checkpoint_every:g}s"]
        if self.save_features:
            arguments += ["--save", "features"]
        return tuple(arguments)
