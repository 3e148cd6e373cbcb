"""What the control plane bears: submissions, lists, admissions and beats, on both databases.

A real api and a real controller; 16 client processes submit one-rank jobs, then read lists and
single jobs; then simulated machines come (a client that speaks as an agent reports nodes and
claims what it is given) and the controller admits everything; then the first runs beat as fast as
they may.

    python -m benchmarks.control_plane --quick                      # 500 jobs, 100 runs
    python -m benchmarks.control_plane --database postgresql        # 50,000 jobs, 2,000 runs
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psutil
from sqlalchemy import text

from benchmarks.harness import report
from benchmarks.installation import Installation, Shape, installation
from quarterdeck.client import Client, QuarterdeckError
from quarterdeck.client.agents import AgentClient, RunClient
from quarterdeck.client.config import read_key
from quarterdeck.processes.records import alive, read_record
from quarterdeck.specs.beats import LogChunk, MetricRow, RankState, RunBeat
from quarterdeck.specs.protocol import AgentBeat, NodeReport, RunOrder
from quarterdeck.store.failures import UNAVAILABLE
from quarterdeck.store.sessions import Database

CLIENTS = 16
SLOTS = 64
READ_SECONDS = 20.0
BEAT_SECONDS = 20.0
ADMISSION_SECONDS = 1800.0
DOCUMENT = {"kind": "command", "command": "true", "ranks": 1}


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    jobs: int
    runs: int
    read_seconds: float = READ_SECONDS
    beat_seconds: float = BEAT_SECONDS


# --- clients -----------------------------------------------------------------------------------


def _clients(work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """`work(number, *arguments)` in 16 processes; their answers."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(CLIENTS) as pool:
        return pool.starmap(work, [(number, *arguments) for number in range(CLIENTS)], 1)


def submit(number: int, url: str, key: str, jobs: int) -> tuple[float, float]:
    """Submit this client's share; first and last moment."""
    with Client(url, key, retry_seconds=60) as client:
        client.whoami()
        start = time.time()
        for index in range(number, jobs, CLIENTS):
            client.jobs.submit({**DOCUMENT, "name": f"load-{index}"})
        return start, time.time()


def read(number: int, url: str, key: str, jobs: int, seconds: float) -> dict[str, list[float]]:
    """Lists and single jobs in turn for a while; seconds of each."""
    found: dict[str, list[float]] = {"list": [], "get": []}
    with Client(url, key, retry_seconds=0) as client:
        client.whoami()
        until = time.monotonic() + seconds
        index = number
        while time.monotonic() < until:
            index += CLIENTS
            start = time.monotonic()
            if index % 2:
                client.jobs.list(limit=50, phase="queued" if index % 3 else None)
                found["list"].append(time.monotonic() - start)
            else:
                client.jobs.get(f"load-{index % jobs}")
                found["get"].append(time.monotonic() - start)
    return found


def beat(number: int, url: str, orders: list[RunOrder], seconds: float) -> tuple[int, int]:
    """Beats of this client's share of the runs, one after the other; how many were taken, and how
    many were not in their time (a supervisor sends such a one again)."""
    mine = [
        (order, RunClient(url, order.run_key, retry_seconds=0)) for order in orders[number::CLIENTS]
    ]
    count = late = sequence = 0
    until = time.monotonic() + seconds
    while mine and time.monotonic() < until:
        sequence += 1
        for order, client in mine:
            if time.monotonic() >= until:
                break
            try:
                client.beat(order.run_id, _beat(order, sequence))
                count += 1
            except QuarterdeckError:
                late += 1
    return count, late


def _beat(order: RunOrder, sequence: int) -> RunBeat:
    now = datetime.now(UTC)
    line = (time.time(), f"step {sequence} of a run that only says so")
    return RunBeat(
        epoch=order.epoch, seq=sequence, sent_at=now, reported_phase="running", step=sequence,
        ranks=[RankState(rank=0, phase="running", pid=1)],
        metrics=[MetricRow(step=sequence, values={"loss": 1.0}, at=now)],
        logs=[LogChunk(rank=0, seq=sequence, lines=[line])],
    )  # fmt: skip


# --- simulated machines ------------------------------------------------------------------------


