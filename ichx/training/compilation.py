"""How a network is executed while it learns: compiled where that pays, in as many parts of a batch as memory needs.

Predictions are never compiled: those of `ichx predict` and `ichx report`, made of the same weights later, are computed
alike, and their last batches have any shape.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from ichx.errors import IchxError
from ichx.training.micro_batches import Portions, release

Result = TypeVar("Result")
Forward = Callable[..., Any]

WORTH_STEPS = 2000
"""Steps of a training from which on a minute of compiling is worth some hundredths of a second saved in each."""


class Execution:
    """Runs attempts at a step of `network`, which itself is left as it is: compiled, its weights keep their names."""

    def __init__(
        self, network: nn.Module, note: Callable[[str], None], compiler: str | None = None, *, alone: bool = True
    ) -> None:
        """Execute `network` with torch's `compiler` of that name (`inductor`), or none; `alone` as in `Portions`."""
        self.network, self._note = network, note
        self.portions = Portions(note, alone=alone)
        self._compiled: Forward | None = None
        if compiler is not None:
            # The shapes of a training's batches never change, and those of their parts hardly ever.
            self._compiled = torch.compile(network, backend=compiler, dynamic=False)
        self._buffers = [buffer.clone() for buffer in network.buffers()]

    @property
    def compiled(self) -> bool:
        """Whether the network is executed compiled, as far as is known."""
        return self._compiled is not None

    def run(self, count: int, work: Callable[[Forward, list[slice]], Result]) -> Result:
        """Return `work(network, parts)` for the parts of a batch of `count` images that memory has room for.

        Where an attempt fails for memory or for the compiler, it is made again with smaller parts or uncompiled.
        Statistics of batch normalization are put back then; gradients and random draws are for `work` to begin anew.
        """
        current = list(self.network.buffers())
        _copy(current, self._buffers)
        tried = False

        def attempt(parts: list[slice]) -> Result:
            nonlocal tried
            if tried:
                _copy(self._buffers, current)
            tried = True
            return work(self.network if self._compiled is None else self._compiled, parts)

        if self._compiled is not None:
            try:
                return self.portions.run(count, attempt)
            except IchxError:
                raise
            except Exception as error:  # a compiler calls many tools, and fails with errors of any of them
                cause = getattr(error, "inner_exception", error)  # torch puts a frame around what it was told
                said = f"{type(cause).__name__}: {(str(cause).strip().splitlines() or ['no reason given'])[0]}"
            self._compiled = None
            release()
            self._note(f"the network cannot be compiled and is trained as it is, which is slower ({said})")
        return self.portions.run(count, attempt)


def compiler_for(device: torch.device, steps: int, processes: int) -> str | None:
    """Return the compiler for a training of so many `steps` by so many `processes`, None where it does not pay.

    On a CPU it needs a C++ compiler, which users' machines lack. Several processes stay with what they all can do: one
    that falls back alone would keep the others waiting for gradients.
    """
    return "inductor" if device.type == "cuda" and steps >= WORTH_STEPS and processes == 1 else None


@torch.no_grad()
def _copy(given: list[torch.Tensor], into: list[torch.Tensor]) -> None:
    for source, target in zip(given, into, strict=True):
        target.copy_(source)
