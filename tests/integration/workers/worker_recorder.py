"""A small real HTTP server that speaks the agent's and supervisor's side of the api and records
every payload, so that tests can look at the protocol itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from quarterdeck.specs.beats import BeatReply, RunBeat
from quarterdeck.specs.protocol import (
    AgentBeat,
    AgentWork,
    NodeReport,
    RankPlacement,
    RunOrder,
    RunSighting,
    RunToKill,
    RunToStart,
    WeightsOrder,
)
from quarterdeck.specs.warming import WarmReport, WeightsToWarm

API = "/api/v1"


class Recorder:
    """The api as agents and supervisors see it. `away` makes every answer a 503."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.away = False
        self.generation = 0
        self.lose_answers: set[str] = set()
        self.agent_beats: list[AgentBeat] = []
        self.orders: dict[str, RunOrder] = {}
        self.claimed: dict[str, str] = {}
        self.claims: list[str] = []
        self.killing: dict[str, int] = {}
        self.received: dict[str, list[RunBeat]] = {}
        self.beats: dict[str, list[RunBeat]] = {}
        self.replies: dict[str, BeatReply] = {}
        self.stale: set[str] = set()
        self.warm: list[WeightsToWarm] = []
        self.weights: dict[str, WeightsOrder] = {}
        self._lock = threading.Lock()
        routes = [
            Route(f"{API}/agents/{{cluster}}/beat", self._agent_beat, methods=["POST"]),
            Route(f"{API}/agents/{{cluster}}/work", self._work, methods=["GET"]),
            Route(f"{API}/agents/{{cluster}}/weights/{{asset}}", self._weights, methods=["GET"]),
            Route(f"{API}/clusters/{{cluster}}/join", self._join, methods=["POST"]),
            Route(f"{API}/runs/{{run}}/claim", self._claim, methods=["POST"]),
            Route(f"{API}/runs/{{run}}/beat", self._beat, methods=["POST"]),
        ]
        config = uvicorn.Config(
            Starlette(routes=routes), host=host, port=0, log_level="error", lifespan="off"
        )
        self._server = uvicorn.Server(config)
        self._socket = config.bind_socket()
        self.url = f"http://{host}:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(5)
        self._socket.close()

    # --- what tests do ---------------------------------------------------------------------

    @property
    def nodes(self) -> list[NodeReport]:
        living = self.agent_beats[-1].nodes if self.agent_beats else []
        return [node for node in living if node.alive]

    def submit(
        self,
        run_id: str,
        kind: str,
        spec: dict[str, Any],
        *,
        ranks: int = 1,
        nodes: list[str] | None = None,
        roles: list[str] | None = None,
        slots: int = 1,
        shared: tuple[int, int] | None = None,
        **order: Any,
    ) -> str:
        """Place a run: rank i on nodes[i], without `nodes` all on the first, in role roles[i].
        `shared` is the number of a shared slot and the thousandths of it that it takes."""
        chosen = nodes or [self.nodes[0].node_id] * ranks
        models = {node.node_id: node.accelerator for node in self.nodes}
        placements = [
            RankPlacement(
                rank=rank,
                node_id=node,
                local_rank=chosen[:rank].count(node),
                slots=slots,
                role=roles[rank] if roles else "trainer",
                accelerator=models.get(node, ""),
                **({"shared_slot": shared[0], "share": shared[1]} if shared else {}),
            )
            for rank, node in enumerate(chosen)
        ]
        order.setdefault("artifacts_uri", "memory://")
        order.setdefault("epoch", 1)
        order.setdefault("owner_name", run_id)
        order.setdefault("owner_id", f"job-{run_id}")
        self.orders[run_id] = RunOrder(
            run_id=run_id, owner_type="service" if kind == "service" else "job",
            kind=kind, spec=spec, cluster="test",
            placements=placements, api_url=self.url, run_key=f"key-of-{run_id}", **order,
        )  # fmt: skip
        return run_id

    def reply(self, run_id: str, order: str, deadline: float = 30.0) -> None:
        self.replies[run_id] = BeatReply.model_validate(
            {"order": order, "deadline_seconds": deadline, "reason": "test"}
        )

    def wait(self, what: Callable[[], Any], limit: float = 60.0) -> Any:
        """Wait for a truthy answer of `what`; AssertionError after `limit` seconds."""
        deadline = time.monotonic() + limit
        while not (answer := what()):
            if time.monotonic() > deadline:
                raise AssertionError(f"nothing after {limit:g} s; last beats: {self.last()}")
            time.sleep(0.05)
        return answer

    def last(self) -> dict[str, str]:
        return {
            run: f"{beats[-1].reported_phase}: {beats[-1].message}"
            for run, beats in self.beats.items()
        }

    def phase(self, run_id: str) -> str:
        beats = self.beats.get(run_id)
        return beats[-1].reported_phase if beats else ""

    def ended(self, run_id: str, limit: float = 60.0) -> RunBeat:
        """The final beat of a run."""
        ends = ("succeeded", "failed", "cancelled", "preempted")
        self.wait(lambda: self.phase(run_id) in ends, limit)
        return self.beats[run_id][-1]

    def lines(self, run_id: str, rank: int | None = None) -> list[str]:
        return [
            line
            for beat in self.beats.get(run_id, [])
            for chunk in beat.logs
            if rank is None or chunk.rank == rank
            for _, line in chunk.lines
        ]

    def pids(self, run_id: str) -> list[int]:
        """Pids of the ranks, once all are known."""
        return self.wait(lambda: self._pids(run_id))

    def _pids(self, run_id: str) -> list[int]:
        for beat in reversed(self.beats.get(run_id, [])):
            pids = [rank.pid for rank in beat.ranks if rank.pid]
            if len(pids) == len(beat.ranks):
                return pids
        return []

    def sighting(self, run_id: str) -> str:
        """What the agent's newest beat says of a run."""
        seen: list[RunSighting] = self.agent_beats[-1].runs if self.agent_beats else []
        return next((each.state for each in seen if each.run_id == run_id), "")

    def warmed(self, asset: str, node: str, asked: int = 1) -> WarmReport | None:
        """What the agent's newest beat says of weights that are fetched ahead."""
        told: list[WarmReport] = self.agent_beats[-1].warmed if self.agent_beats else []
        key = (asset, node, asked)
        return next((x for x in told if (x.asset_id, x.node_id, x.asked) == key), None)

    # --- answers ---------------------------------------------------------------------------

    def _agent_work(self) -> AgentWork:
        return AgentWork(
            generation=self.generation,
            start=[
                RunToStart(run_id=run, epoch=1) for run in self.orders if run not in self.claimed
            ],
            kill=[
                RunToKill(run_id=run, epoch=epoch, reason="test")
                for run, epoch in self.killing.items()
            ],
            watch=[RunToStart(run_id=run, epoch=1) for run in self.claimed],
            warm=self.warm,
        )  # fmt: skip

    async def _agent_beat(self, request: Request) -> Response:
        beat = AgentBeat.model_validate_json(await request.body())
        if self.away:
            return _problem(503, "unavailable")
        self.agent_beats.append(beat)
        return _answer(self._agent_work())

    async def _work(self, request: Request) -> Response:
        import asyncio

        if self.away:
            return _problem(503, "unavailable")
        deadline = time.monotonic() + min(float(request.query_params["wait"]), 2.0)
        while time.monotonic() < deadline:
            work = self._agent_work()
            if work.start or work.kill:
                break
            await asyncio.sleep(0.05)
        return _answer(self._agent_work())

    async def _weights(self, request: Request) -> Response:
        order = self.weights.get(request.path_params["asset"])
        return _problem(404, "not_found") if order is None else _answer(order)

    async def _join(self, request: Request) -> Response:
        if not self.agent_beats:
            return _problem(404, "not_found")
        beat = self.agent_beats[-1]
        body = {"cluster": "test", "address": beat.address, "ray_token": beat.ray_token}
        return JSONResponse(body)

    async def _claim(self, request: Request) -> Response:
        run = request.path_params["run"]
        body = await request.json()
        self.claims.append(run)
        with self._lock:
            if run in self.claimed:
                return _problem(409, "already_claimed")
            self.claimed[run] = body["agent_id"]
        return _answer(self.orders[run])

    async def _beat(self, request: Request) -> Response:
        run = request.path_params["run"]
        beat = RunBeat.model_validate_json(await request.body())
        if self.away:
            return _problem(503, "unavailable")
        if request.headers["authorization"] != f"Bearer key-of-{run}":
            return _problem(401, "key_unknown")
        if run in self.stale:
            return _problem(409, "stale_epoch")
        self.received.setdefault(run, []).append(beat)
        stored = self.beats.setdefault(run, [])
        if not stored or beat.seq > stored[-1].seq:
            stored.append(beat)
        if run in self.lose_answers:
            self.lose_answers.discard(run)
            return _problem(503, "unavailable")
        reply = self.replies.get(run, BeatReply())
        return _answer(reply.model_copy(update={"acked_seq": stored[-1].seq}))


def _answer(model: Any) -> Response:
    return Response(model.model_dump_json(), media_type="application/json")


def _problem(status: int, name: str) -> Response:
    body = {"type": f"/problems/{name}", "title": name, "status": status, "detail": name}
    return JSONResponse(body, status, media_type="application/problem+json")
