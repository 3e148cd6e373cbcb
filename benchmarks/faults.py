"""Random faults under a steady load: is a job lost, run twice, or told twice?

Each fault comes a random moment after a transition that an event told of, first those that were
hit fewer than five times: SIGKILL or SIGSTOP to a process of some kind, a cut between agents and
api, a slow disk, a restart of PostgreSQL. The jobs write down outside of the platform what they
do (`benchmarks.counting`). At the end these records, the api's answers and `quarterdeck doctor`
must agree.

    python -m benchmarks.faults --quick
    python -m benchmarks.faults --faults 1000 --database postgresql --controllers 3
    python -m benchmarks.faults --only "run.phase running → lost"   # until five faults hit that
    python -m benchmarks.faults --quick --break claim      # must report run_twice > 0

Ctrl-C ends the faults and proves what was done. Exit code 1 when a job was lost, run twice or told
twice, or the doctor found something.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import fault_proof
from benchmarks.fault_load import RANKS, Load
from benchmarks.harness import QUARTERDECK, report
from benchmarks.installation import Installation, Shape, installation, python_path
from quarterdeck.cli.output import aligned
from quarterdeck.client import Client, QuarterdeckError
from quarterdeck.processes import chaos
from quarterdeck.processes.chaos import Fault
from quarterdeck.processes.chaos_targets import RUN_KINDS, Target, targets
from quarterdeck.processes.chaos_watch import HEADINGS, Watcher, table
from quarterdeck.specs.resources import Event

WEIGHTS = {
    "api": 8, "controller": 8, "gateway": 2, "agent": 8, "supervisor": 8, "host": 6, "rank": 8,
    "ranks": 4, "parent": 2, "gcs": 1, "raylet": 1, "cut": 4, "slow-disk": 4, "postgres": 4,
}  # fmt: skip
DAEMONS = frozenset({"gcs", "raylet"})
STOPPED_SHARE = 0.2
LONGEST_STOP = 8.0
LONGEST_DELAY = 1.0
WANTED_SECONDS = 8.0
"""How long a fault waits for a transition that it wants before it takes the next that comes."""
ANY_SECONDS = 4.0
"""And how long for that: an earlier fault may have stopped everything."""
WANTED_HITS = 5
"""Faults wait for transitions that had fewer; once none has, for any."""
ONLY_SECONDS = 20.0
"""How long they wait for the transitions that `--only` names: without faults some never come."""
UNWANTED_FAULTS = 5
"""After a wait in vain so many take what comes: a rare transition must not slow the storm."""
MOST_HELD = 2
"""Faults that last, at a time; the next ones come while these do."""
DRAIN_SECONDS = 600.0


@dataclass(frozen=True)
class Moment:
    """One event, as a fault sees it."""

    transition: str
    owner: str


def transition(event: Event) -> Moment | None:
    """`run.phase starting → running`; None for events that are no transition."""
    if event.type in ("job.phase", "run.phase"):
        return Moment(f"{event.type} {event.data['from']} → {event.data['to']}", event.subject)
    if event.type in ("run.assigned", "run.claimed", "checkpoint.registered", "job.submitted"):
        return Moment(event.type, event.subject)
    return None


class Storm:
    """Makes the faults one after the other."""

    def __init__(
        self, platform: Installation, watcher: Watcher, seed: int, kinds: dict[str, int],
        only: frozenset[str] = frozenset(),
    ) -> None:  # fmt: skip
        self.hits: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self._platform = platform
        self._watcher = watcher
        self._random = random.Random(seed)
        self._weights = kinds
        self._only = only
        self._news = threading.Condition()
        self._wanted: frozenset[str] = frozenset()
        self._moment: Moment | None = None
        self._seen: set[str] = set()
        self._patient_from = 0
        self._lasting = ThreadPoolExecutor(MOST_HELD, "lasting-fault")
        self._held: list[Future[object]] = []
        self._surroundings = threading.Lock()

    def on_event(self, event: Event) -> None:
        """Called for every event, on the watcher's thread."""
        moment = transition(event)
        if moment is None or time.time() - event.at.timestamp() > 2.0:
            return
        with self._news:
            self._seen.add(moment.transition)
            if not self._wanted or moment.transition in self._wanted:
                self._moment = moment
                self._news.notify_all()

    def one(self, number: int, kind: str | None = None) -> Fault | None:
        """The next fault, of `kind` or of a random one, when its transition comes; None when
        nothing of its kind lives."""
        kind = kind or self._kind()
        delay = self._random.uniform(0, LONGEST_DELAY)
        stopped = self._random.random() < STOPPED_SHARE and kind not in DAEMONS
        held = self._random.uniform(1, LONGEST_STOP)
        draw = self._random.random()
        moment = self._await(number)
        time.sleep(delay)
        cause = moment.transition if moment else "nothing happened"
        fault = Fault(number, kind, "KILL", time.time(), kind, cause=cause)
        if kind in ("cut", "slow-disk", "postgres"):
            fault = replace(fault, signal="-", held=0.0 if kind == "postgres" else held)
            self._last(lambda: self._alone(kind, held))
        else:
            living = targets(self._platform.home)
            target = _choose(living, kind, moment, draw)
            if target is None:
                return None
            fault = replace(
                fault, at=time.time(), words=target.words, owner=target.owner, epoch=target.epoch
            )
            if stopped:
                fault = replace(fault, signal="STOP", held=held)
                self._watcher.add(fault, living)
                self._last(lambda: chaos.hold(target, held))
            elif chaos.strike(target, 9):
                self._watcher.add(fault, living)
            else:
                return None
        self.hits[cause] += 1
        self.kinds[kind] += 1
        return fault

    def _kind(self) -> str:
        names = sorted(self._weights)
        return self._random.choices(names, [self._weights[name] for name in names])[0]

    def settle(self) -> None:
        """Wait for the faults that last. Raises what went wrong in one of them."""
        for lasting in self._held:
            lasting.result()
        self._lasting.shutdown()

    def _last(self, fault: Callable[[], object]) -> None:
        while sum(not each.done() for each in self._held) >= MOST_HELD:
            time.sleep(0.1)
        self._held.append(self._lasting.submit(fault))

    def missing(self) -> frozenset[str]:
        """The transitions that were hit too seldom, of those that came or are named alone."""
        names = self._only or self._seen
        return frozenset(name for name in names if self.hits[name] < WANTED_HITS)

    def _await(self, number: int) -> Moment | None:
        patience = ONLY_SECONDS if self._only else WANTED_SECONDS
        with self._news:
            wanted = self.missing()
            self._moment = None
            patient = bool(self._only) or number >= self._patient_from
            self._wanted = wanted if patient else frozenset()
            if self._wanted and not self._news.wait_for(lambda: self._moment, patience):
                self._patient_from = number + UNWANTED_FAULTS
                self._wanted = frozenset()
            if not self._wanted:
                self._news.wait_for(lambda: self._moment, ANY_SECONDS)
            return self._moment

    def _alone(self, kind: str, held: float) -> None:
        with self._surroundings:  # the first to mend a cut would end the other's too
            self._environment(kind, held)

    def _environment(self, kind: str, held: float) -> None:
        if kind == "cut":
            self._platform.link.cut()
            time.sleep(held)
            self._platform.link.mend()
        elif kind == "slow-disk":
            chaos.slow_disk(self._platform.home.folder / "quarterdeck.db", held)
        else:
            self._platform.restart_database()


