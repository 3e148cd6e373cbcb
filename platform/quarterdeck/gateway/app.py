"""The gateway as a plain ASGI application: OpenAI's surface in front of the engines."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from random import Random
from urllib.parse import unquote

import aiohttp

from quarterdeck.gateway.asgi import (
    ClientGone,
    Message,
    Receive,
    Scope,
    Send,
    answer,
    answer_json,
    discard_body,
    header,
    read_body,
    until_gone,
)
from quarterdeck.gateway.directory import Directory
from quarterdeck.gateway.errors import ApiError, unavailable
from quarterdeck.gateway.fleet import Fleet
from quarterdeck.gateway.metrics import GatewayMetrics
from quarterdeck.gateway.proxy import Call, Proxy
from quarterdeck.gateway.settings import GatewaySettings
from quarterdeck.gateway.snapshots import SnapshotWatch, read_snapshot
from quarterdeck.routing.policies import DEFAULT
from quarterdeck.specs.gateway_snapshot import GatewaySnapshot, KeyDigest, ServiceRoute

_log = logging.getLogger(__name__)
_INFERENCE = frozenset({"/v1/completions", "/v1/chat/completions"})
_REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,128}$")
_LARGE_BODY = 256 * 2**10
_LINGER = 1.0
_POOLED_SECONDS = 15.0  # less than engines keep idle connections


def create_app(settings: GatewaySettings) -> Gateway:
    """The application; its lifespan starts the watch over the snapshot and ends it."""
    return Gateway(settings)


class Gateway:
    """See `create_app`. One per process; nothing is shared between gateways."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._settings = settings
        self._random = Random()
        self._metrics = GatewayMetrics()
        self._fleet = Fleet(time.monotonic)
        self._directory: Directory | None = None
        self._proxy: Proxy | None = None
        self._watch: SnapshotWatch | None = None
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)

    # --- life --------------------------------------------------------------------------------

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_POOLED_SECONDS)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_timeout)
        async with aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        ) as session:
            kept = await asyncio.to_thread(read_snapshot, self._settings.snapshot_path)
            if kept is not None:
                self._apply(kept)
            self._proxy = Proxy(
                self._settings, session, self._fleet, DEFAULT, self._metrics, self._random
            )
            self._watch = SnapshotWatch(self._settings, session, self._apply, self._random)
            # A kept snapshot may be of another installation's history: ask for the newest whole.
            watching = asyncio.create_task(self._watch.run(None), name="snapshot-watch")
            await send({"type": "lifespan.startup.complete"})
            await receive()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        await send({"type": "lifespan.shutdown.complete"})

    def _apply(self, snapshot: GatewaySnapshot) -> None:
        self._directory = Directory.of(snapshot)
        self._fleet.forget_others(snapshot)

    # --- requests ----------------------------------------------------------------------------

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        offered = header(scope, b"x-request-id") or ""
        request_id = offered if _REQUEST_ID.match(offered) else f"req-{secrets.token_hex(12)}"
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"].append((b"x-request-id", request_id.encode()))
            await send(message)

        try:
            await self._route(scope, receive, send_with_id, request_id)
        except ApiError as error:
            if started:
                raise
            if error.close and error.status != 408:
                await discard_body(receive, _LINGER)
            await _refuse(send_with_id, error)
        except ClientGone:
            return

    async def _route(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        path, method = scope["path"], scope["method"]
        if path in _INFERENCE:
            _only(method, "POST")
            await self._infer(scope, receive, send, request_id)
            return
        _only(method, "GET")
        if path == "/v1/models":
            await answer_json(send, 200, {"object": "list", "data": self._cards(scope)})
        elif path.startswith("/v1/models/"):
            await self._model(scope, send, unquote(path.removeprefix("/v1/models/")))
        elif path == "/healthz":
            await answer_json(send, 200, {"status": "ok"})
        elif path == "/readyz":
            self._known()
            await answer_json(send, 200, {"status": "ok"})
        elif path == "/metrics":
            failures = self._watch.failures if self._watch else 0
            self._metrics.snapshot_failures.set(failures)
            await answer(send, 200, self._metrics.render(), "text/plain; version=0.0.4", [])
        else:
            raise ApiError(404, f"{path[:200]!r} does not exist here", code="not_found")

    def _known(self) -> Directory:
        if self._directory is None:
            raise unavailable("the gateway has not heard from the api yet", "no_snapshot")
        return self._directory

    def _cards(self, scope: Scope) -> list[dict[str, object]]:
        directory = self._known()
        visible = directory.visible(directory.key_of(header(scope, b"authorization")))
        return [_card(name, route) for name, route in visible.items()]

    async def _model(self, scope: Scope, send: Send, name: str) -> None:
        directory = self._known()
        key = directory.key_of(header(scope, b"authorization"))
        await answer_json(send, 200, _card(name, directory.service_of(key, name)))

    async def _infer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        try:
            directory = self._known()
            key = directory.key_of(header(scope, b"authorization"))
            if self._in_flight >= self._settings.max_in_flight:
                raise unavailable(
                    f"{self._in_flight} requests are under way, the most this gateway carries",
                    "gateway_overloaded",
                )
        except ApiError as error:
            self._metrics.refused.labels(str(error.status)).inc()
            raise
        self._in_flight += 1
        self._metrics.in_flight.set(self._in_flight)
        try:
            await self._carry(scope, receive, send, request_id, directory, key)
        finally:
            self._in_flight -= 1
            self._metrics.in_flight.set(self._in_flight)

    async def _carry(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        request_id: str,
        directory: Directory,
        key: KeyDigest,
    ) -> None:
        began = asyncio.get_running_loop().time()
        settings = self._settings
        try:
            body = await read_body(scope, receive, settings.max_body, settings.body_timeout)
            parsed = await _parse(body)
            model = parsed.get("model")
            if not isinstance(model, str) or not model:
                raise ApiError(400, "model: is missing: name a model as text", param="model")
            route = directory.service_of(key, model)
        except ApiError as error:
            self._metrics.refused.labels(str(error.status)).inc()
            raise
        if model != route.name:
            body = json.dumps({**parsed, "model": route.name}).encode()
        call = Call(
            path=scope["path"],
            headers=scope["headers"],
            body=body,
            stream=parsed.get("stream") is True,
            request_id=request_id,
            began=began,
        )
        status = "499"
        try:
            status = str(await self._while_there(route, call, receive, send))
        except ApiError as error:
            status = str(error.status)
            raise
        finally:
            self._metrics.requests.labels(route.project, route.name, status).inc()

    async def _while_there(
        self, route: ServiceRoute, call: Call, receive: Receive, send: Send
    ) -> int:
        """Serve the call; give it up, and with it the replica's work, when the client leaves."""
        assert self._proxy is not None
        serving = asyncio.ensure_future(self._proxy.serve(route, call, send))
        leaving = asyncio.ensure_future(until_gone(receive))
        try:
            await asyncio.wait({serving, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                return serving.result()
            raise ClientGone
        finally:
            leaving.cancel()
            serving.cancel()
            await asyncio.gather(serving, leaving, return_exceptions=True)


def _only(method: str, allowed: str) -> None:
    if method != allowed and not (method == "HEAD" and allowed == "GET"):
        raise ApiError(405, f"{method} is not allowed here: use {allowed}", close=True)


async def _parse(body: bytes) -> dict[str, object]:
    try:
        if len(body) > _LARGE_BODY:
            parsed = await asyncio.to_thread(json.loads, body)
        else:
            parsed = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON") from None
    if not isinstance(parsed, dict):
        raise ApiError(400, "the body is not a JSON object")
    return parsed


def _card(name: str, route: ServiceRoute) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": route.project}


async def _refuse(send: Send, error: ApiError) -> None:
    extra = []
    if error.retry_after is not None:
        extra.append((b"retry-after", str(error.retry_after).encode()))
    if error.close:
        extra.append((b"connection", b"close"))
    if error.status == 401:
        extra.append((b"www-authenticate", b"Bearer"))
    await answer(send, error.status, error.body(), "application/json", extra)
