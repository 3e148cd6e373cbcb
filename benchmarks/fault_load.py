"""A steady load of small jobs, with suspensions, cancellations and crashes among them.

Half of the suspensions and cancellations come some time after the submission, the others at once
when an event tells of a moment that is soon over: a run that is assigned and not claimed yet, one
that starts, one that has just begun to run.
"""

from __future__ import annotations

import queue
import random
import shlex
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quarterdeck.client import Client, QuarterdeckError
from quarterdeck.specs.resources import Event

RANKS = 2
COUNTING = Path(__file__).with_name("counting.py")
_LOOK_SECONDS = 0.5
_MOMENTS = ("run.assigned", "run.claimed", "run.phase starting", "run.phase running")


@dataclass
class Load:
    """Keeps `live` jobs alive until `stop`. `acknowledged` is name → id."""

    connect: Callable[[], Client]
    records: Path
    live: int
    seed: int
    steps: int = 25
    stops: float = 0.35
    """The share of jobs that are suspended and resumed, or (three of seven) cancelled."""
    acknowledged: dict[str, str] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)
    failure: BaseException | None = None

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._guarded, name="load", daemon=True)
        self._number = 0
        self._wishes: list[tuple[float, str, str]] = []
        """When (monotonic seconds; infinite: at the job's moment), what, and for which job."""
        self._moments: dict[str, str] = {}
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()

    def on_event(self, event: Event) -> None:
        """Called for every event, on the watcher's thread."""
        moment = event.type
        if moment == "run.phase":
            moment += f" {event.data['to']}"
        name = event.subject.removeprefix("job/")
        if self._moments.get(name) == moment:
            del self._moments[name]
            self._news.put(name)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Submit no more; what was wished is wished now."""
        self._stopped.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def _guarded(self) -> None:
        try:
            self._work()
        except BaseException as error:
            self.failure = error

    def _work(self) -> None:
        with self.connect() as client:
            open_ids: set[str] = set()
            looked = float("-inf")
            while not self._stopped.is_set():
                with suppress(queue.Empty):
                    self._hasten(self._news.get(timeout=_LOOK_SECONDS / 5), time.monotonic())
                self._wish(client, time.monotonic())
                if time.monotonic() < looked + _LOOK_SECONDS:
                    continue
                looked = time.monotonic()
                with suppress(QuarterdeckError):
                    open_ids = {i for i in open_ids if _lives(client, i)}
                while len(open_ids) < self.live and not self._stopped.is_set():
                    open_ids.add(self._submit(client))
            self._wish(client, float("inf"))

    def _submit(self, client: Client) -> str:
        self._number += 1
        name = f"load-{self.seed}-{self._number}"
        document = self._document(name)
        self._plan_wishes(name, time.monotonic())  # its first events may come before the answer
        while True:  # until it is acknowledged: a retry names the same key
            try:
                job = client.jobs.submit(document, idempotency_key=name)
            except QuarterdeckError:
                time.sleep(1.0)
                continue
            self.acknowledged[name] = job.id
            return job.id

    def _document(self, name: str) -> dict[str, Any]:
        save = self._random.choice([0, 0, 5])
        words = [
            sys.executable, str(COUNTING), "--records", str(self.records),
            "--steps", str(self.steps), "--save", str(save),
        ]  # fmt: skip
        command = " ".join(map(shlex.quote, words))
        if self._random.random() < 0.15:
            command = f"[ $QUARTERDECK_ATTEMPT = 1 ] && sleep 1 && exit 3; {command}"
        return {
            "kind": "command", "name": name, "ranks": RANKS, "command": command,
            "restart_safe": True, "max_restarts": 1000,
        }  # fmt: skip

    def _plan_wishes(self, name: str, now: float) -> None:
        draw, first = self._random.random(), now + self._random.uniform(0, 8)
        second = self._random.uniform(1, 6)
        moment = self._random.choice(_MOMENTS)
        if self._random.random() < 0.5:
            first = float("inf")
        if draw < self.stops * 4 / 7:
            self._wishes += [(first, "suspend", name), (first + second, "resume", name)]
        elif draw < self.stops:
            self._wishes.append((first, "cancel", name))
        if draw < self.stops and first == float("inf"):
            self._moments[name] = moment

    def _hasten(self, name: str, now: float) -> None:
        """The moment of a job has come."""
        for index, (when, verb, whose) in enumerate(self._wishes):
            if whose == name and when == float("inf"):
                later = 0.0 if verb != "resume" else self._random.uniform(1, 6)
                self._wishes[index] = (now + later, verb, name)

    def _wish(self, client: Client, now: float) -> None:
        for wish in [wish for wish in self._wishes if wish[0] <= now]:
            _, verb, name = wish
            identity = self.acknowledged[name]
            with suppress(QuarterdeckError):
                if verb == "cancel":
                    self.cancelled.add(name)  # it may be heard although no answer comes
                try:
                    getattr(client.jobs, verb)(identity)
                except QuarterdeckError as error:
                    if _lives(client, identity) and _worth(error):
                        continue
                self._wishes.remove(wish)
            if wish in self._wishes and now == float("inf"):
                time.sleep(1.0)


def _lives(client: Client, identity: str) -> bool:
    return client.jobs.get(identity).phase not in ("succeeded", "failed", "cancelled")


def _worth(error: QuarterdeckError) -> bool:
    """Whether the wish may succeed later."""
    return error.problem is None or error.problem.status >= 500
