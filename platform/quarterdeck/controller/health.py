"""What a controller can tell of itself: which of its loops turn, which fail, which hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

HANGS_AFTER_S = 900.0
"""A turn under way for longer hangs: every wait for a database has a shorter bound, deleting
many files takes minutes."""


@dataclass
class _Loop:
    begun: float | None = None
    """When the turn under way began; None: between two turns."""
    turned: bool = False
    failures: int = 0
    """Of the last turns, in a row."""


class Health:
    """Safe to use from the loops' threads. `clock` counts seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._loops: dict[str, _Loop] = {}
        self.registry = CollectorRegistry()
        self._turns = Counter(
            "quarterdeck_controller_turns", "Turns of each loop, by outcome: done or failed.",
            ["loop", "outcome"], registry=self.registry,
        )  # fmt: skip
        self._seconds = Counter(
            "quarterdeck_controller_turn_seconds", "How long the turns of each loop took in all.",
            ["loop"], registry=self.registry,
        )  # fmt: skip
        self._failing = Gauge(
            "quarterdeck_controller_failed_turns", "Turns that failed in a row.", ["loop"],
            registry=self.registry,
        )  # fmt: skip
        self._under_way = Gauge(
            "quarterdeck_controller_turn_age_seconds", "How long the turn under way has taken.",
            ["loop"], registry=self.registry,
        )  # fmt: skip

    def begin(self, loop: str) -> None:
        """A turn begins."""
        with self._lock:
            self._loops.setdefault(loop, _Loop()).begun = self._clock()

    def end(self, loop: str, *, failures: int) -> None:
        """A turn ends, after `failures` in a row with this one."""
        with self._lock:
            one = self._loops.setdefault(loop, _Loop())
            took = self._clock() - one.begun if one.begun is not None else 0.0
            one.begun, one.turned, one.failures = None, True, failures
        self._seconds.labels(loop).inc(max(took, 0.0))
        self._turns.labels(loop, "failed" if failures else "done").inc()

    def hanging(self) -> list[str]:
        """Loops whose turn has been under way for too long: only a new process helps."""
        now = self._clock()
        with self._lock:
            return sorted(
                name
                for name, one in self._loops.items()
                if one.begun is not None and now - one.begun > HANGS_AFTER_S
            )

    def unready(self) -> str:
        """Why nobody should count on this controller; empty when it reconciles."""
        with self._lock:
            loops = list(self._loops.values())
        if not any(one.turned for one in loops):
            return "no loop has turned yet: it waits for the database or its schema"
        if all(one.failures for one in loops if one.turned):
            return "every loop fails, see the log: the database does not answer"
        return ""

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        now = self._clock()
        with self._lock:
            for name, one in self._loops.items():
                self._failing.labels(name).set(one.failures)
                self._under_way.labels(name).set(0 if one.begun is None else now - one.begun)
        return generate_latest(self.registry)
