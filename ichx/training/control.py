"""Control of a running training: sync points, checkpoints that are due, stop requests, notes."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ichx.training.callbacks import Callbacks, EpochResult
from ichx.training.checkpoint import Checkpoints
from ichx.training.distributed import Group
from ichx.training.step_sync import Agreement, StepSync
from ichx.training.stop_request import RunStopped, StopRequest


class Control:
    """Stops, checkpoints and callbacks of one training and its predictions.

    Without arguments nothing stops the training and nothing is written.
    """

    def __init__(
        self,
        checkpoints: Checkpoints | None = None,
        *,
        callbacks: Callbacks | None = None,
        group: Group | None = None,
        stop: StopRequest | None = None,
        check: Callable[[], None] = lambda: None,
        record: Callable[[EpochResult, int], None] = lambda result, epochs_done: None,
    ) -> None:
        """Create the control.

        Args:
            checkpoints: The progress, and where it is saved.
            callbacks: Hooks.
            group: The processes that train together.
            stop: Where stop requests arrive.
            check: Called at each sync point; raises if the training must not continue.
            record: Receives each epoch, and the epochs of all stages that are done, before the checkpoint is written.
        """
        self.checkpoints = checkpoints or Checkpoints()
        self.callbacks = callbacks or Callbacks()
        self.group = group or Group()
        self.stop = stop or StopRequest()
        self.record = record
        self._check = check
        self.sync = StepSync(self.group, self.stop, self.checkpoints.due)

    def handle(self, agreement: Agreement) -> None:
        """Save if a checkpoint is due, and stop if that was requested.

        Raises:
            RunStopped: A stop was requested; the progress is saved.
        """
        self._check()
        if agreement.save or agreement.stop is not None:
            self.checkpoints.save()
        if agreement.stop is not None:
            raise RunStopped(agreement.stop)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let a stop request interrupt work without sync points; save the progress before that work."""
        try:
            with self.stop.interruptible():
                yield
        except RunStopped:
            self.checkpoints.save()
            raise
