"""Executes training steps: compiled where that pays, in micro-batches where memory is short.

Predictions are never compiled: `ichx predict` and `ichx report` compute them later from the same weights, and the size
of their last batches varies.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from ichx.errors import IchxError
from ichx.training.memory import MicroBatcher, release

Result = TypeVar("Result")
Forward = Callable[..., Any]

WORTH_STEPS = 2000
"""Steps of a training from which a minute of compilation pays, at some hundredths of a second saved per step."""


class StepExecutor:
    """Runs attempts at a step of a network. The network itself stays as it is: its weights keep their names."""

    def __init__(
        self,
        network: nn.Module,
        note: Callable[[str], None],
        compiler: str | None = None,
        batcher: MicroBatcher | None = None,
    ) -> None:
        """Execute `network`, compiled by the torch backend `compiler` or not, in the parts of `batcher`."""
        self.network, self._note = network, note
        self.batcher = batcher or MicroBatcher(note)
        self._compiled: Forward | None = None
        if compiler is not None:
            # The shapes of training batches never change, and those of their parts hardly ever.
            self._compiled = torch.compile(network, backend=compiler, dynamic=False)
        self._buffers = [buffer.clone() for buffer in network.buffers()]

    @property
    def compiled(self) -> bool:
        """Whether the network is executed compiled, as far as is known."""
        return self._compiled is not None

    def run(self, count: int, work: Callable[[Forward, list[slice]], Result]) -> Result:
        """Return `work(network, parts)` for the parts of a batch of `count` images that fit into memory.

        If an attempt fails for lack of memory or in the compiler, it is repeated with smaller parts or uncompiled.
        Statistics of batch normalization are restored before; `work` resets gradients and random draws.
        """
        current = list(self.network.buffers())
        _copy(current, self._buffers)
        failed_before = False

        def attempt(parts: list[slice]) -> Result:
            nonlocal failed_before
            if failed_before:
                _copy(self._buffers, current)
            failed_before = True
            return work(self.network if self._compiled is None else self._compiled, parts)

        if self._compiled is not None:
            try:
                return self.batcher.run(count, attempt)
            except IchxError:
                raise
            except Exception as error:  # a compiler calls many tools, and fails with errors of any of them
                cause = getattr(error, "inner_exception", error)  # torch wraps the original error
                reason = f"{type(cause).__name__}: {(str(cause).strip().splitlines() or ['no reason given'])[0]}"
            self._compiled = None
            release()
            self._note(f"the network cannot be compiled; training continues uncompiled, which is slower ({reason})")
        return self.batcher.run(count, attempt)


def compiler_for(device: torch.device, steps: int, processes: int) -> str | None:
    """Return the compiler for a training of `steps` steps by `processes` processes, None where it does not pay.

    A CPU would need a C++ compiler, which users' machines lack. In a group, a process that falls back alone would keep
    the others waiting for gradients.
    """
    return "inductor" if device.type == "cuda" and steps >= WORTH_STEPS and processes == 1 else None


@torch.no_grad()
def _copy(sources: list[torch.Tensor], targets: list[torch.Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)