def _choose(living: list[Target], kind: str, moment: Moment | None, draw: float) -> Target | None:
    found = [target for target in living if target.kind == kind]
    if kind in RUN_KINDS and moment is not None:
        found = [target for target in found if target.owner == moment.owner] or found
    return found[int(draw * len(found))] if found else None


def drain(client: Client, identities: list[str], seconds: float) -> None:
    """Wait until every job has ended, or for so long."""
    deadline = time.monotonic() + seconds
    left = list(identities)
    while left and time.monotonic() < deadline:
        try:
            phases = {job.id: job.phase for job in client.jobs.list()}
        except QuarterdeckError:
            continue
        left = [i for i in left if phases.get(i) not in (None, "succeeded", "failed", "cancelled")]
        time.sleep(1.0)


def prove(client: Client, load: Load, records: Path) -> fault_proof.Verdict:
    """Compare what the jobs wrote down with what the platform says."""
    lines = [
        line
        for file in sorted(records.iterdir())
        for line in file.read_text().splitlines(keepends=True)
    ]
    found = fault_proof.processes(lines)
    jobs = list(client.jobs.list())
    by_name: dict[str, list] = {}
    for job in jobs:
        by_name.setdefault(job.name, []).append(job)
    told = [
        wrong
        for name, identity in load.acknowledged.items()
        for wrong in fault_proof.doubled(
            name, by_name.get(name, []), client.jobs.logs(identity), client.jobs.metrics(identity)
        )
    ]
    lost = fault_proof.lost(load.acknowledged, frozenset(load.cancelled), jobs, found, RANKS)
    return fault_proof.Verdict(lost, fault_proof.twice(found), told)