class Machines:
    """An agent without Ray: reports nodes, claims up to `most` runs, keeps their orders."""

    def __init__(self, url: str, key: str, slots: int, most: int) -> None:
        self.orders: list[RunOrder] = []
        self._most = most
        self._url, self._key = url, key
        self._beat = AgentBeat(
            agent_id="simulated", started_at=datetime.now(UTC),
            nodes=[
                NodeReport(node_id=f"node-{index}", host=f"host-{index}", address="", slots=SLOTS)
                for index in range(-(-slots // SLOTS))
            ],
        )  # fmt: skip
        self._taken: set[str] = set()
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=each) for each in (self._beats, self._claims)]

    def __enter__(self) -> Machines:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _beats(self) -> None:
        with AgentClient(self._url, self._key, timeout=60) as client:
            while not self._stopped.wait(2.0):
                with suppress(QuarterdeckError):
                    client.beat("simulated", self._beat)

    def _claims(self) -> None:
        with (
            AgentClient(self._url, self._key, timeout=60) as client,
            ThreadPoolExecutor(CLIENTS) as threads,
        ):
            while not self._stopped.is_set() and len(self.orders) < self._most:
                try:
                    work = client.work("simulated", 2.0)
                except QuarterdeckError:
                    continue
                fresh = [run for run in work.start if run.run_id not in self._taken]
                self._taken.update(run.run_id for run in fresh)

                def claim(run: Any) -> None:
                    if not self._stopped.is_set():
                        with suppress(QuarterdeckError):
                            order = client.claim(run.run_id, run.epoch, "simulated")
                            self.orders.append(order)

                list(threads.map(claim, fresh[:200]))
                self._taken.difference_update(run.run_id for run in fresh[200:])


# --- measuring ---------------------------------------------------------------------------------


class Memory:
    """The api's largest resident memory, sampled."""

    def __init__(self, platform: Installation) -> None:
        record = read_record(platform.home)
        process = alive(record.named("api")) if record else None
        assert process is not None
        self._process: psutil.Process = process
        self.most = 0
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        with suppress(psutil.Error):
            while True:
                self.most = max(self.most, self._process.memory_info().rss)
                time.sleep(0.5)


def measure(platform: Installation, database_url: str, size: Size) -> dict[str, float]:
    """All figures of one database."""
    url, key = platform.options.api_url, read_key(platform.home.admin_key)
    memory = Memory(platform)
    spans = _clients(submit, url, key, size.jobs)
    seconds = max(end for _, end in spans) - min(start for start, _ in spans)
    figures = {"submits_per_s": size.jobs / seconds}
    _tell(f"{size.jobs} jobs submitted in {seconds:.1f} s")

    answers = _clients(read, url, key, size.jobs, size.read_seconds)
    for name in ("list", "get"):
        times = sorted(value for answer in answers for value in answer[name])
        figures[f"{name}_p99_ms"] = statistics.quantiles(times, n=100)[98] * 1e3
        figures[f"{name}s_per_s"] = len(times) / size.read_seconds
    _tell(f"lists p99 {figures['list_p99_ms']:.0f} ms, gets {figures['get_p99_ms']:.0f} ms")

    database = Database.open(database_url)
    try:
        agent_key = read_key(platform.home.agent_key)
        with Machines(url, agent_key, size.jobs, size.runs) as machines:
            figures["admissions_per_s"] = _admissions(database, size.jobs)
            _tell(f"{figures['admissions_per_s']:.0f} admissions/s")
            deadline = time.monotonic() + 300
            while len(machines.orders) < size.runs and time.monotonic() < deadline:
                time.sleep(0.2)
            orders = machines.orders[: size.runs]
            _tell(f"{len(orders)} runs beat")
            answers = _clients(beat, url, orders, size.beat_seconds)
            figures["beats_per_s"] = sum(taken for taken, _ in answers) / size.beat_seconds
            figures["beats_late"] = sum(late for _, late in answers)
    finally:
        database.close()
    figures["api_rss_mb"] = memory.most / 2**20
    return figures


def _admissions(database: Database, jobs: int) -> float:
    """Runs created a second, from the first to the last one."""
    first: float | None = None
    seen, deadline = 0, time.monotonic() + ADMISSION_SECONDS
    while time.monotonic() < deadline:
        with suppress(*UNAVAILABLE), database.read() as session:
            seen = int(session.execute(text("SELECT count(*) FROM runs")).scalar_one())
        now = time.monotonic()
        if first is None and seen:
            first, already = now, seen
        if seen >= jobs:
            break
        time.sleep(0.25)
    if first is None:
        raise SystemExit("nothing was admitted")
    if now == first:
        raise SystemExit("all was admitted before the first look: take more jobs")
    return (seen - already) / (now - first)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="500 jobs, 100 runs")
    parser.add_argument("--jobs", type=int, default=50_000)
    parser.add_argument("--runs", type=int, default=2_000, help="that beat")
    parser.add_argument("--database", choices=("sqlite", "postgresql", "both"), default="both")
    options = parser.parse_args()
    size = Size(options.jobs, min(options.runs, options.jobs))
    if options.quick:
        size = Size(500, 100, 4.0, 4.0)
    names = ("sqlite", "postgresql") if options.database == "both" else (options.database,)
    figures: dict[str, float] = {}
    for name in names:
        with installation(Shape(agents=0), database=name) as platform:
            url = os.environ.get("QUARTERDECK_DATABASE_URL") or platform.home.database_url
            for figure, value in measure(platform, url, size).items():
                figures[f"{figure}_{name}"] = value
    report("control_plane", figures)
    return 0


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
