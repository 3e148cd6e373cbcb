"""Weights that the control plane wants on nodes ahead: a few at a time, one a node."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from quarterdeck.client.agents import AgentClient
from quarterdeck.client.errors import NotFound, QuarterdeckError
from quarterdeck.specs.protocol import WeightsOrder
from quarterdeck.specs.warming import WarmReport, WeightsToWarm
from quarterdeck_workers.agent.ray_cluster import RaySilent
from quarterdeck_workers.agent.weights_actor import FetcherDied, FetchState, NodeFetcher

AT_ONCE = 4
"""Nodes of a cluster that fetch at the same time."""
_TICK_SECONDS = 0.5
_SILENT_SECONDS = 60.0
_STALLED_SECONDS = 600.0
"""Without a new byte a fetch is given up."""
_RATE_SECONDS = 5.0
"""Over which the rate is told."""
Key = tuple[str, str, int]
log = logging.getLogger(__name__)


@dataclass
class _Fetch:
    """One under way. Moments are of the monotonic clock."""

    fetcher: NodeFetcher
    heard: float
    moved: float
    state: FetchState = field(default_factory=FetchState)
    samples: list[tuple[float, int]] = field(default_factory=list)

    def hear(self, state: FetchState, now: float) -> None:
        if state.bytes_done != self.state.bytes_done:
            self.moved = now
        self.heard, self.state = now, state
        self.samples.append((now, state.bytes_done))
        while now - self.samples[0][0] > _RATE_SECONDS:
            self.samples.pop(0)

    @property
    def rate(self) -> float:
        """Bytes a second: lately, and on the whole once it has ended."""
        if self.state.state != "fetching":
            done = 0 if self.state.found else self.state.bytes_done
            return done / max(self.state.seconds, 1e-3)
        (first, before), (last, after) = self.samples[0], self.samples[-1]
        return (after - before) / (last - first) if last > first else 0.0


class Warmer:
    """Does what `want` was told last, in a thread of its own, until `stop`."""

    def __init__(
        self,
        client: AgentClient,
        cluster: str,
        fetch: Callable[[str, WeightsOrder], NodeFetcher],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._cluster = cluster
        self._fetch = fetch
        self._clock = clock
        self._lock = threading.Lock()
        self._wanted: dict[Key, WeightsToWarm] = {}
        self._under_way: dict[Key, _Fetch] = {}
        self._ended: dict[Key, WarmReport] = {}
        self._news = threading.Event()
        self._stopped = False

    def start(self) -> None:
        """Begin to work."""
        threading.Thread(target=self._run, name="warmer", daemon=True).start()

    def stop(self) -> None:
        """End the thread; the fetches end with this process."""
        self._stopped = True
        self._news.set()

    def want(self, wanted: Sequence[WeightsToWarm]) -> None:
        """Everything that is wanted now, first what was asked for first."""
        with self._lock:
            self._wanted = {_key(each): each for each in wanted}
            self._ended = {key: one for key, one in self._ended.items() if key in self._wanted}
            if self._wanted or self._under_way:
                self._news.set()

    def reports(self) -> list[WarmReport]:
        """What is known of everything that was begun."""
        with self._lock:
            moving = [_report(key, fetch) for key, fetch in self._under_way.items()]
            return [*self._ended.values(), *moving]

    def _run(self) -> None:
        while not self._stopped:
            self._news.wait()
            self._news.clear()
            while not self._stopped and self._tick():
                time.sleep(_TICK_SECONDS)

    def _tick(self) -> bool:
        """One look at everything; whether something is under way."""
        with self._lock:
            wanted, under_way = dict(self._wanted), dict(self._under_way)
        for key, fetch in under_way.items():
            if key not in wanted:
                self._leave(key, fetch)
            elif (end := self._look(fetch)) is not None:
                fetch.state = end
                self._leave(key, fetch, _report(key, fetch))
        with self._lock:
            busy = {node for _, node, _ in self._under_way}
            waiting = [key for key in wanted if key not in self._ended]
        for key in waiting:
            if len(busy) >= AT_ONCE:
                break
            if key[1] not in busy and self._begin(key):
                busy.add(key[1])
        return bool(busy)

    def _begin(self, key: Key) -> bool:
        asset_id, node_id, _ = key
        try:
            order = self._client.weights(self._cluster, asset_id)
            fetcher = self._fetch(node_id, order)
        except NotFound:
            return False  # nobody wants it any more: the next list will say so
        except (QuarterdeckError, RaySilent) as error:
            log.warning("weights %s for node %s: %s", asset_id, node_id, error)
            return False
        log.info("fetching %s@%d to node %s", order.model.name, order.model.version, node_id)
        now = self._clock()
        with self._lock:
            self._under_way[key] = _Fetch(fetcher, now, now, samples=[(now, 0)])
        return True

    def _look(self, fetch: _Fetch) -> FetchState | None:
        """The state in which it ended; None while it goes on."""
        now = self._clock()
        try:
            state = fetch.fetcher.state()
        except FetcherDied as error:
            return _failed(fetch, f"the process that fetched on the node died: {error}")
        except RaySilent:
            state = None
        if state is not None:
            with self._lock:
                fetch.hear(state, now)
            if state.state != "fetching":
                return state
        if now - fetch.heard > _SILENT_SECONDS:
            return _failed(fetch, f"the node did not answer for {_SILENT_SECONDS:.0f} s")
        if now - fetch.moved > _STALLED_SECONDS:
            why = f": {fetch.state.message}" if fetch.state.message else ""
            return _failed(fetch, f"no byte came for {_STALLED_SECONDS:.0f} s{why}")
        return None

    def _leave(self, key: Key, fetch: _Fetch, report: WarmReport | None = None) -> None:
        with self._lock:
            del self._under_way[key]
            if report is not None:
                self._ended[key] = report
        try:
            fetch.fetcher.stop()
        except RaySilent as error:
            log.warning("end of fetching to node %s: %s", key[1], error)


def _key(wanted: WeightsToWarm) -> Key:
    return (wanted.asset_id, wanted.node_id, wanted.asked)


def _failed(fetch: _Fetch, why: str) -> FetchState:
    seen = fetch.state
    return FetchState("failed", bytes_done=seen.bytes_done, seconds=seen.seconds, message=why)


def _report(key: Key, fetch: _Fetch) -> WarmReport:
    state = fetch.state
    return WarmReport(
        asset_id=key[0], node_id=key[1], asked=key[2], state=state.state, found=state.found,
        bytes_done=state.bytes_done, rate=fetch.rate, seconds=state.seconds,
        message=state.message[:2000],
    )  # fmt: skip
