"""Is an event lost, doubled or out of order to those who watch, while all of it is killed in turn?

Three controllers and two apis on one PostgreSQL. Watchers follow the events over both apis, jobs
are submitted and cancelled, and every process is killed in turn, the database too. Afterwards each
watcher must have seen exactly what the database holds, in commit order.

    python -m benchmarks.watchers --quick
    python -m benchmarks.watchers --watchers 50 --rounds 5
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from benchmarks.harness import report
from benchmarks.installation import Installation, Shape, installation
from quarterdeck.client import QuarterdeckError
from quarterdeck.processes import chaos
from quarterdeck.processes.chaos_targets import Target
from quarterdeck.processes.records import alive, read_record

SHAPE = Shape(apis=2, controllers=3, agents=0)
CATCH_UP_SECONDS = 180.0
_BACK_SECONDS = 120.0


@dataclass
class Outcome:
    """What the watchers saw beside what there was."""

    events: int
    kills: int
    wrong: list[str] = field(default_factory=list)


class _Follower:
    """One watcher: ids in the order in which they came, across reconnections."""

    def __init__(self, platform: Installation, number: int) -> None:
        self.ids: list[int] = []
        self._platform = platform
        self._api = number % len(platform.api_urls)
        threading.Thread(target=self._follow, name=f"watcher-{number}", daemon=True).start()

    def _follow(self) -> None:
        while True:
            last = str(self.ids[-1]) if self.ids else None
            with suppress(QuarterdeckError), self._platform.connect(self._api) as client:
                for event in client.follow_events(last_event_id=last):
                    self.ids.append(event.id)
            time.sleep(0.5)


def watch(platform: Installation, watchers: int, rounds: int, pause: float) -> Outcome:
    """Kill everything in turn, `rounds` times, with `pause` seconds after each is back."""
    followers = [_Follower(platform, number) for number in range(watchers)]
    stopped = threading.Event()
    loads = [
        threading.Thread(target=_load, args=(platform, number, stopped)) for number in range(2)
    ]
    for load in loads:
        load.start()
    kills = 0
    try:
        for _ in range(rounds):
            for child in [*(child.name for child in platform.children), "database"]:
                time.sleep(pause)
                kills += _kill(platform, child)
    finally:
        stopped.set()
        for load in loads:
            load.join()
    expected = _settled(platform)
    deadline = time.monotonic() + CATCH_UP_SECONDS
    while time.monotonic() < deadline and any(len(f.ids) < len(expected) for f in followers):
        time.sleep(0.5)
    outcome = Outcome(len(expected), kills)
    for number, follower in enumerate(followers):
        outcome.wrong += compare(f"watcher {number}", expected, list(follower.ids))
    return outcome


def compare(who: str, expected: Sequence[int], seen: Sequence[int]) -> list[str]:
    """Events that one watcher missed, had twice, or saw in another order."""
    wrong = []
    if missing := set(expected) - set(seen):
        wrong.append(f"{who}: {len(missing)} of {len(expected)} lost, e.g. {min(missing)}")
    if len(seen) > len(set(seen)):
        wrong.append(f"{who}: {len(seen) - len(set(seen))} twice")
    if not wrong and list(seen) != list(expected):
        wrong.append(f"{who}: another order")
    return wrong


def _load(platform: Installation, number: int, stopped: threading.Event) -> None:
    with platform.connect(number % len(platform.api_urls)) as client:
        index = 0
        while not stopped.is_set():
            index += 1
            with suppress(QuarterdeckError):
                name = f"watched-{number}-{index}"
                job = client.submit({"kind": "command", "name": name, "command": "true"})
                if index % 3 == 0:
                    client.jobs.cancel(job.id)
            stopped.wait(0.1)


def _kill(platform: Installation, name: str) -> bool:
    """Kill one part and wait until it is back; False when it was not there to be killed."""
    if name == "database":
        platform.restart_database()
        return all(_ready(platform, api) for api in range(len(platform.api_urls)))
    record = read_record(platform.home)
    entry = record.named(name) if record else None
    process = alive(entry)
    if process is None or not chaos.strike(Target(name, (process,)), 9):
        return False
    deadline = time.monotonic() + _BACK_SECONDS
    while time.monotonic() < deadline:
        record = read_record(platform.home)
        back = record.named(name) if record else None
        if back != entry and alive(back):
            return not name.startswith("api") or _ready(platform, int(name == "api-2"))
        time.sleep(0.2)
    raise SystemExit(f"{name} did not come back")


def _ready(platform: Installation, api: int) -> bool:
    deadline = time.monotonic() + _BACK_SECONDS
    with platform.connect(api, retry_seconds=0) as client:
        while not client.ready():
            if time.monotonic() > deadline:
                raise SystemExit(f"api {api + 1} is not ready after {_BACK_SECONDS:g} s")
            time.sleep(0.2)
    return True


def _settled(platform: Installation) -> list[int]:
    """All events in order, once the controllers have nothing more to say."""
    before: list[int] = []
    while True:
        with platform.connect() as client:
            found = [event.id for event in client.events()]
        if found and found == before:
            return found
        before = found
        time.sleep(3.0)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="10 watchers, one round")
    parser.add_argument("--watchers", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pause", type=float, default=2.0)
    options = parser.parse_args()
    if options.quick:
        options.watchers, options.rounds = 10, 1
    with installation(SHAPE, database="postgresql") as platform:
        outcome = watch(platform, options.watchers, options.rounds, options.pause)
    for wrong in outcome.wrong:
        print(f"WRONG  {wrong}", file=sys.stderr)
    figures = {"events": outcome.events, "kills": outcome.kills, "wrong": len(outcome.wrong)}
    report("watchers", {"watchers": options.watchers, **figures})
    return int(bool(outcome.wrong))


if __name__ == "__main__":
    sys.exit(main())
