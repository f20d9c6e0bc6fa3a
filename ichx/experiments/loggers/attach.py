"""Attaches loggers to a run: the run log always, MLflow and TensorBoard if the workspace asks for them.

No logger can stop a run or make it wait: one that fails is removed with a note.
"""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ichx.errors import ProcessError
from ichx.experiments.callbacks import CallbackList, RunCallbacks
from ichx.experiments.loggers.run_log import RunLog
from ichx.training.callbacks import EpochResult

if TYPE_CHECKING:
    from ichx.recipe import Recipe
    from ichx.store import Experiment, Run
    from ichx.workspace import Workspace

FLUSH_SECONDS = 15.0
"""How long the end of a run waits for a server that has not received everything."""


@contextlib.contextmanager
def attach_loggers(
    workspace: "Workspace", experiment: "Experiment", recipe: "Recipe", callbacks: RunCallbacks
) -> Iterator[RunCallbacks]:
    """Yield callbacks that pass everything on to `callbacks` and to the loggers of the workspace."""
    receivers: list[RunCallbacks] = [callbacks, RunLog(workspace)]
    if workspace.tensorboard is not None:
        from ichx.experiments.loggers.tensorboard_logger import TensorBoardLogger

        receivers.append(TensorBoardLogger(workspace.tensorboard, recipe))
    if workspace.mlflow is not None:
        from ichx.experiments.loggers.mlflow_logger import MlflowLogger

        logger = MlflowLogger(workspace.mlflow, workspace.root.name, experiment, recipe)
        receivers.append(BackgroundLogger(logger))
    attached = CallbackList(*receivers)
    try:
        yield attached
    finally:
        attached.close()


class BackgroundLogger(RunCallbacks):
    """Calls a logger in a thread, in order: its server may be slow or away. Steps and phases are left out.

    An error of the logger is raised here by the next call.
    """

    def __init__(self, logger: RunCallbacks) -> None:
        self.label = logger.label
        self._logger = logger
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._error: Exception | None = None
        self._thread: threading.Thread | None = None

    def run_started(self, run: "Run") -> None:
        """Pass on."""
        self._enqueue(lambda: self._logger.run_started(run))

    def epoch_ended(self, result: EpochResult) -> None:
        """Pass on."""
        self._enqueue(lambda: self._logger.epoch_ended(result))

    def fold_ended(self, fold: int, score: float) -> None:
        """Pass on."""
        self._enqueue(lambda: self._logger.fold_ended(fold, score))

    def run_finished(self, state: str, reason: str | None) -> None:
        """Pass on."""
        self._enqueue(lambda: self._logger.run_finished(state, reason))

    def close(self) -> None:
        """Wait for pending calls. Raises `ProcessError` if they take too long."""
        if self._thread is None:
            return
        self._calls.put(None)
        self._thread.join(FLUSH_SECONDS)
        if self._error is not None:
            raise self._error
        if self._thread.is_alive():
            raise ProcessError(
                f"It has not received everything {FLUSH_SECONDS:.0f} s after the end.", "Check whether it responds."
            )

    def _enqueue(self, call: Callable[[], None]) -> None:
        if self._error is not None:
            raise self._error
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"ichx-{self.label}", daemon=True)
            self._thread.start()
        self._calls.put(call)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except Exception as error:  # raised in the run's thread
                self._error = error
                return
