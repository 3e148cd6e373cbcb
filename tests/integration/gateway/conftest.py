from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from quarterdeck.gateway.server import server_for
from quarterdeck.gateway.settings import GatewaySettings
from quarterdeck.specs.gateway_snapshot import (
    EngineEndpoint,
    GatewaySnapshot,
    KeyDigest,
    ServiceRoute,
)
from quarterdeck.specs.routing import RoutingSettings

GATEWAY_KEY = "qd_gateway"
USER_KEY = "qd_user"
ALL_KEY = "qd_everywhere"
AGENT_KEY = "qd_agent"


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


KEYS = [
    KeyDigest(sha256=_digest(USER_KEY), name="user", project="default", access="viewer"),
    KeyDigest(sha256=_digest(ALL_KEY), name="all", project=None, access="admin"),
    KeyDigest(sha256=_digest(AGENT_KEY), name="agent", project=None, access="agent"),
]


def route(
    name: str, *endpoints: EngineEndpoint, project: str = "default", **values: Any
) -> ServiceRoute:
    values = {"model_version": f"{name}@1", "routing": RoutingSettings(), **values}
    return ServiceRoute.model_validate(
        {"name": name, "project": project, "endpoints": list(endpoints), **values}
    )


class SnapshotServer:
    """The api's snapshot over real HTTP, with a real long poll."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._version = 0
        self._routes: list[ServiceRoute] = []
        self._keys = KEYS
        self._closing = False
        self.polls: list[tuple[str | None, str | None]] = []
        self.reports: list[dict[str, Any]] = []
        """Observations that were sent, also those that were not taken."""
        self.woken: list[str] = []
        self.takes = 200
        self.shares: dict[str, Any] = {"gateways": 1, "shares": {}}
        """The status that a report is answered with."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._answer(self)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer._take(self, body)

            def log_message(self, *args: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def publish(self, *routes: ServiceRoute, keys: list[KeyDigest] | None = None) -> str:
        with self._news:
            self._version += 1
            self._routes = list(routes)
            self._keys = KEYS if keys is None else keys
            self._news.notify_all()
            return str(self._version)

    def snapshot(self) -> GatewaySnapshot:
        return GatewaySnapshot(version=str(self._version), services=self._routes, keys=self._keys)

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        query = parse_qs(parts.query)
        after = query.get("after", [None])[0]
        authorization = request.headers.get("Authorization")
        with self._news:
            self.polls.append((after, authorization))
            if parts.path != "/api/v1/gateway/snapshot":
                status, body = 404, b"{}"
            elif authorization != f"Bearer {GATEWAY_KEY}":
                status, body = 401, b"{}"
            else:
                self._news.wait_for(
                    lambda: str(self._version) != after or self._closing,
                    timeout=float(query["wait"][0]),
                )
                status, body = 200, self.snapshot().model_dump_json().encode()
        with suppress(ConnectionError):  # a gateway that stopped does not wait for its poll
            request.send_response(status)
            request.send_header("content-type", "application/json")
            request.send_header("content-length", str(len(body)))
            request.end_headers()
            request.wfile.write(body)

    def _take(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        assert request.headers.get("Authorization") == f"Bearer {GATEWAY_KEY}"
        if request.path == "/api/v1/gateway/wake":
            self.woken.append(json.loads(body)["service"])
            request.send_response(204)
            request.end_headers()
            return
        assert request.path == "/api/v1/gateway/observations"
        self.reports.append({**json.loads(body), "answer": self.takes})
        told = json.dumps(self.shares).encode()
        with suppress(ConnectionError):
            request.send_response(self.takes)
            request.send_header("content-length", str(len(told)))
            request.end_headers()
            request.wfile.write(told)

    def close(self) -> None:
        with self._news:
            self._closing = True
            self._news.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


HANG = "hang"
RESET = "reset"


class ScriptedReplica:
    """A real HTTP/1.1 server over raw sockets that sends exactly the bytes it is told.

    `script` is called with the number of the request (from 0) and gives pieces: bytes are sent, a
    float is waited for, `HANG` waits until the peer leaves, `RESET` breaks the connection off.
    """

    def __init__(self, run_id: str, script: Callable[[int], list[Any]]) -> None:
        self.run_id = run_id
        self._script = script
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.left = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server = self._run(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    def endpoint(self, **values: Any) -> EngineEndpoint:
        return EngineEndpoint(
            **{
                "run_id": self.run_id,
                "url": f"http://127.0.0.1:{self.port}",
                "ready": True,
                **values,
            }
        )

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines if line)
        }
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        self.requests.append((first, headers, body))
        for piece in self._script(len(self.requests) - 1):
            if isinstance(piece, float):
                await asyncio.sleep(piece)
            elif piece == HANG:
                await reader.read()
                self.left += 1
                return False
            elif piece == RESET:
                writer.transport.abort()
                return False
            else:
                writer.write(piece)
                await writer.drain()
        return True

    def close(self) -> None:
        if self._loop.is_closed():
            return

        async def end() -> None:
            self._server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        self._run(end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


def whole(body: bytes, status: str = "200 OK", *extra: str) -> bytes:
    """One answer with a length."""
    lines = [f"HTTP/1.1 {status}", "content-type: application/json", *extra]
    head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""])
    return head.encode() + body


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def text_event(text: str) -> bytes:
    choice = {"index": 0, "text": text, "finish_reason": None, "logprobs": None}
    payload = {
        "id": "c", "object": "text_completion", "created": 1, "model": "chat", "choices": [choice],
    }  # fmt: skip
    return f"data: {json.dumps(payload, ensure_ascii=False)}\n\n".encode()


