"""A slot that several runs share: one placement group in Ray, and a part of it for each run.

Ray may give each part of an accelerator from another device than the scheduler counted with. So
the first run reserves the whole slot, in a detached placement group named after the node and the
number of its shared slot, and each run's host takes its part of that: they get the same device, and
Ray lets them have no more than all of it.

The group belongs to whoever is left. Supervisors run on the head, where each holds a lock on a file
for as long as it uses the group; who leaves last removes it. Where that one was killed, the
agent does (`free_unused`).
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ray.util.placement_group import (
    PlacementGroup,
    get_placement_group,
    placement_group,
    remove_placement_group,
)

FOLDER = "shared-slots"
_PREFIX = "quarterdeck-slot-"


class SharedSlot:
    """One run's use of a shared slot: `join`, then `leave` in any case. Both wait for others that
    are about to do the same."""

    def __init__(self, folder: Path, node_id: str, number: int) -> None:
        self._file = folder / f"{node_id}-{number}"
        self._lock: int | None = None

    def join(self, bundle: dict[str, float], selector: dict[str, str]) -> PlacementGroup:
        """The group that holds the slot, which may still be on its way; made where there is none.
        Raises Ray's errors."""
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _hold(self._file)
        name = _PREFIX + self._file.name
        with _alone(self._file.parent):
            try:
                return get_placement_group(name)
            except ValueError:
                return placement_group(
                    [bundle], "PACK", name, lifetime="detached", bundle_label_selector=[selector]
                )

    def leave(self) -> None:
        """Let go of the slot, and give it back where nobody else has a part of it."""
        if self._lock is not None:
            lock, self._lock = self._lock, None
            _release(self._file, lock)


def free_unused(folder: Path) -> None:
    """Give back the slots whose last user was killed. Raises Ray's errors."""
    for file in list(folder.glob("*-*")):
        with suppress(FileNotFoundError):
            _release(file, os.open(file, os.O_RDWR))


def _hold(file: Path) -> int:
    while True:
        lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_SH)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock), file.stat()):
                return lock
        os.close(lock)  # the last user has just removed it


def _release(file: Path, lock: int) -> None:
    """Close the lock; the last one to do so removes group and file."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        with suppress(ValueError):  # it was never made
            remove_placement_group(get_placement_group(_PREFIX + file.name))
        file.unlink(missing_ok=True)
    finally:
        os.close(lock)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two that look for the same group at once would both make one."""
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
