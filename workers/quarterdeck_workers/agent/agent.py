"""The agent of a cluster: presence, claim, start, kill; weights that nodes fetch ahead.

Two loops talk to the api: beats tell what Ray shows, long polls hear what to do. A run is
claimed before its supervisor is created and never created again; a supervisor is killed only on
an explicit order, never because a list no longer names it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

from quarterdeck.client.agents import AgentClient
from quarterdeck.client.errors import (
    Conflict,
    QuarterdeckError,
    ServerFailure,
    StaleEpoch,
    Unreachable,
)
from quarterdeck.specs.protocol import (
    AgentBeat,
    AgentWork,
    NodeReport,
    RunSighting,
    RunToStart,
    Stranger,
    TunnelToOpen,
)
from quarterdeck_workers.agent.ray_cluster import RayCluster, RaySilent
from quarterdeck_workers.agent.settings import AgentSettings
from quarterdeck_workers.agent.versions import own_versions
from quarterdeck_workers.agent.warming import Warmer

_PAUSE_SECONDS = 1.0
_LONGEST_PAUSE = 10.0
_SIGHTINGS_AT_ONCE = 8
_LOOK_SECONDS = 30.0
"""Between looks for supervisors that nobody has told us of."""
log = logging.getLogger(__name__)


class Superseded(Exception):
    """A newer agent serves this cluster."""


class Agent:
    """Runs until `stop`. `on_node` is called once for each new living machine."""

    def __init__(
        self,
        settings: AgentSettings,
        client: AgentClient,
        cluster: RayCluster,
        agent_id: str,
        address: str,
        token: str,
        on_node: Callable[[str], None],
        ray_alive: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._client = client
        self._cluster = cluster
        self._agent_id = agent_id
        self._address = address
        self._token = token
        self._on_node = on_node
        self._ray_alive = ray_alive
        self._started_at = datetime.now(UTC)
        self._stopped = threading.Event()
        self._introduced = threading.Event()
        """Set after the first beat: the api lets only the agent that it knows claim runs."""
        self._lock = threading.Lock()
        self._watched: list[RunToStart] = []
        self._generation: int | None = None
        """That of the list to watch; None before the first."""
        self._told: int | None = None
        """The generation under which strangers were last looked for."""
        self._look_again = 0.0
        self._creating: set[tuple[str, int]] = set()
        self._taken: set[tuple[str, int]] = set()
        self._greeted: set[str] = set()
        self._tunnels: set[str] = set()
        """Offered ones that were taken up."""
        self._warmer = Warmer(client, settings.cluster, cluster.fetch)
        self._failure: BaseException | None = None
        self._sights = ThreadPoolExecutor(_SIGHTINGS_AT_ONCE, thread_name_prefix="sight")

    def stop(self) -> None:
        """Make `run` return."""
        self._stopped.set()

    def run(self) -> None:
        """Serve the cluster. Raises Superseded, or RaySilent when Ray has died."""
        loops = [
            threading.Thread(target=self._guarded, args=(loop,), name=loop.__name__, daemon=True)
            for loop in (self._beats, self._polls)
        ]
        for loop in loops:
            loop.start()
        self._warmer.start()
        self._stopped.wait()
        loops[0].join(10.0)  # the long poll may still wait: it dies with the process
        self._warmer.stop()
        self._sights.shutdown(wait=False, cancel_futures=True)
        if self._failure is not None:
            raise self._failure

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:
            self._failure = error
        finally:
            self._stopped.set()

    # --- beats -----------------------------------------------------------------------------

    def _beats(self) -> None:
        while not self._stopped.is_set():
            if not self._ray_alive():
                raise RaySilent("Ray's daemons on this machine are dead")
            try:
                work = self._client.beat(self._settings.cluster, self._beat())
                self._introduced.set()
                self._settings.at_work()
                self._warmer.want(work.warm)
                self._do(work)
            except QuarterdeckError as error:
                self._judge(error)
                log.warning("beat: %s", error)
            except RaySilent as error:
                log.warning("beat: %s", error)
            self._stopped.wait(self._settings.beat_seconds)

    def _beat(self) -> AgentBeat:
        nodes = self._cluster.nodes()
        self._greet(nodes)
        self._cluster.free_shared_slots()
        generation, strangers = self._strangers()
        return AgentBeat(
            agent_id=self._agent_id,
            started_at=self._started_at,
            address=self._address,
            ray_token=self._token,
            endpoints_reachable=self._settings.endpoints_reachable,
            versions=own_versions(),
            project=self._settings.project,
            nodes=nodes,
            runs=self._sightings(),
            generation=generation,
            strangers=strangers,
            warmed=self._warmer.reports(),
        )

    def _strangers(self) -> tuple[int | None, list[Stranger]]:
        """Supervisors beyond our list, and the generation that the list is of: at once when that
        is new to us, then now and then. (None, []): we did not look."""
        with self._lock:
            generation = self._generation
            known = {(run.run_id, run.epoch) for run in self._watched} | self._creating
        now = time.monotonic()
        if generation is None or (generation == self._told and now < self._look_again):
            return None, []
        found = self._cluster.strangers(known)
        with self._lock:  # what we began while we looked is none
            found = [item for item in found if (item.run_id, item.epoch) not in self._creating]
        self._told, self._look_again = generation, now + _LOOK_SECONDS
        return generation, found

    def _greet(self, nodes: list[NodeReport]) -> None:
        for node in nodes:
            if node.alive and node.slots and node.node_id not in self._greeted:
                self._greeted.add(node.node_id)
                self._on_node(node.node_id)

    def _sightings(self) -> list[RunSighting]:
        with self._lock:
            watched = [(run.run_id, run.epoch) for run in self._watched]
            creating = set(self._creating)
        settled = [run for run in watched if run not in creating]
        seen = list(self._sights.map(lambda run: self._cluster.sight(*run), settled))
        with self._lock:  # what began while we looked: its absence proves nothing
            creating |= self._creating
        return [
            sighting for sighting in seen if (sighting.run_id, sighting.epoch) not in creating
        ] + [
            RunSighting(run_id=run_id, epoch=epoch, state="unknown", detail="being created")
            for run_id, epoch in creating
        ]

    # --- work ------------------------------------------------------------------------------

    def _polls(self) -> None:
        pause = _PAUSE_SECONDS
        while not (self._stopped.is_set() or self._introduced.wait(_PAUSE_SECONDS)):
            pass
        while not self._stopped.is_set():
            try:
                work = self._client.work(self._settings.cluster, self._settings.poll_seconds)
            except QuarterdeckError as error:
                self._judge(error)
                log.warning("poll: %s", error)
                self._stopped.wait(pause)
                pause = min(_LONGEST_PAUSE, pause * 2)
                continue
            pause = _PAUSE_SECONDS
            if not self._do(work):
                self._stopped.wait(0.1)  # an answer without news must not make a busy loop

    def _judge(self, error: QuarterdeckError) -> None:
        if isinstance(error, Conflict) and not isinstance(error, StaleEpoch):
            raise Superseded(str(error)) from error

    def _do(self, work: AgentWork) -> bool:
        """Take up work; True when something of it was new."""
        with self._lock:
            self._watched = work.watch
            if self._generation not in (None, work.generation):
                log.warning("a backup was restored: generation %d", work.generation)
            self._generation = work.generation
        for kill in work.kill:
            log.info("killing run %s epoch %d: %s", kill.run_id, kill.epoch, kill.reason)
            try:
                self._cluster.kill(kill.run_id, kill.epoch)
            except RaySilent as error:
                log.warning("kill of %s: %s", kill.run_id, error)
        new = self._open_tunnels(work.tunnels)
        for run in work.start:
            if self._stopped.is_set() or not self._ray_alive():
                break  # claimed but never started is lost: leave it to the next agent
            with self._lock:
                key = (run.run_id, run.epoch)
                if key in self._taken:
                    continue
                self._taken.add(key)
                self._creating.add(key)
            new = True
            try:
                self._start(run)
            finally:
                with self._lock:
                    self._creating.discard(key)
        return new

    def _open_tunnels(self, tunnels: list[TunnelToOpen]) -> bool:
        with self._lock:
            fresh = [each for each in tunnels if each.tunnel_id not in self._tunnels]
            self._tunnels = {each.tunnel_id for each in tunnels}
        for each in fresh:
            try:
                self._cluster.open_tunnel(each)
            except (RaySilent, ValueError) as error:
                log.warning("tunnel to run %s: %s", each.run_id, error)
        return bool(fresh)

    def _start(self, run: RunToStart) -> None:
        try:
            order = self._client.claim(run.run_id, run.epoch, self._agent_id)
        except QuarterdeckError as error:
            log.warning("claim of %s epoch %d: %s", run.run_id, run.epoch, error)
            if isinstance(error, (Unreachable, ServerFailure)):
                with self._lock:  # if it was not taken by the api, it will be offered again
                    self._taken.discard((run.run_id, run.epoch))
            return
        log.info("claimed run %s epoch %d: %d ranks", run.run_id, run.epoch, len(order.placements))
        try:
            self._cluster.start(order)
        except Exception as error:
            # Claimed but absent is lost: the control plane starts a new epoch, we never retry.
            log.error("supervisor of %s was not created: %s", run.run_id, type(error).__name__)