class RunningGateway:
    """A gateway under uvicorn, as its process runs it, in a thread."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self._server = server_for(settings)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        wait_until(lambda: self._server.started, "the gateway did not start")
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def client(self, key: str = USER_KEY, **values: Any) -> httpx.Client:
        headers = {"authorization": f"Bearer {key}"}
        return httpx.Client(base_url=self.url, headers=headers, **{"timeout": 30, **values})

    def wait_for(self, *names: str, key: str = ALL_KEY) -> None:
        """Until exactly these models are listed."""

        def listed() -> bool:
            with self.client(key) as client:
                answer = client.get("/v1/models")
            return answer.status_code == 200 and {
                card["id"] for card in answer.json()["data"]
            } == set(names)

        wait_until(listed, f"models {names} were not listed")

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def api() -> Iterator[SnapshotServer]:
    api = SnapshotServer()
    yield api
    api.close()


@pytest.fixture
def settings(api: SnapshotServer, tmp_path: Path) -> GatewaySettings:
    key = tmp_path / "gateway-key"
    key.write_text(GATEWAY_KEY + "\n")
    return GatewaySettings(
        api_url=api.url,
        key_path=key,
        snapshot_path=tmp_path / "state" / "snapshot.json",
        port=0,
        snapshot_wait=5.0,
        shutdown_timeout=3,
    )


Gateways = Callable[..., RunningGateway]


@pytest.fixture
def gateways(settings: GatewaySettings) -> Iterator[Gateways]:
    """Starts gateways with changed settings and stops them in the end."""
    running: list[RunningGateway] = []

    def start(**changes: Any) -> RunningGateway:
        running.append(RunningGateway(replace(settings, **changes)))
        return running[-1]

    yield start
    for gateway in running:
        gateway.close()


Scripted = Callable[[str, Callable[[int], list[Any]]], ScriptedReplica]


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    """Starts scripted replicas and stops them in the end."""
    with _scripted() as start:
        yield start


@contextmanager
def _scripted() -> Iterator[Scripted]:
    started: list[ScriptedReplica] = []

    def start(run_id: str, script: Callable[[int], list[Any]]) -> ScriptedReplica:
        started.append(ScriptedReplica(run_id, script))
        return started[-1]

    try:
        yield start
    finally:
        for replica in started:
            replica.close()


@pytest.fixture(scope="session")
def kit() -> ModuleType:
    """The names of this file, for tests that build routes and answers."""
    return _load(Path(__file__))


@pytest.fixture(scope="session")
def engine_kit() -> Callable[[str], ModuleType]:
    """Helpers of the engine's tests by file name."""
    folder = Path(__file__).parent.parent / "engine"
    return lambda name: _load(folder / f"{name}.py")


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"serving_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ship = _load(Path(__file__).with_name("chain_ship.py")).ship
_spans = _load(Path(__file__).with_name("span_collector.py"))
collector, traced = _spans.collector, _spans.traced
