"""Sync points of a loop: when its processes stop computing to exchange losses, checkpoints and stop requests.

A sync point makes the device and the other processes wait, so there is one per second or per `MAX_STEPS` steps,
whichever comes first, in all processes after the same step. Results do not depend on when sync points are.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ichx.training.distributed import Group
from ichx.training.stop_request import StopRequest

MAX_STEPS = 16
SECONDS = 1.0


@dataclass(frozen=True)
class Agreement:
    """What all processes know after a sync point."""

    values: list[Any]
    """The value of each process, by rank."""
    save: bool
    """Whether a checkpoint is due."""
    stop: int | None
    """The signal that requests a stop."""


class StepSync:
    """Sync points of one loop after another; call `begin` before a loop's first step."""

    def __init__(self, group: Group, stop: StopRequest, due: Callable[[], bool]) -> None:
        """Create the sync points; `due` reports to the first process whether a checkpoint is due."""
        self._group, self._stop, self._due = group, stop, due
        self.begin()

    def begin(self) -> None:
        """Begin a loop. Its first sync point follows its first step, whose duration is unknown."""
        self._steps, self._every, self._since = 0, 1, time.monotonic()

    def after_step(self, last: bool) -> bool:
        """Count a step, the `last` of the loop or not; return whether to sync now."""
        self._steps += 1
        alone = self._group.size == 1 and (self._stop.signal is not None or self._due())
        return last or alone or self._steps >= self._every

    def exchange(self, value: Any) -> Agreement:
        """Return the values of all processes and what they agree on; wait for the device before."""
        now = time.monotonic()
        step = (now - self._since) / max(self._steps, 1)
        every = min(max(int(SECONDS / max(step, 1e-6)), 1), MAX_STEPS)
        gathered = self._group.gather((value, self._due(), self._stop.signal, every))
        self._steps, self._every, self._since = 0, gathered[0][3], now
        stop = next((signal for _, _, signal, _ in gathered if signal is not None), None)
        return Agreement([value for value, *_ in gathered], gathered[0][1], stop)
