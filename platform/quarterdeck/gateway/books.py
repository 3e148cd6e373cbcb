"""What becomes of the records of requests that have ended: metrics, observations, lines.

They are booked in bunches, after a tenth of a second or when many have come: one after the other
they cost half of what each costs between two requests. Who reads the books has them brought up to
date before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from quarterdeck.gateway.access_log import Record, line
from quarterdeck.gateway.metrics import GatewayMetrics
from quarterdeck.gateway.observations import Tally

_MOST = 256
_SECONDS = 0.1


class Books:
    """`write` takes the text of whole lines; a pipe that is closed must not fail a request."""

    def __init__(self, metrics: GatewayMetrics, tally: Tally, write: Callable[[str], None]) -> None:
        self._metrics = metrics
        self._tally = tally
        self._write = write
        self._ended: list[tuple[Record, float]] = []
        self._timer: asyncio.TimerHandle | None = None

    def ended(self, record: Record) -> None:
        """A request has ended."""
        self._ended.append((record, time.time()))
        if len(self._ended) >= _MOST:
            self.balance()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_SECONDS, self.balance)

    def balance(self) -> None:
        """Book what has come."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ended, self._ended = self._ended, []
        if not ended:
            return
        lines = []
        for record, at in ended:
            if record.service:
                self._metrics.ended(record)
            else:
                self._metrics.refused.labels(str(record.status)).inc()
            self._tally.observe(record)
            for step in record.steps:
                self._tally.observe(step.record)
            lines.append(line(record, at))
        with suppress(OSError, ValueError):
            self._write("\n".join(lines) + "\n")
