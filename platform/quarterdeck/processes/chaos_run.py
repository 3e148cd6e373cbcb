"""A series of faults, seeded, with what followed each."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Sequence

from quarterdeck.client import Client
from quarterdeck.client.config import read_key
from quarterdeck.processes.chaos import Fault, pick, strike
from quarterdeck.processes.chaos_targets import targets
from quarterdeck.processes.chaos_watch import Recovery, Watcher
from quarterdeck.processes.home import Home
from quarterdeck.processes.records import Record
from quarterdeck.processes.up import gateway_answers

SETTLE_SECONDS = 120.0
_WAIT_SECONDS = 60.0


def storm(
    home: Home,
    record: Record,
    kinds: Sequence[str],
    faults: int,
    every: float,
    seed: int,
    tell: Callable[[str], None],
) -> list[Recovery]:
    """Kill one process each `every` seconds; answers what followed each fault.

    A kind of which nothing lives is skipped, at most for a minute in all between two faults.
    """
    random_ = random.Random(seed)
    key = read_key(home.admin_key)
    watcher = Watcher(
        home,
        lambda: Client(record.api_url, key, retry_seconds=0),
        lambda: gateway_answers(record.gateway_url),
    )
    watcher.start()
    try:
        for number in range(1, faults + 1):
            if not _one(home, kinds, number, random_, watcher, tell):
                tell(f"nothing of {', '.join(kinds)} lives: stopping after {number - 1} faults")
                break
            time.sleep(every)
        watcher.settle(SETTLE_SECONDS)
    except KeyboardInterrupt:
        tell("interrupted")
    finally:
        watcher.close()
    return watcher.recoveries


def _one(
    home: Home,
    kinds: Sequence[str],
    number: int,
    random_: random.Random,
    watcher: Watcher,
    tell: Callable[[str], None],
) -> bool:
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        living = targets(home)
        kind, target = pick(living, kinds, random_)
        if target is None:
            time.sleep(0.5)
            continue
        fault = Fault(number, kind, "KILL", time.time(), target.words, target.owner, target.epoch)
        if strike(target, signal.SIGKILL):
            watcher.add(fault, living)
            tell(f"{number}: SIGKILL to {target.words} (pid {target.pids})")
            return True
    return False
