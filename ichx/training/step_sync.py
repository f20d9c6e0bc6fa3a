"""When a loop looks up from its steps: for a stop, a checkpoint that is due, news of its losses.

A look makes the device and the other processes wait, so that there is one in a second or in `MOST` steps, whichever
comes first; all processes look after the same step. What is computed does not depend on when that is.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ichx.training.distributed import Group
from ichx.training.stop_request import StopRequest

MOST = 16
SECONDS = 1.0


@dataclass(frozen=True)
class Agreed:
    """What all processes know after a look: what each `brought`, whether to `save`, which signal asks to stop."""

    brought: list[Any]
    save: bool
    stop: int | None


class Looks:
    """The looks of one loop after another; `begin` comes before a loop's first step."""

    def __init__(self, group: Group, stop: StopRequest, due: Callable[[], bool]) -> None:
        """Take `due`, which tells the first process whether a checkpoint is."""
        self._group, self._stop, self._due = group, stop, due
        self.begin()

    def begin(self) -> None:
        """Begin a loop: the first look comes after its first step, whose time nobody knows."""
        self._steps, self._every, self._since = 0, 1, time.monotonic()

    def after_step(self, last: bool) -> bool:
        """Count a step, the loop's `last` one or not; return whether to look now."""
        self._steps += 1
        alone = self._group.size == 1 and (self._stop.signal is not None or self._due())
        return last or alone or self._steps >= self._every

    def exchange(self, value: Any) -> Agreed:
        """Return what all processes bring and agree on; the device has to be waited for before."""
        now = time.monotonic()
        step = (now - self._since) / max(self._steps, 1)
        every = min(max(int(SECONDS / max(step, 1e-6)), 1), MOST)
        told = self._group.gather((value, self._due(), self._stop.signal, every))
        self._steps, self._every, self._since = 0, told[0][3], now
        stop = next((signal for _, _, signal, _ in told if signal is not None), None)
        return Agreed([value for value, *_ in told], told[0][1], stop)
