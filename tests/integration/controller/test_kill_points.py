"""Controllers that die or sleep between any two statements: nothing is lost, nothing is doubled.

One story leads jobs and a service through every transition that has an owner in the controller.
It is told again and again; each time one controller dies at a seeded point (its statement, its
commit, or just after it) or sleeps there, beyond its leases, while another one works. The other
one, and a new one, tell the story to its end. QUARTERDECK_KILL_POINTS sets how often; `all` means
every point, which takes longer than a test may (--timeout 0).
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import event, select, text, update

from quarterdeck.controller.loop import Controller
from quarterdeck.lifecycle.run import ENDED
from quarterdeck.specs.beats import Endpoint
from quarterdeck.store.database import make_engine
from quarterdeck.store.errors import AlreadyClaimed, StaleEpoch
from quarterdeck.store.sessions import Database, Session
from quarterdeck.store.tables import EventRow, JobRow, NodeRow, RunRow, ServiceRow

DEATHS, SLEEPS = 4, 2
ROUNDS = 40


class Died(BaseException):
    """A SIGKILL: nothing in the controller gets to handle it."""


class MortalDatabase(Database):
    """One controller's way to the database. `fault` is called at each point, with whether a
    transaction is open; after a death every further use dies too, as of a process that is gone."""

    def __init__(self, url: str) -> None:
        super().__init__(make_engine(url))
        self.fault: Callable[[bool], None] = lambda inside: None
        self.dead = False
        event.listen(self.engine, "before_cursor_execute", self._statement)
        event.listen(self.engine, "commit", self._statement)

    def _statement(self, *_: Any) -> None:
        self._point(True)

    def _point(self, inside: bool) -> None:
        if self.dead:
            raise Died
        try:
            self.fault(inside)
        except Died:
            self.dead = True
            raise

    @contextmanager
    def write(self) -> Iterator[Session]:
        self._point(False)
        with super().write() as session:
            yield session
        self._point(False)

    @contextmanager
    def read(self) -> Iterator[Session]:
        self._point(False)
        with super().read() as session:
            yield session
        self._point(False)


@dataclass
class Story:
    """What people and machines do; controllers come in from outside."""

    platform: Any
    make: Any
    tag: str
    jobs: dict[str, str] = field(default_factory=dict)
    service: str = ""
    claims: Counter[str] = field(default_factory=Counter)
    said: Counter[str] = field(default_factory=Counter)
    once: set[str] = field(default_factory=set)

    def begin(self) -> None:
        command = self.make["command"]
        for name in ("plain", "flaky", "cancelled", "parked", "after"):
            extra = {"after": [f"job/plain-{self.tag}"]} if name == "after" else {}
            self.jobs[name] = self.platform.submit(command(f"{name}-{self.tag}", **extra))
        silent = command(f"silent-{self.tag}", restart_safe=True)
        self.jobs["silent"] = self.platform.submit(silent)
        document = {"kind": "service", "name": f"s-{self.tag}", "model": "file:///m"}
        self.service = self.platform.deploy(document)

    def act(self) -> None:
        """One round of the agent, the runs and the people."""
        agent = self.platform.agent
        agent.beat()
        for start in agent.work().start:
            try:
                agent.claim(start.run_id, start.epoch)
                self.claims[start.run_id] += 1
            except (AlreadyClaimed, StaleEpoch):
                continue
        owners = {job_id: name for name, job_id in self.jobs.items()} | {self.service: "service"}
        with self.platform.database.read() as session:
            runs = session.scalars(select(RunRow).where(RunRow.owner_id.in_(owners))).all()
        for run in runs:
            if run.claimed_by is None or (run.phase in ENDED and not run.quarantined):
                continue
            try:
                self._speak(owners[run.owner_id], run)
            except StaleEpoch:
                continue
        self._wish()

    def _speak(self, name: str, run: RunRow) -> None:
        agent = self.platform.agent
        self.said[run.id] += 1
        first = self.said[run.id] == 1
        if name == "service":
            if run.order != "continue":
                agent.say(run, "cancelled")
                return
            endpoint = Endpoint(url="http://x", probed=True)
            agent.say(run, "starting" if first else "ready", endpoint=None if first else endpoint)
        elif first:
            agent.say(run, "running", step=0)
        elif run.quarantined:
            agent.saw(run, "dead")
        elif name == "silent" and run.epoch == 1:
            self._once(f"silence-{run.id}", lambda: self.platform.silence(run))
        elif run.order != "continue":
            agent.say(run, "cancelled")
        elif name in ("cancelled", "parked") and run.epoch == 1:
            agent.say(run, "running", step=1)
        elif name == "flaky" and run.epoch == 1:
            agent.say(run, "failed", failure=self.make["failure"]("user_code"))
        else:
            agent.say(run, "succeeded")

    def _wish(self) -> None:
        phases = {name: self.platform.job(job_id).phase for name, job_id in self.jobs.items()}
        if phases["cancelled"] == "running":
            self._once("cancel", lambda: self.platform.wish(self.jobs["cancelled"], "cancel"))
        if phases["parked"] == "running":
            self._once("suspend", lambda: self.platform.wish(self.jobs["parked"], "suspend"))
        if phases["parked"] == "suspended":
            self._once("resume", lambda: self.platform.wish(self.jobs["parked"], "run"))
        if self.platform.service(self.service).phase == "ready":
            self._once("stop", self._stop_service)
        # Draining takes three seconds: let them pass.
        with self.platform.database.write() as session:
            session.execute(
                text("UPDATE runs SET order_deadline_at = created_at WHERE phase = 'draining'")
            )

    def _stop_service(self) -> None:
        with self.platform.database.write() as session:
            session.execute(
                update(ServiceRow)
                .where(ServiceRow.id == self.service)
                .values(desired="stop", version=ServiceRow.version + 1)
            )

    def _once(self, name: str, act: Callable[[], None]) -> None:
        if name not in self.once:
            self.once.add(name)
            act()

    # --- what must hold --------------------------------------------------------------------

    def over(self) -> bool:
        jobs = [self.platform.job(job_id) for job_id in self.jobs.values()]
        ended = all(job.phase in ("succeeded", "failed", "cancelled") for job in jobs)
        freed = not self.platform.runs(self.jobs["silent"])[:1] or not (
            self.platform.runs(self.jobs["silent"])[0].quarantined
        )
        return ended and freed and self.platform.service(self.service).phase == "stopped"

    def check_now(self) -> None:
        """At every moment: one live run an owner, no machine with more than it has."""
        with self.platform.database.read() as session:
            runs = session.scalars(select(RunRow)).all()
            slots = {node.id: node.slots for node in session.scalars(select(NodeRow))}
        live = [run for run in runs if run.phase not in ENDED]
        assert max(Counter(run.owner_id for run in live).values(), default=0) <= 1
        held = [run for run in runs if run.phase not in ENDED or run.quarantined]
        used = Counter(place["node_id"] for run in held for place in run.placements)
        assert all(count <= slots[node] for node, count in used.items())

    def check_end(self) -> None:
        expected = dict.fromkeys(self.jobs, "succeeded") | {"cancelled": "cancelled"}
        attempts = dict.fromkeys(self.jobs, 1) | {"flaky": 2, "parked": 2, "silent": 2}
        for name, job_id in self.jobs.items():
            job, runs = self.platform.job(job_id), self.platform.runs(job_id)
            assert job.phase == expected[name], (name, job.phase, job.reason, job.message)
            assert [run.epoch for run in runs] == list(range(1, attempts[name] + 1)), name
            assert job.restarts_used == (name == "flaky"), name
            assert all(self.claims[run.id] == 1 for run in runs), name
            self._check_events(job_id, "waiting", job.phase, runs)
        runs = self.platform.runs(self.service)
        assert len(runs) == 1 and self.claims[runs[0].id] == 1
        self._check_events(self.service, "deploying", "stopped", runs)

    def _check_events(self, owner: str, first: str, last: str, runs: list[RunRow]) -> None:
        """Each change of phase has exactly one event, and they make a chain."""
        with self.platform.database.read() as session:
            events = session.scalars(
                select(EventRow).where(EventRow.subject_id == owner).order_by(EventRow.id)
            ).all()
        chains: dict[str, list[tuple[str, str]]] = {owner: []} | {run.id: [] for run in runs}
        for each in events:
            if each.type in ("job.phase", "service.phase", "run.phase"):
                subject = each.data.get("run_id", owner)
                chains[subject].append((each.data["from"], each.data["to"]))
        ends = {owner: (first, last)} | {run.id: ("assigned", run.phase) for run in runs}
        for subject, chain in chains.items():
            start, end = ends[subject]
            assert [start, *(to for _, to in chain)] == [*(of for of, _ in chain), end], chain
        assigned = [each for each in events if each.type == "run.assigned"]
        assert len(assigned) == len(runs)


def expire_leases(database: Database) -> None:
    with database.write() as session:
        for table in (JobRow, RunRow, ServiceRow):
            session.execute(
                update(table)
                .where(table.lease_id.is_not(None))
                .values(lease_until=table.created_at)
                .execution_options(synchronize_session=False)
            )


def tell(
    platform: Any, make: Any, tag: str, url: str, fault: Callable[[MortalDatabase], None]
) -> MortalDatabase:
    """The whole story, with one controller whose database has `fault`."""
    story = Story(platform, make, tag)
    story.begin()
    mortal = MortalDatabase(url)
    fault(mortal)
    first = Controller(mortal)
    try:
        for _ in range(ROUNDS):
            if not mortal.dead:
                try:
                    first.tick()
                except Died:
                    story.check_now()
                    platform.controller.tick()  # the dead one's leases still hold
                    expire_leases(platform.database)
            else:
                platform.controller.tick()
            story.check_now()
            story.act()
            if story.over():
                break
        story.check_end()
    finally:
        mortal.close()
    return mortal


@pytest.fixture
def url(platform: Any) -> str:
    return str(platform.database.engine.url.render_as_string(hide_password=False))


def chosen(total: int, usual: int, seed: int) -> list[int]:
    asked = os.environ.get("QUARTERDECK_KILL_POINTS")
    if asked == "all":
        return list(range(total))
    count = min(total, int(asked) if asked else usual)
    return sorted(random.Random(seed).sample(range(total), count))


def test_a_controller_dies_at_any_point(platform: Any, make: Any, url: str) -> None:
    total = 0

    def count(mortal: MortalDatabase) -> None:
        def fault(inside: bool) -> None:
            nonlocal total
            total += 1

        mortal.fault = fault

    tell(platform, make, "count", url, count)
    assert total > 300, "the story has become too short to tell anything"
    for point in chosen(total, DEATHS, seed=20):
        left = point

        def die(mortal: MortalDatabase) -> None:
            def fault(inside: bool) -> None:
                nonlocal left
                left -= 1
                if left < 0:
                    raise Died

            mortal.fault = fault

        assert tell(platform, make, f"d{point}", url, die).dead, f"point {point} was never reached"


def test_a_controller_sleeps_beyond_its_leases_at_any_point(
    platform: Any, make: Any, url: str
) -> None:
    """It wakes with what it had read and decided before, after the other has changed it all."""
    total = 0

    def count(mortal: MortalDatabase) -> None:
        def fault(inside: bool) -> None:
            nonlocal total
            total += not inside

        mortal.fault = fault

    tell(platform, make, "count", url, count)
    for point in chosen(total, SLEEPS, seed=21):
        left = point

        def sleep(mortal: MortalDatabase) -> None:
            def fault(inside: bool) -> None:
                nonlocal left
                left -= not inside
                if left < 0 and not inside:
                    mortal.fault = lambda inside: None
                    expire_leases(platform.database)
                    for _ in range(2):
                        platform.controller.tick()

            mortal.fault = fault

        tell(platform, make, f"s{point}", url, sleep)
