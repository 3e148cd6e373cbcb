"""Faults on purpose: signals to processes of the local installation, a slow database file."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from quarterdeck.processes.chaos_targets import Target
from quarterdeck.processes.failures import ProcessFailed
from quarterdeck.processes.home import Home
from quarterdeck.processes.records import Record, alive, read_record
from quarterdeck.processes.settings import private_value

SIGNALS = ("KILL", "STOP", "CONT", "TERM")
_LOCAL = frozenset({"127.0.0.1", "localhost", "::1"})
_WAIT_SECONDS = 5.0


class ChaosRefused(ProcessFailed):
    """There is nothing here that may be hit; the message says why."""


@dataclass(frozen=True)
class Fault:
    """One fault that was done. `at` is unix seconds; `held` seconds for which it lasted."""

    number: int
    kind: str
    signal: str
    at: float
    words: str
    owner: str = ""
    epoch: int = 0
    held: float = 0.0
    cause: str = ""
    """What it waited for, e.g. the transition after which it came."""


def require_local(home: Home, environment: Mapping[str, str]) -> Record:
    """The record of the installation that runs here. Raises ChaosRefused for anything else."""
    record = read_record(home)
    if record is None or not any(alive(entry) for entry in record.processes):
        raise ChaosRefused(
            f"no platform of {home.folder} runs on this machine: faults hit local processes only "
            "(set QUARTERDECK_HOME, or start one with `quarterdeck up`)"
        )
    url = environment.get("QUARTERDECK_URL")
    if url and url.rstrip("/") != record.api_url.rstrip("/"):
        raise ChaosRefused(
            f"QUARTERDECK_URL is {url}, the platform of {home.folder} is {record.api_url}: unset "
            "it, faults hit the local one only"
        )
    if urlsplit(record.api_url).hostname not in _LOCAL:
        raise ChaosRefused(f"{record.api_url} is not on the loopback: this is no place to play")
    return record


def strike(target: Target, number: int) -> bool:
    """Send a signal to each process of a target; whether one of them was there to hear it.

    psutil checks the moment of creation before each signal.
    """
    hit = False
    for process in target.processes:
        with suppress(psutil.Error):
            process.send_signal(number)
            hit = True
    return hit


def hold(target: Target, seconds: float) -> bool:
    """SIGSTOP, SIGCONT after `seconds` (also when interrupted); whether it was there."""
    hit = strike(target, signal.SIGSTOP)
    try:
        if hit:
            time.sleep(seconds)
    finally:
        strike(target, signal.SIGCONT)
    return hit


def pick(
    found: Sequence[Target], kinds: Sequence[str], random_: random.Random
) -> tuple[str, Target | None]:
    """A kind, each as likely as the other, and one of its targets; None: there is none now.

    The choice of kind takes the same draws whatever lives, so that a seed means one series.
    """
    kind = random_.choice(sorted(kinds))
    draw = random_.random()
    of_kind = [target for target in found if target.kind == kind]
    return kind, of_kind[int(draw * len(of_kind))] if of_kind else None


def slow_disk(file: Path, seconds: float, share: float = 0.9, slice_seconds: float = 1.0) -> int:
    """Make every write to a SQLite database wait, as a disk does that is slow to sync.

    Holds the write lock for `share` of each slice; answers how often it was held. Raises
    ChaosRefused when there is no such file.
    """
    if not file.is_file():
        raise ChaosRefused(f"{file} is no SQLite database of this installation")
    until = time.monotonic() + seconds
    held = 0
    with closing(sqlite3.connect(file, timeout=_WAIT_SECONDS, isolation_level=None)) as connection:
        while (left := until - time.monotonic()) > 0:
            with suppress(sqlite3.OperationalError):  # somebody else holds it: slow enough
                connection.execute("BEGIN IMMEDIATE")
                try:
                    time.sleep(min(left, slice_seconds * share))
                    held += 1
                finally:
                    connection.execute("ROLLBACK")
            time.sleep(min(max(0.0, until - time.monotonic()), slice_seconds * (1 - share)))
    return held


def database_file(home: Home, environment: Mapping[str, str]) -> Path:
    """The SQLite file of the installation. Raises ChaosRefused for PostgreSQL."""
    try:
        url = private_value(environment, "QUARTERDECK_DATABASE_URL") or home.database_url
    except ValueError as error:
        raise ChaosRefused(str(error)) from error
    scheme, _, rest = url.partition(":///")
    if scheme != "sqlite":
        raise ChaosRefused(
            "a slow disk can be played to SQLite only: slow PostgreSQL down where it runs "
            "(a cgroup's io.max, or a device of dm-delay; both need root)"
        )
    return Path(os.fspath(rest))
