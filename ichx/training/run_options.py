"""What a run may choose without changing what the experiment is. Without torch, for those who only pass it on."""

from dataclasses import dataclass
from pathlib import Path

EVERY_SECONDS = 300.0
"""Between two checkpoints within an epoch, unless the user says otherwise."""
MOST_WORKERS = 16
"""Loader processes of a run that nobody limits, where there are as many cores."""


@dataclass(frozen=True)
class RunOptions:
    """The choices of a run; `None` means as the recipe or the machine has it.

    `checkpoint_every` is in seconds: 0 leaves it at one checkpoint per epoch.
    """

    device: str = "auto"
    pretrained: bool | None = None
    weights: Path | None = None
    workers: int | None = None
    checkpoint_every: float = EVERY_SECONDS
    save_features: bool = False

    @property
    def arguments(self) -> tuple[str, ...]:
        """The options as `ichx run` is told them."""
        told = ["--device", self.device]
        if self.pretrained is not None:
            told.append("--pretrained" if self.pretrained else "--no-pretrained")
        if self.weights is not None:
            told += ["--weights", str(self.weights.resolve())]
        if self.workers is not None:
            told += ["--workers", str(self.workers)]
        if self.checkpoint_every != EVERY_SECONDS:
            told += ["--checkpoint-every", f"{self.checkpoint_every:g}s"]
        if self.save_features:
            told += ["--save", "features"]
        return tuple(told)
