"""The rank actors of one run: reserved, placed, started together, ended together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
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

from quarterdeck.specs.protocol import Blame, RankPlacement, RunOrder
from quarterdeck_workers.rank.process import RankNews
from quarterdeck_workers.supervisor.rank_actor import Berth, RankActor

SLOTS = "slots"
"""Ray's custom resource: declared slots, or accelerators, of a machine."""
NODE_LABEL = "ray.io/node-id"
RESERVE_SECONDS = 60.0
CALL_SECONDS = 150.0
POLL_SECONDS = 0.5
UNAVAILABLE_SECONDS = 120.0
"""An actor that does not answer for so long while Ray cannot tell whether it lives."""
KILL_SECONDS = 10.0


class GangFailed(Exception):
    """The gang could not start; `rank` is None where no single one is to blame."""

    def __init__(self, message: str, blame: Blame, rank: int | None = None) -> None:
        super().__init__(message)
        self.blame = blame
        self.rank = rank


@dataclass(frozen=True)
class Lost:
    """A rank's actor is gone."""

    blame: Blame
    message: str


class Gang:
    """All ranks of an order. `create`, then `start`, then `follow` each; `end` in any case."""

    def __init__(self, order: RunOrder) -> None:
        self.order = order
        self.placements = sorted(order.placements, key=lambda place: place.rank)
        self._group: PlacementGroup | None = None
        self._actors: dict[int, Any] = {}
        self._ended = False

    # --- starting --------------------------------------------------------------------------

    async def create(self) -> None:
        """Reserve every bundle on its node and create the rank actors. Raises GangFailed."""
        nodes = {node["NodeID"]: node for node in await asyncio.to_thread(ray.nodes)}
        for place in self.placements:
            node = nodes.get(place.node_id)
            if node is None or not node["Alive"]:
                message = f"node {place.node_id} is no longer in the cluster"
                raise GangFailed(message, "node", place.rank)
        bundles = [_bundle(place, nodes[place.node_id]) for place in self.placements]
        pins = [{NODE_LABEL: place.node_id} for place in self.placements]
        self._group = placement_group(bundles, strategy="PACK", bundle_label_selector=pins)
        if not await asyncio.to_thread(self._group.wait, RESERVE_SECONDS):
            raise GangFailed(
                f"Ray could not reserve the gang's slots within {RESERVE_SECONDS:g} s: another "
                "program holds them", "node",
            )  # fmt: skip
        for index, (place, bundle) in enumerate(zip(self.placements, bundles, strict=True)):
            self._actors[place.rank] = RankActor.options(
                num_cpus=0,
                num_gpus=bundle.get("GPU", 0),
                resources={SLOTS: bundle[SLOTS]},
                max_restarts=0,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, index),
            ).remote()

    async def start(self) -> None:
        """Agree on the rendezvous and start all processes at once. Raises GangFailed."""
        nodes: dict[str, list[RankPlacement]] = {}
        for place in self.placements:
            nodes.setdefault(place.node_id, []).append(place)
        for places in nodes.values():
            places.sort(key=lambda place: place.local_rank)
        order = self.order.model_copy(update={"run_key": "", "api_url": ""})
        first = {places[0].rank for places in nodes.values()}
        facts = await self._all(
            lambda rank: self._actors[rank].prepare.remote(order, rank in first)
        )
        master = facts[0]
        node_ranks = {node_id: index for index, node_id in enumerate(nodes)}

        def berth(place: RankPlacement) -> Berth:
            local = nodes[place.node_id]
            devices = [device for each in local for device in facts[each.rank]["devices"]]
            return Berth(
                rank=place.rank, world_size=len(self.placements), local_rank=place.local_rank,
                local_world_size=len(local), node_rank=node_ranks[place.node_id],
                master_address=master["address"], master_port=master["port"],
                devices=tuple(devices),
            )  # fmt: skip

        berths = {place.rank: berth(place) for place in self.placements}
        await self._all(lambda rank: self._actors[rank].start.remote(order, berths[rank]))

    async def _all(self, call: Callable[[int], Awaitable[Any]]) -> list[Any]:
        async def one(rank: int) -> Any:
            try:
                return await asyncio.wait_for(_await(call(rank)), CALL_SECONDS)
            except TimeoutError as error:
                message = f"rank {rank} did not start within {CALL_SECONDS:g} s"
                raise GangFailed(message, "node", rank) from error
            except RayTaskError as error:
                message = f"rank {rank} did not start: {error.cause}"
                raise GangFailed(message, _start_blame(error), rank) from error
            except RayError as error:
                message = f"rank {rank} did not start: {error}"
                raise GangFailed(message, "node", rank) from error

        return await asyncio.gather(*(one(place.rank) for place in self.placements))

    # --- running ---------------------------------------------------------------------------

    async def follow(self, rank: int, hear: Callable[[RankNews], None]) -> Lost | None:
        """Hand a rank's news to `hear` until its process is gone; Lost when its actor died."""
        silent = 0.0
        while not self._ended:
            try:
                news = await _await(self._actors[rank].poll.remote(POLL_SECONDS))
            except ActorUnavailableError as error:
                silent += POLL_SECONDS
                if silent > UNAVAILABLE_SECONDS:
                    return Lost("network", f"rank {rank}'s actor stopped answering: {error}")
                await asyncio.sleep(POLL_SECONDS)
                continue
            except OutOfMemoryError as error:
                return Lost("memory", f"Ray ended rank {rank} for memory: {error}")
            except ActorDiedError as error:
                return await self._lost(rank, error)
            silent = 0.0
            hear(news)
            if any(message["type"] == "gone" for message in news.messages):
                return None
        return None

    async def _lost(self, rank: int, error: ActorDiedError) -> Lost:
        node_id = next(place.node_id for place in self.placements if place.rank == rank)
        if not await asyncio.to_thread(_alive, node_id):
            return Lost("node", f"rank {rank} died with its node {node_id}")
        return Lost("unknown", f"rank {rank}'s actor died: {str(error).splitlines()[0]}")

    async def stop(self, *, checkpoint: bool, deadline_seconds: float, reason: str) -> None:
        """Ask every rank to stop."""
        await self._quietly(
            lambda actor: actor.stop.remote(checkpoint, deadline_seconds, reason), KILL_SECONDS
        )

    async def stacks(self) -> dict[int, str]:
        """Stacks of all ranks that still answer."""
        answers = await self._quietly(lambda actor: actor.stacks.remote(), KILL_SECONDS)
        return {rank: stack for rank, stack in answers.items() if stack}

    async def kill(self) -> None:
        """End every rank's processes; returns when they are gone, or after ten seconds."""
        await self._quietly(lambda actor: actor.kill.remote(), KILL_SECONDS)

    async def end(self) -> None:
        """End everything and give the slots back."""
        await self.kill()
        self._ended = True
        for actor in self._actors.values():
            ray.kill(actor)
        if self._group is not None:
            await asyncio.to_thread(remove_placement_group, self._group)

    async def _quietly(self, call: Callable[[Any], Awaitable[Any]], limit: float) -> dict[int, Any]:
        """Call all actors; those that are dead or do not answer in time are left out."""

        async def one(rank: int, actor: Any) -> tuple[int, Any]:
            try:
                return rank, await asyncio.wait_for(_await(call(actor)), limit)
            except (RayError, TimeoutError):
                return rank, None

        return dict(await asyncio.gather(*(one(*item) for item in self._actors.items())))


async def _await(reference: Awaitable[Any]) -> Any:
    return await reference


def _bundle(place: RankPlacement, node: dict[str, Any]) -> dict[str, float]:
    bundle: dict[str, float] = {SLOTS: place.slots}
    resources = node.get("Resources", {})
    if resources.get("GPU", 0) >= resources.get(SLOTS, 0) > 0:
        bundle["GPU"] = place.slots
    return bundle


def _start_blame(error: RayTaskError) -> Blame:
    cause = error.cause
    if isinstance(cause, OSError) and cause.errno is not None:
        from quarterdeck_workers.rank.errors import blame_of

        blame = blame_of(cause)
        return blame if blame != "unknown" else "node"
    return "node"


def _alive(node_id: str) -> bool:
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    return any(node["NodeID"] == node_id and node["Alive"] for node in nodes)
