"""Which processes are ours, with proof: pid and moment of creation, or our mark in `environ`.

A pid alone proves nothing, it may have been given to another program since.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass

import psutil

from quarterdeck.processes.home import Home, write_private

MARK = "QUARTERDECK_INSTANCE"
"""Variable that all processes of an installation inherit."""
_TOLERANCE = 0.02
"""Seconds: moments of creation are counted in hundredths."""


@dataclass(frozen=True)
class Recorded:
    """One process that we started."""

    name: str
    pid: int
    created: float


@dataclass(frozen=True)
class Record:
    """What is in `processes.json`."""

    api_url: str
    gateway_url: str
    slots: int
    with_agent: bool
    processes: tuple[Recorded, ...]

    def named(self, name: str) -> Recorded | None:
        """The process of that name, if one was recorded."""
        return next((entry for entry in self.processes if entry.name == name), None)


def read_record(home: Home) -> Record | None:
    """The record of a home; None when there is none or it cannot be read."""
    try:
        data = json.loads(home.processes.read_text(encoding="utf-8"))
        data["processes"] = tuple(Recorded(**entry) for entry in data["processes"])
        return Record(**data)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def write_record(home: Home, record: Record) -> None:
    """Replace the record."""
    write_private(home.processes, json.dumps(asdict(record), indent=1) + "\n")


def identify(name: str, pid: int) -> Recorded:
    """Record a living process; raises psutil.NoSuchProcess when it is gone."""
    return Recorded(name, pid, psutil.Process(pid).create_time())


def alive(entry: Recorded | None) -> psutil.Process | None:
    """The process itself when it still lives and is the same one."""
    if entry is None:
        return None
    try:
        process = psutil.Process(entry.pid)
        same = abs(process.create_time() - entry.created) < _TOLERANCE
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.Error:
        return None


def marked(instance: str) -> list[psutil.Process]:
    """Every process of this user that carries the installation's mark, Ray's included."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.environ().get(MARK) == instance:
                found.append(process)
    return found


def with_children(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """The processes and all below them, each once."""
    found: dict[int, psutil.Process] = {}
    for process in processes:
        found[process.pid] = process
        with suppress(psutil.Error):
            found.update({child.pid: child for child in process.children(recursive=True)})
    return list(found.values())


def end(
    processes: Iterable[psutil.Process],
    grace: float,
    on_wait: Callable[[int], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> list[psutil.Process]:
    """SIGTERM, then SIGKILL for what still lives after `grace` seconds; answers what survived.

    psutil checks the moment of creation before each signal.
    """
    left = [process for process in processes if process.is_running()]
    for process in left:
        with suppress(psutil.Error):
            process.terminate()
    deadline = clock() + grace
    while left and clock() < deadline:
        _, left = psutil.wait_procs(left, timeout=0.5)
        if left and on_wait is not None:
            on_wait(len(left))
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    _, left = psutil.wait_procs(left, timeout=5)
    return left
