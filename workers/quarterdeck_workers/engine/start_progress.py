"""How far an engine's start is, for people: phase, bytes and rate, when it will be done.

Time comes in as a clock, what is said goes out through a function. Safe in any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

StartPhase = Literal["environment", "fetch", "weights", "compile", "warmup", "probe"]
WORDS: dict[StartPhase, str] = {
    "environment": "starting the engine",
    "fetch": "fetching weights",
    "weights": "loading weights",
    "compile": "compiling",
    "warmup": "warming up",
    "probe": "probing",
}
SAY_EVERY = 1.0
_SURE_AFTER = 0.5  # seconds of a phase before its rate means anything
_GIB = 2**30


@dataclass(frozen=True)
class Sign:
    """What an engine said of its start: `share` of the phase is done, 0 to 1."""

    phase: StartPhase
    share: float | None = None


class StartProgress:
    """Collects signs; says each phase at once and its progress at most once a second.

    `before` has the seconds by phase of an earlier start like this, from which the end is expected
    where a phase tells nothing of itself.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        clock: Callable[[], float],
        before: Mapping[str, float] | None = None,
    ) -> None:
        self._say = say
        self._clock = clock
        self._expected = clock() + sum((before or {}).values())
        self._lock = threading.RLock()
        self.phase: StartPhase | None = None
        self._began = clock()
        self._said = -SAY_EVERY
        self.seconds: dict[str, float] = {}
        """How long each phase took."""
        self.bytes_done = 0

    def enter(self, phase: StartPhase) -> None:
        """A phase begins; entering the present one changes nothing."""
        with self._lock:
            if phase == self.phase:
                return
            self._leave()
            self.phase = phase
            left = self._expected - self._clock()
            self._tell(WORDS[phase] + (f", ready in about {left:.0f} s" if left >= 1 else ""))

    def done(self) -> None:
        """The start is over."""
        with self._lock:
            self._leave()
            self.phase = None

    def sign(self, sign: Sign) -> None:
        """An engine's own word on its start."""
        with self._lock:
            self.enter(sign.phase)
            if sign.share is not None and self._due():
                self._tell(f"{WORDS[sign.phase]} {sign.share:.0%}{self._about(sign.share)}")

    def bytes(self, phase: StartPhase, done: int, total: int) -> None:
        """So many bytes of a phase's work are done; beside a starting program, weights are read."""
        with self._lock:
            self.enter(phase)
            self.bytes_done = done
            if not self._due() or total <= 0:
                return
            seconds = self._clock() - self._began
            rate = f", {done / seconds / 1e6:,.0f} MB/s" if seconds > _SURE_AFTER else ""
            words = WORDS[phase] + (", reading weights" if phase == "environment" else "")
            amount = f"{done / _GIB:.1f}/{total / _GIB:.1f} GiB"
            self._tell(f"{words} {amount}{rate}{self._about(done / total)}")

    def _about(self, share: float) -> str:
        seconds = self._clock() - self._began
        if share <= 0 or seconds <= _SURE_AFTER:
            return ""
        return f", about {max(0.0, seconds * (1 - share) / share):.0f} s left"

    def _due(self) -> bool:
        return self._clock() - self._said >= SAY_EVERY

    def _tell(self, words: str) -> None:
        self._said = self._clock()
        self._say(words)

    def _leave(self) -> None:
        now = self._clock()
        if self.phase is not None:
            self.seconds[self.phase] = self.seconds.get(self.phase, 0.0) + now - self._began
        self._began = now
