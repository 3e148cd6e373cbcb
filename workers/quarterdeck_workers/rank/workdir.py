"""A run's folder on one node, shared by its ranks there: whoever leaves last removes it."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from pathlib import Path

FULL_SHARE = 0.05
"""A disk with less than this share of it free is full."""
MOST_FILES = 100_000
"""So many are looked at."""


def hold(workdir: Path) -> int:
    """Make the folder if needed and hold it; answers the descriptor of the lock."""
    workdir.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(f"{workdir}.lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


def release(workdir: Path, lock: int) -> None:
    """Let go of it, and remove it when nobody else holds it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pass  # another rank of this run still works in it
    else:
        shutil.rmtree(workdir, ignore_errors=True)
        with suppress(OSError):
            Path(f"{workdir}.lock").unlink()
    os.close(lock)


def filled_by(folder: Path) -> str:
    """Says so where a disk is full mostly with what lies below `folder`; else it is empty."""
    try:
        disk = shutil.disk_usage(folder)
    except OSError:
        return ""
    if disk.free > disk.total * FULL_SHARE:
        return ""
    own = _bytes_below(folder)
    if own < disk.used / 2:
        return ""
    return f"{own / 2**20:,.0f} MiB of its own files fill a disk of {disk.total / 2**20:,.0f} MiB"


class DiskWatch:
    """Looks now and then whether the run fills its disk: `most_share` of the time at most, for
    looking costs much where there are many files."""

    def __init__(
        self, folder: Path, clock: Callable[[], float] = time.monotonic, most_share: float = 0.05
    ) -> None:
        self._folder, self._clock, self._most_share = folder, clock, most_share
        self._next = clock()

    def look(self) -> str:
        """What `filled_by` says; empty before the next look is due."""
        start = self._clock()
        if start < self._next:
            return ""
        found = filled_by(self._folder)
        end = self._clock()
        self._next = end + (end - start) / self._most_share
        return found


def _bytes_below(folder: Path) -> int:
    total = 0
    files = (Path(where, name) for where, _, names in os.walk(folder) for name in names)
    for file in islice(files, MOST_FILES):
        with suppress(OSError):
            total += file.lstat().st_blocks * 512
    return total
