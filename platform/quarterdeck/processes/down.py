"""`quarterdeck down`: end every process of a home, with `purge` remove what it made."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

import psutil

from quarterdeck.processes.agent import end_ray
from quarterdeck.processes.failures import ProcessFailed
from quarterdeck.processes.home import Home
from quarterdeck.processes.records import (
    Recorded,
    alive,
    end,
    marked,
    read_record,
    with_children,
)

Tell = Callable[[str], None]
GRACE = {"gateway": 10.0, "agent": 30.0, "controller": 10.0, "api": 10.0}
"""Seconds that each has to end by itself, in the order in which they stop."""
UP_GRACE = 180.0
"""Seconds for `up` itself: it suspends jobs with a checkpoint first."""


class StillRunning(ProcessFailed):
    """Processes that could not be ended; the message names them."""


def end_all(home: Home, tell: Tell) -> None:
    """End the recorded children and everything that carries the home's mark.

    Raises StillRunning when something survives SIGKILL (another user's, or stuck in the kernel).
    """
    record = read_record(home)
    # Now, while their parents live: some of Ray's wipe the mark from their environment.
    first = with_children(_own(home))
    for name, grace in GRACE.items():
        process = alive(record.named(name) if record else None)
        if process is not None:
            below = with_children([process])
            end([process], grace, _every_few_seconds(tell, f"waiting for the {name} to end"))
            end([child for child in below if child.is_running()], 3.0)
        if name == "agent":
            end_ray(home)
    left = end([*with_children(_own(home)), *first], 5.0)
    left += end(with_children(_own(home)), 1.0)  # whatever was born meanwhile
    if left:
        names = ", ".join(f"pid {process.pid}" for process in left)
        raise StillRunning(f"cannot end {names}: end them by hand")
    with suppress(OSError):
        home.processes.unlink()


def down(home: Home, tell: Tell, *, purge: bool) -> bool:
    """Stop the platform of a home; True when something was running.

    Without `purge` jobs are suspended with a checkpoint first, for the next `up` to resume;
    with it there is no next time, and the home is removed.
    """
    record = read_record(home)
    leader = alive(record.named("up") if record else None)
    running = leader is not None or any(
        alive(entry) for entry in (record.processes if record else ())
    )
    if leader is not None:
        if purge:
            with suppress(psutil.Error):
                leader.kill()  # it would restart what we end
                leader.wait(5)
        else:
            waiting = "waiting for jobs to write their checkpoints and for processes to end"
            end([leader], UP_GRACE, _every_few_seconds(tell, waiting))
    end_all(home, tell)
    if purge and home.folder.exists():
        shutil.rmtree(home.folder)
    return running


def _own(home: Home) -> Iterable[psutil.Process]:
    try:
        instance = home.instance.read_text(encoding="ascii").strip()
    except OSError:
        return []
    me = {process.pid for process in psutil.Process().parents()} | {psutil.Process().pid}
    return [process for process in marked(instance) if process.pid not in me]


def _every_few_seconds(tell: Tell, text: str) -> Callable[[int], None]:
    last = time.monotonic()

    def on_wait(count: int) -> None:
        nonlocal last
        if time.monotonic() - last > 2:
            last = time.monotonic()
            tell(text)

    return on_wait


def living(entries: Iterable[Recorded]) -> list[Recorded]:
    """Those that still live."""
    return [entry for entry in entries if alive(entry)]
