"""A run's folder on one node, shared by its ranks there: whoever leaves last removes it."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path


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
