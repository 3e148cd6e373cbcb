"""What agents and supervisors ask and tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from anyio import to_thread
from fastapi import APIRouter, Query, Response

from quarterdeck.api.auth import Agent, AnyCaller
from quarterdeck.api.orders import claim_run
from quarterdeck.api.parameters import Identity, NamePath
from quarterdeck.api.problems import ProblemError, documented
from quarterdeck.api.routing_table import snapshot
from quarterdeck.api.state import ApiState, State
from quarterdeck.api.strict_json import StrictRoute
from quarterdeck.api.tunnels import token_for
from quarterdeck.routing.shares import shares
from quarterdeck.specs.beats import BeatReply, RunBeat
from quarterdeck.specs.gateway_snapshot import GatewaySnapshot
from quarterdeck.specs.observations import GatewayObservations, GatewayShares, Wake
from quarterdeck.specs.protocol import AgentBeat, AgentWork, Claim, RunOrder, TunnelToOpen
from quarterdeck.store import agents, beats
from quarterdeck.store.gateways import hear_gateway
from quarterdeck.store.observations import record_observations, wake_service
from quarterdeck.store.sessions import Session
from quarterdeck.store.tunnel_queries import waiting_tunnels
from quarterdeck.store.warming import record_warmed, wanted_weights

router = APIRouter(route_class=StrictRoute, tags=["machines"])
Found = TypeVar("Found")
Wait = Annotated[float, Query(ge=0, le=25, description="Longest wait for news, in seconds.")]
RECHECK_S = 1.0
"""What a long poll looks for can change without an event, e.g. by the passing of time."""


@router.post(
    "/agents/{cluster}/beat",
    response_model=AgentWork,
    responses=documented("key_unknown", "access_denied", "superseded_agent"),
)
def agent_beat(cluster: NamePath, beat: AgentBeat, state: State, caller: Agent) -> Any:
    """Store what an agent sees; answer with what there is to do."""
    caller.check_cluster(cluster)
    sealed = state.vault.seal(beat.ray_token) if beat.ray_token else None
    with state.database.write() as session:
        agents.record_agent_beat(session, cluster, beat, encrypted_token=sealed)
        record_warmed(session, cluster, beat.warmed)
        return _work(session, state, cluster)


def _work(session: Session, state: ApiState, cluster: str) -> AgentWork:
    work = agents.work_for(session, cluster)
    work.tunnels = [
        TunnelToOpen(
            tunnel_id=row.id, run_id=row.run_id, epoch=row.epoch, rank=row.rank,
            kind=row.kind, token=token_for(state.settings.master_key, row.id),
        )
        for row in waiting_tunnels(session, cluster)
    ]  # fmt: skip
    work.warm = wanted_weights(session, cluster)
    return work


@router.get(
    "/agents/{cluster}/work",
    response_model=AgentWork,
    responses=documented("key_unknown", "access_denied", "too_many_streams"),
)
async def agent_work(cluster: NamePath, state: State, caller: Agent, wait: Wait = 0) -> Any:
    """What there is to do on a cluster; waits until there is something to start or to kill."""

    caller.check_cluster(cluster)

    def look() -> AgentWork:
        with state.database.read() as session:
            return _work(session, state, cluster)

    def enough(work: AgentWork) -> bool:
        return bool(work.start or work.kill or work.tunnels)

    return await long_poll(state, look, enough, wait)


@router.post(
    "/runs/{id}/claim",
    response_model=RunOrder,
    responses=documented(
        "key_unknown", "access_denied", "not_found", "already_claimed", "stale_epoch",
        "superseded_agent", "secret_missing", "wrong_master_key",
    ),
)  # fmt: skip
def claim(id: Identity, body: Claim, state: State, caller: Agent) -> Any:
    """Take a run, once per epoch. The answer holds credentials."""
    return claim_run(state, id, body, cluster=caller.key.cluster)


@router.post(
    "/runs/{id}/beat",
    response_model=BeatReply,
    responses=documented("key_unknown", "access_denied", "not_found", "stale_epoch"),
)
def run_beat(id: Identity, beat: RunBeat, state: State, caller: AnyCaller) -> Any:
    """Store what a run's supervisor says; answer with what is wanted of it."""
    if caller.key.access != "run" or caller.key.run_id != id:
        raise ProblemError("access_denied", f"this key is not the key of run {id}")
    if caller.key.epoch != beat.epoch:
        raise ProblemError(
            "stale_epoch", f"this key is of epoch {caller.key.epoch}, the beat of {beat.epoch}"
        )
    with state.database.write() as session:
        return beats.record_beat(session, id, beat)


@router.get(
    "/gateway/snapshot",
    response_model=GatewaySnapshot,
    responses=documented("key_unknown", "access_denied", "too_many_streams"),
)
async def gateway_snapshot(
    state: State,
    caller: Agent,
    after: Annotated[str | None, Query(max_length=100)] = None,
    wait: Wait = 0,
) -> Any:
    """All that a gateway needs; waits until it differs from version `after`."""

    def look() -> GatewaySnapshot:
        with state.database.read() as session:
            return snapshot(session)

    return await long_poll(state, look, lambda found: found.version != after, wait)


@router.post(
    "/gateway/observations",
    response_model=GatewayShares,
    responses=documented("key_unknown", "access_denied"),
)
def gateway_observations(said: GatewayObservations, state: State, caller: Agent) -> Any:
    """Store what a gateway saw of services' revisions (a report that came before changes nothing);
    answer with its part of the limits of keys."""
    with state.database.write() as session:
        record_observations(session, said)
        demands = hear_gateway(session, said.gateway, said.seq, said.demand)
    return GatewayShares(gateways=len(demands), shares=shares(demands, said.gateway))


@router.post(
    "/gateway/wake",
    status_code=204,
    response_class=Response,
    responses=documented("key_unknown", "access_denied", "not_found"),
)
def gateway_wake(said: Wake, state: State, caller: Agent) -> None:
    """Requests wait at a gateway for a service that is at zero replicas."""
    with state.database.write() as session:
        if not wake_service(session, said.project, said.service):
            raise ProblemError("not_found", f"service/{said.service} does not exist")


async def long_poll(
    state: ApiState, look: Callable[[], Found], enough: Callable[[Found], bool], wait: float
) -> Found:
    """`look()` until it is `enough`, or `wait` seconds are over. Raises `too_many_streams`."""
    loop = asyncio.get_running_loop()
    until = loop.time() + min(wait, state.settings.longest_wait)
    mark = state.news.mark()
    found = await to_thread.run_sync(look)
    if enough(found) or wait <= 0:
        return found
    state.news.check_room()
    with state.news.place():
        while not enough(found) and loop.time() < until:
            await state.news.wait(mark, min(RECHECK_S, max(0.0, until - loop.time())))
            mark = state.news.mark()
            found = await to_thread.run_sync(look)
    return found
