"""Executes steps of a training and batches of a prediction: compiled where that pays, in parts where memory is short.

Weights, checkpoints and the state of a training do not depend on compilation. Logits differ by what half precision
rounds, as they do between two algorithms of cuDNN.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ichx.errors import IchxError
from ichx.training.distributed import Group
from ichx.training.memory import MicroBatcher, is_out_of_memory, release

Result = TypeVar("Result")
Forward = Callable[..., Any]

WORTH_STEPS = 2000
"""Steps of a training from which a minute of compilation pays, at some hundredths of a second saved per step."""
WORTH_BATCHES = 3 * WORTH_STEPS
"""Batches of a prediction from which that pays: a forward pass is about a third of the work of a step."""


class StepExecutor:
    """Runs attempts at a step of a network. The network itself stays as it is: its weights keep their names.

    Processes that train together compile together: before the first step that counts, each tries its part of the batch
    without exchanging gradients. If one of them fails, none compiles; otherwise it would keep the others waiting.
    """

    def __init__(
        self,
        network: nn.Module,
        note: Callable[[str], None],
        compiler: str | None = None,
        batcher: MicroBatcher | None = None,
        group: Group | None = None,
    ) -> None:
        """Execute `network`, compiled by the torch backend `compiler` or not, in the parts of `batcher`.

        With several processes this is one of `group`.
        """
        self.network, self._note, self._group = network, note, group or Group()
        self.batcher = batcher or MicroBatcher(note)
        self._compiled: Forward | None = None
        if compiler is not None:
            # The shapes of training batches never change, and those of their parts hardly ever.
            self._compiled = torch.compile(network, backend=compiler, dynamic=False)
        self._agreed = self._group.size == 1
        self._buffers = [buffer.clone() for buffer in network.buffers()]

    @property
    def compiled(self) -> bool:
        """Whether the network is executed compiled, as far as is known."""
        return self._compiled is not None

    def renew(self) -> None:
        """Expect another compilation with the next step, e.g. because other parameters are trained."""
        self._agreed = self._group.size == 1

    def run(self, count: int, work: Callable[[Forward, list[slice]], Result]) -> Result:
        """Return `work(network, parts)` for the parts of a batch of `count` images that fit into memory.

        If an attempt fails for lack of memory or in the compiler, it is repeated with smaller parts or uncompiled.
        Statistics of batch normalization are restored before; `work` resets gradients and random draws.
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

        if self._compiled is None:
            return self.batcher.run(count, attempt)
        reason = None
        if self._agreed:
            try:
                return self.batcher.run(count, attempt)
            except Exception as error:  # a compiler calls many tools, and fails with errors of any of them
                if isinstance(error, IchxError) or self._group.size > 1:
                    raise
                reason = compiler_failure(error)
        else:
            reason = self._try_together(count, attempt)
            self._agreed = True
        if reason is not None:
            self._compiled = None
            release()
            self._note(f"the network cannot be compiled; training continues uncompiled, which is slower ({reason})")
        return self.batcher.run(count, attempt)

    def _try_together(self, count: int, attempt: Callable[[list[slice]], Any]) -> str | None:
        """Try a step in all processes without exchanging gradients; return why it fails in one of them, or None."""
        reason = None
        try:
            with without_exchange(self.network):
                self.batcher.run(count, attempt)
        except IchxError:
            raise
        except Exception as error:  # as in `run`
            reason = compiler_failure(error)
        return next((each for each in self._group.gather(reason) if each is not None), None)


def without_exchange(network: nn.Module) -> AbstractContextManager[Any]:
    """Return the context in which the backward pass of `network` exchanges no gradients with other processes."""
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


def compiler_for(device: torch.device, steps: int) -> str | None:
    """Return the compiler for a training of `steps` steps, None where it does not pay.

    A CPU would need a C++ compiler, which users' machines lack.
    """
    return "inductor" if device.type == "cuda" and steps >= WORTH_STEPS else None


class CompiledPrediction:
    """Runs networks on complete batches, compiled where that pays. The network itself stays as it is."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._compiler: str | None = None
        self._network: nn.Module | None = None
        self._compiled: Forward | None = None
        self._failed = False

    def choose(self, device: torch.device, batches: int) -> None:
        """Compile from here on if that pays for so many batches; what is compiled already is used."""
        if not self._failed and self._compiler is None:
            self._compiler = prediction_compiler(device, batches)

    def forward(self, network: nn.Module, work: Callable[[Forward], Result]) -> Result:
        """Return `work(network)`, compiled if that was chosen and works.

        If the compiler fails, a note says so, and nothing is compiled any more.
        """
        if self._compiler is None:
            return work(network)
        if self._compiled is None or self._network is not network:
            self._network, self._compiled = network, torch.compile(network, backend=self._compiler, dynamic=False)
        try:
            return work(self._compiled)
        except IchxError:
            raise
        except Exception as error:  # as in `StepExecutor.run`
            if is_out_of_memory(error):
                raise
            reason = compiler_failure(error)
        self._compiler, self._compiled, self._network, self._failed = None, None, None, True
        release()
        self._note(f"the network cannot be compiled; predictions continue uncompiled, which is slower ({reason})")
        return work(network)


def prediction_compiler(device: torch.device, batches: int) -> str | None:
    """Return the compiler for a prediction of so many batches, None where it does not pay."""
    return "inductor" if device.type == "cuda" and batches >= WORTH_BATCHES else None


def compiler_failure(error: Exception) -> str:
    """Return one line about the `error` of a compiler."""
    cause = getattr(error, "inner_exception", error)  # torch wraps the original error
    return f"{type(cause).__name__}: {(str(cause).strip().splitlines() or ['no reason given'])[0]}"


@torch.no_grad()
def _copy(sources: list[torch.Tensor], targets: list[torch.Tensor]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.copy_(source)
