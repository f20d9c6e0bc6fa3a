"""Who listens to a run beside its caller: the run log always, MLflow and TensorBoard where the workspace asks for them.

None of them can stop a run or make it wait: one that fails is left out with a note.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ichx.errors import IchxError
from ichx.experiments.loggers.run_log import RunLog
from ichx.training.callbacks import Fanout, RunEvents

if TYPE_CHECKING:
    from ichx.recipe import Recipe
    from ichx.store import EpochRecord, Experiment, Run
    from ichx.workspace import Workspace

LAST_SECONDS = 15.0
"""How long the end of a run waits for a server that has not taken everything."""


@contextlib.contextmanager
def followed(
    workspace: "Workspace", experiment: "Experiment", recipe: "Recipe", events: RunEvents
) -> Iterator[RunEvents]:
    """Yield what a run of `experiment` tells its events to; `events` are among those that listen."""
    sinks: list[RunEvents] = [events, RunLog(workspace)]
    if workspace.tensorboard is not None:
        from ichx.experiments.loggers.tensorboard_logger import TensorBoard

        sinks.append(TensorBoard(workspace.tensorboard, recipe))
    if workspace.mlflow is not None:
        from ichx.experiments.loggers.mlflow_logger import Mlflow

        sinks.append(InBackground(Mlflow(workspace.mlflow, workspace.root.name, experiment, recipe)))
    told = Fanout(*sinks)
    try:
        yield told
    finally:
        told.run_ended()


class InBackground(RunEvents):
    """Passes the events between epochs on to a sink in a thread, in their order: a server may be slow or away.

    What the sink raises there is raised here, by the next event.
    """

    def __init__(self, sink: RunEvents) -> None:
        self.label = sink.label
        self._sink = sink
        self._waiting: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def attempt_started(self, run: "Run") -> None:
        """Pass it on."""
        self._pass(lambda: self._sink.attempt_started(run))

    def epoch_ended(self, record: "EpochRecord") -> None:
        """Pass it on."""
        self._pass(lambda: self._sink.epoch_ended(record))

    def fold_ended(self, fold: int, score: float) -> None:
        """Pass it on."""
        self._pass(lambda: self._sink.fold_ended(fold, score))

    def attempt_ended(self, state: str, reason: str | None) -> None:
        """Pass it on."""
        self._pass(lambda: self._sink.attempt_ended(state, reason))

    def run_ended(self) -> None:
        """Wait a while for what has not been taken yet; raises `IchxError` where that is not enough."""
        if self._thread is None:
            return
        self._waiting.put(None)
        self._thread.join(LAST_SECONDS)
        if self._error is not None:
            raise self._error
        if self._thread.is_alive():
            raise IchxError(f"it has not taken everything {LAST_SECONDS:.0f} s after the end", "see whether it answers")

    def _pass(self, call: Callable[[], None]) -> None:
        if self._error is not None:
            raise self._error
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"ichx-{self.label}", daemon=True)
            self._thread.start()
        self._waiting.put(call)

    def _work(self) -> None:
        while (call := self._waiting.get()) is not None:
            try:
                call()
            except Exception as error:  # told in the run's own thread
                self._error = error
                return