def doctor(platform: Installation) -> tuple[bool, str]:
    """Whether `quarterdeck doctor` finds nothing wrong, and what it says."""
    done = subprocess.run(
        [*QUARTERDECK, "doctor"], capture_output=True, text=True, timeout=300, check=False,
        env={**os.environ, "QUARTERDECK_HOME": str(platform.home.folder)},
    )  # fmt: skip
    return done.returncode == 0, done.stdout + done.stderr


def kinds_for(options: argparse.Namespace) -> dict[str, int]:
    """The kinds of fault that this run makes, with their weights."""
    without = "slow-disk" if options.database == "postgresql" else "postgres"
    kinds = {kind: weight for kind, weight in WEIGHTS.items() if kind != without}
    if options.kinds:
        kinds = dict.fromkeys(options.kinds.split(","), 1)
    elif options.quick:
        kinds = {kind: weight for kind, weight in kinds.items() if kind not in DAEMONS}
    return kinds


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="12 faults, about two minutes")
    parser.add_argument("--faults", type=int, default=1000)
    parser.add_argument("--every", type=float, default=2.0, help="seconds between faults")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--live", type=int, default=3, help="jobs at once")
    parser.add_argument(
        "--stops", type=float, default=0.35, help="share of jobs that are suspended or cancelled"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="TRANSITION",
        help="wait for this one (may be given again), and end when each was hit five times",
    )  # fmt: skip
    parser.add_argument("--kinds", help="comma-separated, instead of all")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--controllers", type=int, default=1)
    parser.add_argument("--agents", type=int, default=1, help="that race for one cluster")
    parser.add_argument("--node-ip", default="127.0.0.9")
    parser.add_argument("--break", dest="broken", choices=("claim",))
    parser.add_argument("--keep", type=Path, help="a new folder that stays, with all logs")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # ignored by what a shell puts in the background
        signal.signal(number, signal.default_int_handler)
    if options.quick:
        options.faults = min(options.faults, 12)
    broken = options.broken == "claim"
    environment = {}
    if broken:
        path = python_path(Path(__file__).with_name("broken_claim"))
        environment["PYTHONPATH"] = path
    shape = Shape(
        controllers=options.controllers, agents=max(options.agents, 1 + broken),
        node_ip=options.node_ip, slots=4 * RANKS * options.live, environment=environment,
    )  # fmt: skip
    with installation(shape, database=options.database, keep=options.keep) as platform:
        with tempfile.TemporaryDirectory(prefix="qd-records-") as folder:
            return run(platform, Path(folder), options, _tell)


def run(
    platform: Installation, records: Path, options: argparse.Namespace, tell: Callable[[str], None]
) -> int:
    load = Load(platform.connect, records, options.live, options.seed, stops=options.stops)
    watcher = Watcher(
        platform.home, lambda: platform.connect(retry_seconds=0), platform.gateway_answers
    )
    only = frozenset(options.only)
    storm = Storm(platform, watcher, options.seed, kinds_for(options), only)

    def on_event(event: Event) -> None:
        load.on_event(event)
        storm.on_event(event)

    watcher.on_event = on_event
    watcher.start()
    load.start()
    done = 0
    try:
        while done < options.faults and (not only or storm.missing()):
            fault = storm.one(done + 1)
            if fault is not None:
                done += 1
                tell(f"{done}: {fault.signal} {fault.words}, after {fault.cause}")
            time.sleep(options.every)
    except KeyboardInterrupt:
        tell(f"interrupted after {done} faults: proving what they left")
    storm.settle()
    load.stop()
    with platform.connect() as client:
        drain(client, list(load.acknowledged.values()), DRAIN_SECONDS)
        watcher.settle(10.0)
        watcher.close()
        verdict = prove(client, load, records)
        healthy, words = doctor(platform)
    print(aligned([HEADINGS, *table(watcher.recoveries)]))
    print(aligned([("TRANSITION", "FAULTS"), *((n, str(c)) for n, c in storm.hits.most_common())]))
    for wrong in (*verdict.lost, *verdict.twice, *verdict.doubled):
        print(f"WRONG  {wrong}")
    if not healthy:
        print(words)
    report(
        "faults",
        {
            "faults": done, "jobs": len(load.acknowledged), "transitions": len(storm.hits),
            "least_hits": min(storm.hits[name] for name in only or storm.hits),
            "jobs_lost": len(verdict.lost),
            "run_twice": len(verdict.twice), "doubled": len(verdict.doubled),
            "doctor_wrong": int(not healthy),
        },
    )  # fmt: skip
    return int(bool(verdict.lost or verdict.twice or verdict.doubled or not healthy))


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
