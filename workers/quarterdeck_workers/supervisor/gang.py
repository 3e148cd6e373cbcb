"""The hosts and ranks of one run: reserved, placed, started together, ended together."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
)
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from quarterdeck.specs.accelerator_share import WHOLE
from quarterdeck.specs.beats import Blame, CheckpointManifest, OutputAsset
from quarterdeck.specs.protocol import RankPlacement, RunOrder, TunnelToOpen
from quarterdeck_workers.rank.process import RankNews
from quarterdeck_workers.supervisor.berths import NODE_TEMP
from quarterdeck_workers.supervisor.clocks import HostClock
from quarterdeck_workers.supervisor.host_actor import (
    LEASE_SECONDS,
    HostActor,
    NotStarted,
    start_blame,
)
from quarterdeck_workers.supervisor.shared_slot import FOLDER, SharedSlot
from quarterdeck_workers.supervisor.worlds import HostFacts, berths_of, roles_on

SLOTS = "slots"
"""Ray's custom resource: declared slots, or accelerators, of a machine."""
NODE_LABEL = "ray.io/node-id"
RESERVE_SECONDS = 60.0
RESERVE_LOOK_SECONDS = 2.0
CALL_SECONDS = 150.0
POLL_SECONDS = 0.5
UNAVAILABLE_SECONDS = 120.0
"""An actor that does not answer for so long while Ray cannot tell whether it lives."""
KILL_SECONDS = 10.0
DOUBT_SECONDS = 20.0
"""How long a host whose actor died may turn out to be a lost machine: Ray's health checks."""
LEASE_MARGIN = 6.0
"""Until a host that was asked last a lease ago has ended its ranks."""
CLOCK_SECONDS = 30.0
"""Between two looks at a host's clock."""
CLOCK_ANSWER_SECONDS = 5.0
TRACKING_SECONDS = 60.0


class GangFailed(Exception):
    """The gang could not start; `rank` is None where no single one is to blame."""

    def __init__(self, message: str, blame: Blame, rank: int | None = None, tail: str = "") -> None:
        super().__init__(message)
        self.tail = tail
        self.blame = blame
        self.rank = rank


@dataclass(frozen=True)
class Lost:
    """A host's actor is gone, and its ranks with it."""

    blame: Blame
    message: str


