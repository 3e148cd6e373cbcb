"""How long the platform took to notice a fault and to work again, from what can be seen outside.

Of a run's processes: its events (an end of the epoch that was hit, then a later epoch running).
Of the platform's: another process in the record, then an answer of the part. Of Ray's daemons:
another daemon, then a beat of the agent after its start.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from quarterdeck.client import Client, QuarterdeckError
from quarterdeck.processes.chaos import Fault
from quarterdeck.processes.chaos_targets import RUN_KINDS, Target, targets
from quarterdeck.processes.home import Home
from quarterdeck.specs.resources import Event

ENDS = frozenset({"succeeded", "failed", "lost", "preempted", "cancelled"})
PATIENCE_SECONDS = 180.0
_LOOK_SECONDS = 0.5


@dataclass
class Recovery:
    """A fault and what followed; moments in unix seconds, None: not seen."""

    fault: Fault
    pids: frozenset[int]
    """Of everything of the kind that lived before: another one is new."""
    noticed: float | None = None
    resumed: float | None = None
    over: bool = False
    """Nothing more can come of it, e.g. the job has ended well."""

    def __post_init__(self) -> None:
        # A process that has not said yet, or no longer says, whose it is: no event tells of it.
        self.over = self.over or (self.fault.kind in RUN_KINDS and not self.fault.owner)

    @property
    def notice_seconds(self) -> float | None:
        return None if self.noticed is None else max(0.0, self.noticed - self.fault.at)

    @property
    def resume_seconds(self) -> float | None:
        return None if self.resumed is None else max(0.0, self.resumed - self.fault.at)


def hear(recovery: Recovery, event: Event) -> None:
    """Take one event of the outbox into account, in order."""
    fault = recovery.fault
    at = event.at.timestamp()
    if fault.kind in RUN_KINDS and event.subject == fault.owner and _ends(event):
        recovery.over = True  # also when it ended just before: its processes live on for a moment
    if recovery.over or at < fault.at:
        return
    if fault.kind == "controller" and recovery.noticed is not None:
        if event.actor == "controller" and at >= recovery.noticed:
            _resume(recovery, at)
        return
    if fault.kind not in RUN_KINDS or event.subject != fault.owner:
        return
    if event.type != "run.phase":
        return
    epoch, after = int(event.data.get("epoch", 0)), event.data.get("to")
    if epoch <= fault.epoch and after in ENDS and recovery.noticed is None:
        recovery.noticed = at
    if epoch > fault.epoch and after == "running":
        _resume(recovery, at)


def _ends(event: Event) -> bool:
    return event.type == "job.phase" and event.data.get("to") in ENDS


def _resume(recovery: Recovery, at: float) -> None:
    recovery.resumed = at
    recovery.over = True


class Watcher:
    """Follows the events and looks at processes, on two threads, until `close`."""

    def __init__(
        self,
        home: Home,
        client: Callable[[], Client],
        gateway_answers: Callable[[], bool],
    ) -> None:
        self.recoveries: list[Recovery] = []
        self._home = home
        self._client = client
        self._gateway_answers = gateway_answers
        self.on_event: Callable[[Event], None] = lambda event: None
        """Hears every event first."""
        self._ended: set[str] = set()
        """Jobs whose end was heard; a new one of that name takes it out."""
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow, name="chaos-events", daemon=True),
            threading.Thread(target=self._look, name="chaos-looks", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def add(self, fault: Fault, living: Sequence[Target]) -> Recovery:
        """Watch what follows a fault; `living` is what lived before it."""
        kind = [target for target in living if target.kind == fault.kind]
        pids = frozenset(process.pid for target in kind for process in target.processes)
        recovery = Recovery(fault, pids)
        with self._lock:
            recovery.over = recovery.over or fault.owner in self._ended
            self.recoveries.append(recovery)
        return recovery

    def settle(self, seconds: float) -> None:
        """Wait until nothing is open, at most so long."""
        deadline = time.monotonic() + seconds
        while self.open() and time.monotonic() < deadline and not self._stopped.wait(_LOOK_SECONDS):
            pass

    def open(self) -> list[Recovery]:
        """Faults whose end was not seen yet and may still come."""
        now = time.time()
        with self._lock:
            return [
                recovery
                for recovery in self.recoveries
                if not recovery.over and now - recovery.fault.at < PATIENCE_SECONDS
            ]

    def close(self) -> None:
        """Stop looking. The stream of events ends with the process."""
        self._stopped.set()
        self._threads[1].join()

    def _follow(self) -> None:
        last: str | None = None
        while not self._stopped.is_set():
            with suppress(QuarterdeckError), self._client() as client:
                for event in client.follow_events(last_event_id=last):
                    last = str(event.id)
                    self.on_event(event)
                    with self._lock:
                        self._note_end(event)
                        for recovery in self.recoveries:
                            hear(recovery, event)
            self._stopped.wait(_LOOK_SECONDS)

    def _note_end(self, event: Event) -> None:
        if _ends(event):
            self._ended.add(event.subject)
        elif event.type == "job.submitted":
            self._ended.discard(event.subject)

    def _look(self) -> None:
        with self._client() as client:
            while not self._stopped.wait(_LOOK_SECONDS):
                waiting = [each for each in self.open() if each.fault.kind not in RUN_KINDS]
                if waiting:
                    found = targets(self._home)
                    for recovery in waiting:
                        self._look_at(recovery, found, client)

    def _look_at(self, recovery: Recovery, found: Sequence[Target], client: Client) -> None:
        kind, now = recovery.fault.kind, time.time()
        held = recovery.fault.signal == "STOP"
        if held and now < recovery.fault.at + recovery.fault.held:
            return
        fresh = [target for target in found if target.kind == kind]
        if not held:
            fresh = [each for each in fresh if each.processes[0].pid not in recovery.pids]
        if not fresh:
            return
        if recovery.noticed is None and not held:
            recovery.noticed = now
        if kind == "controller" and not held:
            return  # its next event tells
        awake = recovery.fault.at + recovery.fault.held if held else now
        if kind == "parent" or self._works(kind, recovery.noticed or awake, client):
            _resume(recovery, now)

    def _works(self, kind: str, since: float, client: Client) -> bool:
        if kind == "gateway":
            return self._gateway_answers()
        if kind == "api":
            return client.ready()
        try:
            beats = [cluster.last_beat_at for cluster in client.clusters.list()]
        except QuarterdeckError:
            return False
        return any(beat is not None and beat.timestamp() > since for beat in beats)


def table(recoveries: Iterable[Recovery]) -> list[list[str]]:
    """Rows by kind and signal: how many, how many seen to resume, median and longest times."""
    groups: dict[tuple[str, str], list[Recovery]] = {}
    for recovery in recoveries:
        groups.setdefault((recovery.fault.kind, recovery.fault.signal), []).append(recovery)
    rows = []
    for (kind, signal), members in sorted(groups.items()):
        noticed = [each.notice_seconds for each in members if each.notice_seconds is not None]
        resumed = [each.resume_seconds for each in members if each.resume_seconds is not None]
        rows.append(
            [
                kind, signal, str(len(members)), *_times(noticed), *_times(resumed),
                str(sum(not each.over for each in members)),
            ]
        )  # fmt: skip
    return rows


HEADINGS = ("KIND", "SIGNAL", "FAULTS", "NOTICED", "LONGEST", "RESUMED", "LONGEST", "OPEN")


def _times(values: Sequence[float]) -> tuple[str, str]:
    if not values:
        return "-", "-"
    return f"{statistics.median(values):.1f}s", f"{max(values):.1f}s"
