"""What this gateway sees of each revision, told to the api once a second.

The tally only counts; a reporter task sends what was counted since the last report. Requests never
wait for either. While the api is away MOST_UNSENT reports wait for it; older ones are dropped:
what is observed is worth most while it is fresh.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import aiohttp

from quarterdeck.gateway.access_log import Record
from quarterdeck.gateway.settings import GatewaySettings
from quarterdeck.specs.gateway_snapshot import GatewaySnapshot
from quarterdeck.specs.observations import (
    MOST_REVISIONS,
    TTFT_BUCKETS_S,
    GatewayObservations,
    GatewayShares,
    RevisionObservation,
)

_log = logging.getLogger(__name__)
PERIOD_S = 1.0
TIMEOUT_S = 5.0
QUIET_S = 3.0
"""A gateway with nothing to tell reports this seldom, in seconds."""
MOST_UNSENT = 30
"""Reports that wait for an api that is away."""
_CLIENT_LEFT = 499

Key = tuple[str, str, int]
"""Project, service, revision."""


@dataclass
class _Window:
    requests: int = 0
    errors: int = 0
    ttft: Counter[int] = field(default_factory=Counter)
    ttft_seconds: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0


class Tally:
    """Counts by revision since the last `take`. Only replicas of the snapshot are counted, so what
    clients send does not make it grow."""

    def __init__(self) -> None:
        self._of: dict[str, Key] = {}
        self._windows: dict[Key, _Window] = {}
        self._told: set[Key] = set()

    def apply(self, snapshot: GatewaySnapshot) -> None:
        """Learn which replica is of which revision."""
        self._of = {
            endpoint.run_id: (route.project, route.name, endpoint.revision)
            for route in snapshot.services
            for endpoint in route.endpoints
        }

    def observe(self, record: Record) -> None:
        """Count a request that has ended. Each replica that it was sent to before the last one has
        failed it, unless it had no room: a retry must not hide a bad revision."""
        replicas = record.replicas
        last = replicas[-1] if replicas else ""
        for run_id in replicas[:-1]:
            self._count(run_id, error=run_id not in record.overloaded)
        if record.status == _CLIENT_LEFT and record.first_byte is None:
            return
        broken = record.status < 400 and bool(record.error)
        window = self._count(last, error=record.status >= 500 or broken)
        if window is None or record.status >= 400:
            return
        window.tokens_in += record.tokens_in
        window.tokens_out += record.tokens_out
        if record.stream and record.first_byte is not None:
            window.ttft[bisect_left(TTFT_BUCKETS_S, record.first_byte)] += 1
            window.ttft_seconds += record.first_byte

    def _count(self, run_id: str, *, error: bool) -> _Window | None:
        key = self._of.get(run_id)
        if key is None:
            return None
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = _Window()
        window.requests += 1
        window.errors += error
        return window

    def take(
        self, in_flight: Callable[[str], int], waiting: Callable[[str, str], int]
    ) -> list[RevisionObservation]:
        """What was counted, and what is under way now; what is idle is told of once."""
        flights: Counter[Key] = Counter()
        for run_id, key in self._of.items():
            flights[key] += in_flight(run_id)
        found: list[RevisionObservation] = []
        told: set[Key] = set()
        for key in self._keys(flights):
            project, service, revision = key
            window = self._windows.get(key, _Window())
            waits = waiting(project, service)
            if window.requests or flights[key] or waits:
                told.add(key)
            elif key not in self._told:
                continue
            found.append(
                RevisionObservation(
                    project=project, service=service, revision=revision, in_flight=flights[key],
                    waiting=waits, **vars(window),
                )
            )  # fmt: skip
        self._windows, self._told = {}, told
        return found[:MOST_REVISIONS]

    def _keys(self, flights: Iterable[Key]) -> list[Key]:
        return sorted({*flights, *self._windows})


class Reporter:
    """Sends reports for ever; see the head of this file."""

    def __init__(
        self,
        settings: GatewaySettings,
        session: aiohttp.ClientSession,
        take: Callable[[], list[RevisionObservation]],
        demand: Callable[[float], dict[str, float]],
        shared: Callable[[GatewayShares], None],
        period: float = PERIOD_S,
    ) -> None:
        self._settings = settings
        self._session = session
        self._take = take
        self._demand = demand
        self._shared = shared
        self._quiet = QUIET_S
        self._period = period
        self._gateway = f"gw-{secrets.token_hex(8)}"
        self._seq = 0
        self.unsent: deque[GatewayObservations] = deque(maxlen=MOST_UNSENT)
        self.failures = 0
        """Reports that failed in a row."""

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        before = loop.time()
        while True:
            await asyncio.sleep(self._period)
            now = loop.time()
            revisions, demand = self._take(), self._demand(now - before)
            self._quiet += now - before
            # A gateway that says nothing for long has no part of the limits any more.
            if revisions or demand or self._quiet >= QUIET_S:
                self._quiet = 0.0
                self._seq += 1
                self.unsent.append(
                    GatewayObservations(
                        gateway=self._gateway, seq=self._seq, seconds=now - before,
                        revisions=revisions, demand=demand,
                    )
                )  # fmt: skip
            before = now
            await self._flush()

    async def _flush(self) -> None:
        while self.unsent:
            try:
                await self._send(self.unsent[0])
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                self.failures += 1
                if self.failures == 1:
                    # With a key in the header, only the kind of error is safe to show.
                    _log.warning("the api takes no observations: %s", type(error).__name__)
                return
            self.failures = 0
            self.unsent.popleft()

    async def _send(self, report: GatewayObservations) -> None:
        key = self._settings.key_path.read_text(encoding="utf-8").strip()
        async with self._session.post(
            f"{self._settings.api_url.rstrip('/')}/api/v1/gateway/observations",
            data=report.model_dump_json(),
            headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            allow_redirects=False,
        ) as response:
            if response.status >= 500 or response.status in (401, 403, 404, 429):
                raise aiohttp.ClientError(f"status {response.status}")
            if response.status >= 400:
                # It will never be taken: another one may.
                _log.error("the api refused a report of observations: status %d", response.status)
                return
            told = await response.read()
        self._shared(GatewayShares.model_validate_json(told or b"{}"))