class Gang:
    """All ranks of an order, on one or more hosts (Ray nodes, by id).

    `create`, then `start`, then `follow` each of `hosts`; `end` in any case.
    """

    def __init__(self, order: RunOrder) -> None:
        self.order = order
        self.placements = sorted(order.placements, key=lambda place: place.rank)
        self.hosts: dict[str, list[RankPlacement]] = {}
        """The placements by node, in the order of ranks."""
        for place in self.placements:
            self.hosts.setdefault(place.node_id, []).append(place)
        for places in self.hosts.values():
            places.sort(key=lambda place: place.local_rank)
        self.ports: dict[int, int] = {}
        """By rank, once known: those that ranks are told to open for the others."""
        self._group: PlacementGroup | None = None
        self._shared: SharedSlot | None = None
        self._actors: dict[str, Any] = {}
        self._ended = self._given_up = False

    # --- starting --------------------------------------------------------------------------

    async def create(self) -> None:
        """Reserve every bundle on its node and create the hosts' actors. Raises GangFailed."""
        nodes = await self._living_nodes()
        bundles = [_bundle(places, nodes[node_id]) for node_id, places in self.hosts.items()]
        pins = [{NODE_LABEL: node_id} for node_id in self.hosts]
        part = 1.0
        if (place := self.placements[0]).shared_slot is None:
            self._group = placement_group(bundles, strategy="PACK", bundle_label_selector=pins)
        else:
            folder = Path(os.environ[NODE_TEMP], FOLDER)
            self._shared = SharedSlot(folder, place.node_id, place.shared_slot)
            part = place.share / WHOLE
            self._group = await asyncio.to_thread(self._shared.join, bundles[0], pins[0])
        deadline = time.monotonic() + RESERVE_SECONDS
        while not await asyncio.to_thread(self._group.wait, RESERVE_LOOK_SECONDS):
            await self._living_nodes()  # one may have been lost just before
            if time.monotonic() > deadline:
                raise GangFailed(
                    f"Ray could not reserve the gang's slots within {RESERVE_SECONDS:g} s: another "
                    "program holds them", "node",
                )  # fmt: skip
        for index, (node_id, bundle) in enumerate(zip(self.hosts, bundles, strict=True)):
            self._actors[node_id] = HostActor.options(
                num_cpus=0,
                num_gpus=part * bundle.get("GPU", 0),
                resources={SLOTS: part * bundle[SLOTS]},
                max_restarts=0,
                enable_task_events=False,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, index),
            ).remote()

    async def _living_nodes(self) -> dict[str, dict[str, Any]]:
        """Ray's nodes by id. Raises GangFailed when one of the gang's is not among the living."""
        nodes = {node["NodeID"]: node for node in await asyncio.to_thread(ray.nodes)}
        for node_id, places in self.hosts.items():
            if node_id not in nodes or not nodes[node_id]["Alive"]:
                message = f"node {node_id} is no longer in the cluster"
                raise GangFailed(message, "node", places[0].rank)
        return nodes

    async def start(self) -> None:
        """Agree on the rendezvous and start all processes at once. Raises GangFailed."""
        order = self.order.model_copy(update={"run_key": "", "api_url": ""})
        facts: dict[str, HostFacts] = await self._all(
            lambda node_id: self._actors[node_id].prepare.remote(
                order, roles_on(self.hosts, node_id)
            )
        )
        berths = berths_of(order, self.hosts, facts)
        self.ports |= {
            berth.rank: berth.master_port
            for here in berths.values()
            for berth in here
            if berth.world_rank == 0
        }
        if self.order.spec.get("setup"):
            # It ends by itself, or with the run: for what it does there is no usual time.
            await self._all(
                lambda node_id: self._actors[node_id].set_up.remote(order, berths[node_id][0]),
                limit=None,
            )
        started: dict[str, list[NotStarted]] = await self._all(
            lambda node_id: self._actors[node_id].start.remote(order, berths[node_id])
        )
        for failed in (each for host in started.values() for each in host):
            raise GangFailed(
                f"rank {failed.rank} did not start: {failed.message}", failed.blame, failed.rank
            )

    async def _all(
        self, call: Callable[[str], Awaitable[Any]], limit: float | None = CALL_SECONDS
    ) -> dict[str, Any]:
        async def one(node_id: str) -> Any:
            rank = self.hosts[node_id][0].rank
            try:
                return await asyncio.wait_for(_await(call(node_id)), limit)
            except TimeoutError as error:
                message = f"rank {rank} did not start within {limit:g} s"
                raise GangFailed(message, "node", rank) from error
            except RayTaskError as error:
                message = f"rank {rank} did not start: {error.cause}"
                tail = str(getattr(error.cause, "tail", ""))
                raise GangFailed(message, start_blame(error.cause), rank, tail) from error
            except RayError as error:
                message = f"rank {rank} did not start: {error}"
                raise GangFailed(message, "node", rank) from error

        answers = await asyncio.gather(*(one(node_id) for node_id in self.hosts))
        return dict(zip(self.hosts, answers, strict=True))

    # --- running ---------------------------------------------------------------------------

    async def follow(self, node_id: str, hear: Callable[[int, RankNews], None]) -> Lost | None:
        """Hand the news of a host's ranks to `hear`, in times of this machine's clock, until all
        their processes are gone; Lost when its actor died."""
        ranks = [place.rank for place in self.hosts[node_id]]
        left, silent = set(ranks), 0.0
        clock, measure_at = HostClock(), 0.0
        while left and not self._ended:
            if time.monotonic() >= measure_at or not clock.known:
                await self._look_at_clock(node_id, clock)
                measure_at = time.monotonic() + CLOCK_SECONDS
            last = self._given_up
            try:
                asked = time.monotonic()
                answer: dict[int, RankNews] = await _await(
                    self._actors[node_id].poll.remote(POLL_SECONDS)
                )
            except ActorUnavailableError as error:
                silent += POLL_SECONDS
                if silent > UNAVAILABLE_SECONDS:
                    why = f"the actor of rank {ranks[0]} stopped answering: {error}"
                    return Lost("network", why)
                await asyncio.sleep(POLL_SECONDS)
                continue
            except OutOfMemoryError as error:
                return Lost("memory", f"Ray ended rank {ranks[0]} for memory: {error}")
            except ActorDiedError as error:
                return await self._lost(node_id, error, asked)
            silent = 0.0
            for rank, news in answer.items():
                hear(rank, clock.corrected(news))
                if any(message["type"] == "gone" for message in news.messages):
                    left.discard(rank)
            if last:
                break
        return None

    async def _look_at_clock(self, node_id: str, clock: HostClock) -> None:
        """Ask for a host's time. Who does not answer says so in the next poll."""
        sent = time.time()
        with suppress(RayError, TimeoutError):
            call = _await(self._actors[node_id].clock.remote())
            there = float(await asyncio.wait_for(call, CLOCK_ANSWER_SECONDS))
            clock.exchange(sent, there, time.time())

    def give_up(self) -> None:
        """The processes will not start: let `follow` end when it has heard what there is."""
        self._given_up = True

    async def _lost(self, node_id: str, error: ActorDiedError, asked: float) -> Lost:
        """Why the host is gone; `asked` is the moment (monotonic) of the last poll."""
        rank = self.hosts[node_id][0].rank
        # An actor's death is known at once, that of its whole machine only later.
        doubtful = time.monotonic() + DOUBT_SECONDS
        while (lives := await asyncio.to_thread(_alive, node_id)) and time.monotonic() < doubtful:
            await asyncio.sleep(POLL_SECONDS)
        if not lives:
            # Ray calls a machine dead that it cannot reach; ranks there end with their lease.
            await asyncio.sleep(max(0.0, asked + LEASE_SECONDS + LEASE_MARGIN - time.monotonic()))
            return Lost("node", f"rank {rank} died with its node {node_id}")
        return Lost("unknown", f"the actor of rank {rank} died: {str(error).splitlines()[0]}")

    async def publish(self) -> list[OutputAsset]:
        """Keep what rank 0's program hands on. Raises GangFailed."""
        node_id = next(iter(self.hosts))
        order = self.order.model_copy(update={"run_key": "", "api_url": ""})
        try:
            found: list[OutputAsset] = await _await(self._actors[node_id].publish.remote(order))
        except RayTaskError as error:
            message = f"its outputs were not kept: {error.cause}"
            raise GangFailed(message, start_blame(error.cause), 0) from error
        except RayError as error:
            raise GangFailed(f"its outputs were not kept: {error}", "node", 0) from error
        return found

    async def keep_folder(self) -> CheckpointManifest | None:
        """Copy the folder that attempts hand on; None where there is nothing new. Raises
        GangFailed."""
        node_id = next(iter(self.hosts))
        try:
            kept: CheckpointManifest | None = await _await(
                self._actors[node_id].keep_folder.remote()
            )
        except RayTaskError as error:
            message = f"its folder was not kept: {error.cause}"
            raise GangFailed(message, start_blame(error.cause), 0) from error
        except RayError as error:
            raise GangFailed(f"its folder was not kept: {error}", "node", 0) from error
        return kept

    async def stop(self, *, checkpoint: bool, deadline_seconds: float, reason: str) -> None:
        """Ask every rank to stop."""
        await self._quietly(
            lambda actor: actor.stop.remote(checkpoint, deadline_seconds, reason), KILL_SECONDS
        )

    async def open_tunnel(self, request: TunnelToOpen, api_url: str, cluster: str) -> None:
        """Open a tunnel beside one of the ranks. Raises KeyError, TimeoutError, RayError."""
        node_id = next(place.node_id for place in self.placements if place.rank == request.rank)
        opening = self._actors[node_id].open_tunnel.remote(request, api_url, cluster)
        await asyncio.wait_for(_await(opening), KILL_SECONDS)

    async def stacks(self) -> dict[int, str]:
        """Stacks of all ranks that still answer."""
        answers = await self._quietly(lambda actor: actor.stacks.remote(), KILL_SECONDS)
        return {
            rank: stack
            for stacks in answers
            if stacks is not None
            for rank, stack in stacks.items()
            if stack
        }

    async def keep(self) -> None:
        """End every rank's processes; keep their slots, folders and environments."""
        order = self.order.model_copy(update={"run_key": "", "api_url": ""})
        await self._quietly(lambda actor: actor.keep.remote(order), KILL_SECONDS)

    async def kill(self) -> None:
        """End every rank's processes; returns when they are gone, or after ten seconds."""
        # The last copy of what a job tracks needs a while.
        limit = KILL_SECONDS + (TRACKING_SECONDS if self.order.spec.get("tracking") else 0)
        await self._quietly(lambda actor: actor.kill.remote(), limit)

    async def end(self) -> None:
        """End everything and give the slots back."""
        await self.kill()
        self._ended = True
        for actor in self._actors.values():
            ray.kill(actor)
        if self._shared is not None:
            with suppress(RayError, RuntimeError):  # the agent then does it
                await asyncio.to_thread(self._shared.leave)
        elif self._group is not None:
            await asyncio.to_thread(remove_placement_group, self._group)

    async def _quietly(self, call: Callable[[Any], Awaitable[Any]], limit: float) -> list[Any]:
        """Call all actors; None for those that are dead or do not answer in time."""

        async def one(actor: Any) -> Any:
            try:
                return await asyncio.wait_for(_await(call(actor)), limit)
            except (RayError, TimeoutError):
                return None

        return await asyncio.gather(*(one(actor) for actor in self._actors.values()))


async def _await(reference: Awaitable[Any]) -> Any:
    return await reference


def _bundle(places: list[RankPlacement], node: dict[str, Any]) -> dict[str, float]:
    slots = sum(place.slots for place in places)
    bundle: dict[str, float] = {SLOTS: slots}
    resources = node.get("Resources", {})
    if resources.get("GPU", 0) >= resources.get(SLOTS, 0) > 0:
        bundle["GPU"] = slots
    return bundle


def _alive(node_id: str) -> bool:
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return any(node["NodeID"] == node_id and node["Alive"] for node in nodes)
