"""The two ends of tunnels into runs: `exec`, `attach` and `port-forward`.

WebSockets, so not part of the OpenAPI document. Refusals come before the handshake, as problems.
"""

from __future__ import annotations

import hmac
from typing import Annotated, Literal

from anyio import to_thread
from fastapi import APIRouter, Query, WebSocket
from fastapi.security import HTTPAuthorizationCredentials

from quarterdeck.api.auth import Caller, key_of
from quarterdeck.api.problems import ProblemError, problem_response
from quarterdeck.api.routers.jobs import read_job
from quarterdeck.api.state import ApiState
from quarterdeck.api.tunnels import token_for
from quarterdeck.lifecycle.run import ENDED
from quarterdeck.store import errors, run_queries, service_queries, tunnel_queries
from quarterdeck.store.failures import UNAVAILABLE
from quarterdeck.store.ids import new_id
from quarterdeck.store.sessions import Session
from quarterdeck.store.tables import RunRow

router = APIRouter(tags=["machines"])
Kind = Literal["exec", "attach", "forward"]
_BEARER = "bearer"


@router.websocket("/{owners}/{name}/tunnel")
async def open_tunnel(
    socket: WebSocket,
    owners: Literal["jobs", "services"],
    name: str,
    kind: Kind,
    rank: Annotated[int, Query(ge=0)] = 0,
    project: str | None = None,
) -> None:
    """A user's end. Needs access operator on the job's project."""
    state: ApiState = socket.app.state.parts

    def prepare() -> tuple[str, Caller, str]:
        caller = key_of(state, _credentials(socket))
        caller.need("operator")
        state.tunnels.check_room(caller.key.id)
        tunnel_id = new_id("tunnel")
        with state.database.write() as session:
            run = _run_of(session, caller, owners, name, project)
            _check_rank(run, rank)
            tunnel_queries.add_tunnel(
                session, tunnel_id, run, rank=rank, kind=kind, actor=caller.actor
            )
            return tunnel_id, caller, run.id

    try:
        tunnel_id, caller, run_id = await to_thread.run_sync(prepare)
    except (ProblemError, errors.NotFound) as error:
        await _deny(socket, error)
        return
    await socket.accept()

    def gone() -> str:
        try:
            with state.database.read() as session:
                now = _run_of(session, caller, owners, name, project)
        except ProblemError as error:
            return str(error.detail)
        except errors.NotFound as error:
            return str(error)
        except UNAVAILABLE:
            return ""  # it may well come
        return "" if now.id == run_id else "its attempt has ended, there is another one: try again"

    await state.tunnels.carry(tunnel_id, caller.key.id, socket, gone)


@router.websocket("/agents/{cluster}/tunnels/{tunnel_id}")
async def join_tunnel(socket: WebSocket, cluster: str, tunnel_id: str) -> None:
    """The node's end, with the tunnel's own token.

    Another replica of the api may hold the user's end: 404 then, and the node tries again, which
    reaches another one.
    """
    state: ApiState = socket.app.state.parts
    given = _credentials(socket)
    wanted = token_for(state.settings.master_key, tunnel_id)
    if given is None or not hmac.compare_digest(given.credentials.encode(), wanted.encode()):
        await _deny(socket, ProblemError("key_unknown", "this token opens no such tunnel"))
        return
    if not state.tunnels.holds(tunnel_id):
        await _deny(socket, errors.NotFound("tunnel", tunnel_id))
        return

    def take() -> bool:
        with state.database.write() as session:
            return tunnel_queries.take_tunnel(session, tunnel_id)

    if not await to_thread.run_sync(take):
        await _deny(socket, errors.NotFound("tunnel", tunnel_id))
        return
    await socket.accept()
    await state.tunnels.join(tunnel_id, socket)


def _credentials(socket: WebSocket) -> HTTPAuthorizationCredentials | None:
    scheme, _, text = socket.headers.get("authorization", "").partition(" ")
    if scheme.lower() != _BEARER or not text:
        return None
    return HTTPAuthorizationCredentials(scheme=scheme, credentials=text.strip())


def _run_of(
    session: Session, caller: Caller, owners: str, name: str, project: str | None
) -> RunRow:
    if owners == "jobs":
        row = read_job(session, caller, name, project)
        run = run_queries.newest_run(session, row.id)
        state = f"job/{row.name} is {row.phase}"
    else:
        service = service_queries.get_service(session, name, caller.named_in(project))
        caller.check_project(service.project)
        run = run_queries.newest_run(session, service.id)
        state = f"service/{service.name} is {service.phase}"
    if run is None or run.claimed_by is None or run.phase in ENDED:
        raise ProblemError("not_running", f"{state}: there is no rank to reach")
    return run


def _check_rank(run: RunRow, rank: int) -> None:
    if rank >= len(run.placements):
        raise ProblemError(
            "invalid_parameter", f"rank {rank}: there are {len(run.placements)}, counted from 0"
        )


async def _deny(socket: WebSocket, error: ProblemError | errors.NotFound) -> None:
    problem = error if isinstance(error, ProblemError) else ProblemError("not_found", str(error))
    await socket.send_denial_response(problem_response(problem, socket.url.path))
