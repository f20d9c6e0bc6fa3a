"""Several builders of one cache: they claim the files that they build, and share the work until all files exist.

A claim is a lock on a file next to the target, so it ends with its process. Claims only avoid double work: every file
is written atomically and with the same bytes by every builder, so a file system without locks costs time, not
correctness.
"""

import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from ichx.locks import file_lock
from ichx.worker_pool import map_in_processes

POLL_SECONDS: Final = 0.3
"""Pause before a builder looks again for a file that others build."""

STALE_SECONDS: Final = 900.0
"""Time without a new file after which claims are ignored: some servers keep the locks of a machine that is gone."""

CLAIM_PATTERN: Final = ".*.claim"
"""Matches the files of claims, those of killed builders among them."""

Job = TypeVar("Job")


@dataclass(frozen=True)
class SharedWork(Generic[Job]):
    """Files to build, by number; the files with one number are built by one job."""

    files: Mapping[int, Collection[Path]]
    is_built: Callable[[Path], bool]
    job: Callable[[int, Collection[Path], bool], Job]
    """Returns the job for a number, its missing files, and whether claims are ignored."""
    run: Callable[[Job], tuple[int, bool]]
    """Builds the files that it can claim; returns the number, and whether that were all files of the job."""


@contextmanager
def claim(path: Path, *, ignore: bool = False) -> Iterator[bool]:
    """Claim the file at `path`, which need not exist; yield False if another process holds the claim.

    Args:
        path: The file to build.
        ignore: Yield True although another process holds the claim.

    Raises:
        OSError: The folder is not writable.
    """
    file = _claim_file(path)
    with ExitStack() as held:
        try:
            held.enter_context(file_lock(file, wait=False))
            held.callback(file.unlink, missing_ok=True)  # before the lock is released
            claimed = True
        except BlockingIOError:
            claimed = ignore
        yield claimed


def share(work: SharedWork[Job], processes: int, advance: Callable[[Collection[int]], None]) -> None:
    """Return when all files of `work` exist, built by this process or by others.

    Files are built in random order: where claims do not work, e.g. between machines on some file systems, two builders
    rarely build the same file at the same time.

    Args:
        work: The files.
        processes: Worker processes.
        advance: Receives the numbers with missing files whenever some were built.
    """
    files = _missing(work, work.files)
    reported, since = len(files), time.monotonic()

    def report(missing: Collection[int]) -> None:
        nonlocal reported, since
        if len(missing) < reported:
            reported, since = len(missing), time.monotonic()
            advance(missing)

    while files:
        ignore = time.monotonic() - since > STALE_SECONDS
        free = [number for number, paths in files.items() if ignore or not all(map(_is_claimed, paths))]
        missing = _run(work, files, free, ignore, processes, report)
        files = _missing(work, {number: files[number] for number in missing})
        report(files.keys())
        if files:
            time.sleep(POLL_SECONDS)


def build_once(path: Path, is_built: Callable[[], bool], build: Callable[[], None]) -> None:
    """Call `build`, which creates the file at `path`, unless another process is building it: then wait for that one."""

    def run(ignore: bool) -> tuple[int, bool]:
        with claim(path, ignore=ignore) as claimed:
            if claimed and not is_built():
                build()
        return 0, claimed

    work = SharedWork({0: (path,)}, lambda _: is_built(), lambda _, __, ignore: ignore, run)
    share(work, 1, lambda missing: None)


def _run(
    work: SharedWork[Job],
    files: Mapping[int, Collection[Path]],
    numbers: Sequence[int],
    ignore_claims: bool,
    processes: int,
    report: Callable[[Collection[int]], None],
) -> set[int]:
    """Build what this process can claim of the files with `numbers`; return the numbers that are missing then."""
    missing = set(files)

    def jobs() -> Iterator[Job]:
        for number in _shuffled(numbers):
            if paths := [path for path in files[number] if not work.is_built(path)]:
                yield work.job(number, paths, ignore_claims)
            else:
                missing.discard(number)

    if numbers:
        for number, complete in map_in_processes(work.run, jobs(), processes):
            if complete:
                missing.discard(number)
                report(missing)
    return missing


def _missing(work: SharedWork[Job], files: Mapping[int, Collection[Path]]) -> dict[int, Collection[Path]]:
    missing = {number: [path for path in paths if not work.is_built(path)] for number, paths in files.items()}
    return {number: paths for number, paths in missing.items() if paths}


def _shuffled(numbers: Sequence[int]) -> list[int]:
    """Return `numbers` in random order, without a change of the generators that trainings seed."""
    return secrets.SystemRandom().sample(numbers, len(numbers))


def _claim_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.claim")


def _is_claimed(path: Path) -> bool:
    """Return whether another process, or another thread of this one, holds the claim on `path`."""
    if not _claim_file(path).exists():
        return False
    with claim(path) as free:  # not the lock alone: a claim that ends just now would leave a new file
        return not free
