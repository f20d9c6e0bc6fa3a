"""A child process of the server for work that needs pandas or torch: the server stays small and answers meanwhile.

A helper does one task at a time, with low priority, and ends when it is idle, with the server, or at a timeout. Its
tasks are in `ichx.web.helper_tasks`. Requests and answers are JSON lines.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event, Lock
from typing import Any, Final

from ichx import errors
from ichx.child_processes import child_environment
from ichx.errors import IchxError, NotReadyError, ProcessError, ResourceError

POLL_SECONDS: Final = 0.2
ERRORS: Final = {
    kind.code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, IchxError)
}

Progress = Callable[[str, int, int], object]
"""Receives what is done, how much of it, and of how much."""


class Helper:
    """Runs tasks in a child process that it starts when needed. Threads may share it; they take turns."""

    def __init__(self, workspace: Path, log: Path) -> None:
        """Prepare a helper for the workspace at this root; `log` receives what it prints."""
        self._workspace, self._log = workspace, log
        self._turn = Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def call(
        self,
        task: str,
        arguments: dict[str, Any],
        *,
        seconds: float,
        progress: Progress | None = None,
        stop: Event | None = None,
    ) -> Any:
        """Return the result of a task.

        Args:
            task: A key of `helper_tasks.TASKS`.
            arguments: Its arguments, as JSON values.
            seconds: Time limit, from the start of the task.
            progress: Receives its progress.
            stop: The task is ended when this is set.

        Raises:
            IchxError: The task failed.
            NotReadyError: It took too long, or was stopped.
            ProcessError: The process died.
        """
        with self._turn:
            request = json.dumps({"task": task, "arguments": arguments}).encode() + b"\n"
            for attempt in (1, 2):
                process = self._running()
                try:
                    assert process.stdin is not None
                    process.stdin.write(request)
                    process.stdin.flush()
                    return self._answer(process, task, time.monotonic() + seconds, progress, stop)
                except (BrokenPipeError, EOFError) as error:
                    code = self._end()
                    if attempt == 2 or code != 0:  # it ends with 0 when it was idle
                        problem = f"The process for `{task}` died{self._last_words()}."
                        raise ProcessError(problem, "Close other programs, and try again.") from error
        raise AssertionError("unreachable")

    def _last_words(self) -> str:
        """Return the last line that the process printed, e.g. the name of an exception."""
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace")[-2000:].split("\n")
        except OSError:
            return ""
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        return f": {last[:300]}" if last else ""

    def close(self) -> None:
        """End the process; later calls fail."""
        self._closed = True
        self._end()

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._closed:
            raise NotReadyError("The server is ending.", "Start `ichx ui` again.")
        if self._process is not None and self._process.poll() is not None:
            self._end()
        if self._process is None:
            environment = {**os.environ, **child_environment(), "ICHX_WORKSPACE": str(self._workspace)}
            try:
                with self._log.open("ab") as log:
                    self._process = subprocess.Popen(
                        [sys.executable, "-m", "ichx.web.helper_tasks"],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=log,
                        env=environment,
                        start_new_session=True,  # Ctrl-C is for the server, which then ends it
                    )
            except OSError as error:
                raise ResourceError(
                    f"Cannot start a process: {error.strerror}.", "End other programs, and try again."
                ) from error
        return self._process

    def _answer(
        self,
        process: "subprocess.Popen[bytes]",
        task: str,
        deadline: float,
        progress: Progress | None,
        stop: Event | None,
    ) -> Any:
        assert process.stdout is not None
        output, received = process.stdout.fileno(), b""
        while True:
            if time.monotonic() > deadline or (stop is not None and stop.is_set()):
                self._end()
                why = "was cancelled" if stop is not None and stop.is_set() else "took too long and was ended"
                raise NotReadyError(f"The computation `{task}` {why}.", "Try again.")
            if not select.select([output], [], [], POLL_SECONDS)[0]:
                continue
            part = os.read(output, 1 << 16)
            if not part:
                raise EOFError
            received += part
            *lines, received = received.split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "progress" in message:
                    if progress is not None:
                        progress(*message["progress"])
                elif "error" in message:
                    error = message["error"]
                    raise ERRORS.get(error["code"], IchxError)(error["problem"], error["remedy"])
                else:
                    return message["result"]

    def _end(self) -> int | None:
        """Kill the process and all that it has started; return its exit code, if it had ended."""
        process, self._process = self._process, None
        if process is None:
            return None
        code = process.poll()
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass
        return code
