"""The gateway as a plain ASGI application: OpenAI's surface in front of the engines."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable, Coroutine, Mapping
from random import Random
from typing import Any
from urllib.parse import unquote

import aiohttp

from quarterdeck.gateway.access_log import to_stdout
from quarterdeck.gateway.admission import Admission
from quarterdeck.gateway.arrival import Arrival
from quarterdeck.gateway.asgi import (
    ClientGone,
    Receive,
    Scope,
    Send,
    answer,
    answer_json,
    discard_body,
    header,
)
from quarterdeck.gateway.books import Books
from quarterdeck.gateway.client import Client, client_of
from quarterdeck.gateway.directory import Directory
from quarterdeck.gateway.engine_loads import EngineLoads
from quarterdeck.gateway.errors import ApiError, unavailable
from quarterdeck.gateway.fleet import Fleet
from quarterdeck.gateway.inference import Inference
from quarterdeck.gateway.limits import Limits
from quarterdeck.gateway.metrics import GatewayMetrics
from quarterdeck.gateway.mirror import Mirror
from quarterdeck.gateway.observations import Reporter, Tally
from quarterdeck.gateway.proxy import Proxy
from quarterdeck.gateway.settings import GatewaySettings
from quarterdeck.gateway.snapshots import SnapshotWatch, read_snapshot
from quarterdeck.gateway.surface import ENDPOINTS, Endpoint
from quarterdeck.gateway.tracing import spans_from
from quarterdeck.gateway.upstream import Upstream
from quarterdeck.gateway.waking import Waker
from quarterdeck.specs.gateway_snapshot import GatewaySnapshot, ServiceRoute
from quarterdeck.specs.observations import RevisionObservation

_log = logging.getLogger(__name__)
_REQUEST_ID = re.compile(rb"^[A-Za-z0-9._-]{1,128}$")
_LINGER_SECONDS = 5.0
_LINGER_BYTES = 64 * 2**20
"""So long is read on what a refused client still sends of its body."""
_LAST_SPANS = 3.0
"""Seconds for the spans that are left at the end."""
STALE_HEADER = b"x-quarterdeck-stale-seconds"
"""On every answer while the api is away: how old the gateway's view may be."""
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
        self._fleet = Fleet(time.monotonic, on_ejection=self._metrics.ejected)
        self._tally = Tally()
        self._books = Books(self._metrics, self._tally, to_stdout)
        self._directory: Directory | None = None
        self._spans = spans_from(os.environ)
        self._admission = self._make_admission()
        self._waker: Waker | None = None
        self._clock: Callable[[], float] = time.monotonic
        self._limits = Limits(time.monotonic, self._metrics)
        self._inference: Inference | None = None
        self._watch: SnapshotWatch | None = None

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
            self._clock = asyncio.get_running_loop().time
            upstream = Upstream(
                self._settings.connect_timeout, self._settings.head_timeout, _POOLED_SECONDS
            )
            proxy = self._make_proxy(upstream)
            self._waker = Waker(self._settings, session, time.monotonic)
            mirror = Mirror(proxy, self._metrics, self._random)
            self._inference = self._make_inference(proxy, mirror)
            self._watch = SnapshotWatch(self._settings, session, self._apply, self._random)
            # A kept snapshot may be of another installation's history: ask for the newest whole.
            watching = asyncio.create_task(self._watch.run(None), name="snapshot-watch")
            loads = EngineLoads(session, self._fleet.engines_to_ask, self._fleet.told)
            asking = asyncio.create_task(loads.run(), name="engine-loads")
            reporter = Reporter(
                self._settings, session, self._observed, self._limits.demand, self._limits.share
            )
            reporting = asyncio.create_task(reporter.run(), name="observations")
            await send({"type": "lifespan.startup.complete"})
            await receive()
            for task in (watching, asking, reporting):
                task.cancel()
            await asyncio.gather(watching, asking, reporting, return_exceptions=True)
            await mirror.close()
            await self._waker.close()
            upstream.close()
            self._books.balance()
            if self._spans is not None:
                await asyncio.to_thread(self._spans.close, _LAST_SPANS)
        await send({"type": "lifespan.shutdown.complete"})

    # Tracing is decided here, once: requests of a gateway without it pass nothing of it.

    def _make_admission(self) -> Admission:
        parts = (time.monotonic, self._random, self._asleep)
        if self._spans is None:
            return Admission(*parts)
        from quarterdeck.gateway.traced import TracedAdmission

        return TracedAdmission(self._spans.tracer, *parts)

    def _make_proxy(self, upstream: Upstream) -> Proxy:
        parts = (self._settings, upstream, self._fleet, self._metrics, self._random)
        if self._spans is None:
            return Proxy(*parts)
        from quarterdeck.gateway.traced import TracedProxy

        return TracedProxy(self._spans.tracer, *parts)

    def _make_inference(self, proxy: Proxy, mirror: Mirror) -> Inference:
        parts = (
            self._settings, proxy, self._admission, self._limits, mirror, self._metrics,
            self._random, self._newest, self._books.ended,
        )  # fmt: skip
        if self._spans is None:
            return Inference(*parts)
        from quarterdeck.gateway.traced import TracedInference

        return TracedInference(self._spans.tracer, *parts)

    def _apply(self, snapshot: GatewaySnapshot) -> None:
        self._books.balance()
        self._directory = Directory.of(snapshot)
        self._fleet.apply(snapshot)
        self._tally.apply(snapshot)
        self._admission.apply(snapshot)
        self._limits.apply(snapshot)
        self._metrics.forget_others(
            endpoint.run_id for route in snapshot.services for endpoint in route.endpoints
        )

    def _observed(self) -> list[RevisionObservation]:
        self._books.balance()
        for route in self._directory.services.values() if self._directory else ():
            if route.wakes and self._admission.waiting(route):
                # Without it a start that takes longer than `idle_after` would be given up.
                self._asleep(route)
        return self._tally.take(self._fleet.in_flight, self._admission.waiting_of)

    def _asleep(self, route: ServiceRoute) -> None:
        if self._waker is not None:
            self._waker.wake(route)

    def _newest(self, route: ServiceRoute) -> ServiceRoute:
        services = self._directory.services if self._directory else {}
        return services.get((route.project, route.name), route)

    # --- requests ----------------------------------------------------------------------------

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        fields = dict(scope["headers"])
        offered = fields.get(b"x-request-id")
        if offered is not None and _REQUEST_ID.match(offered):
            request_id = offered.decode("ascii")
        else:
            request_id = f"req-{self._random.getrandbits(96):024x}"
        client = client_of(scope, receive, send)
        client.extra.append((b"x-request-id", request_id.encode()))
        if self._watch is not None and self._watch.failures:
            stale = f"{self._watch.stale_seconds():.0f}".encode()
            client.extra.append((STALE_HEADER, stale))
        try:
            endpoint = ENDPOINTS.get(scope["path"])
            if endpoint is not None:
                await self._inferred(endpoint, scope, fields, receive, client, request_id)
            else:
                await self._route(scope, client.send)
        except ApiError as error:
            if client.response_started:
                raise
            await _refuse(client.send, receive, error)
        except ClientGone:
            return

    def _inferred(
        self,
        endpoint: Endpoint,
        scope: Scope,
        fields: Mapping[bytes, bytes],
        receive: Receive,
        client: Client,
        request_id: str,
    ) -> Coroutine[Any, Any, None]:
        _only(scope["method"], "POST")
        assert self._inference is not None
        try:
            directory = self._known()
        except ApiError as error:
            self._metrics.refused.labels(str(error.status)).inc()
            raise
        return self._inference.answer(
            Arrival(directory, endpoint, scope, fields, receive, client, request_id, self._clock())
        )

    async def _route(self, scope: Scope, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        _only(method, "GET")
        if path == "/v1/models":
            await answer_json(send, 200, {"object": "list", "data": self._cards(scope)})
        elif path.startswith("/v1/models/"):
            await self._model(scope, send, unquote(path.removeprefix("/v1/models/")))
        elif path == "/healthz":
            await answer_json(send, 200, {"status": "ok"})
        elif path in ("/readyz", "/health"):  # the latter as engines have it, for their clients
            self._known()
            stale = round(self._watch.stale_seconds()) if self._watch else 0
            await answer_json(send, 200, {"status": "ok", "stale_seconds": stale})
        elif path == "/metrics":
            self._books.balance()
            failures = self._watch.failures if self._watch else 0
            self._metrics.snapshot_failures.set(failures)
            for route in self._directory.services.values() if self._directory else ():
                waiting = self._admission.waiting(route)
                self._metrics.waiting.labels(route.project, route.name).set(waiting)
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


def _only(method: str, allowed: str) -> None:
    if method != allowed and not (method == "HEAD" and allowed == "GET"):
        raise ApiError(405, f"{method} is not allowed here: use {allowed}", close=True)


def _card(name: str, route: ServiceRoute) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": route.project}


async def _refuse(send: Send, receive: Receive, error: ApiError) -> None:
    extra = []
    if error.retry_after is not None:
        extra.append((b"retry-after", str(error.retry_after).encode()))
    if error.close:
        extra.append((b"connection", b"close"))
    if error.status == 401:
        extra.append((b"www-authenticate", b"Bearer"))
    if not error.close or error.status == 408:
        await answer(send, error.status, error.body(), "application/json", extra)
        return
    # Said at once, for clients that look while they send; then the others may end their body.
    await answer(send, error.status, error.body(), "application/json", extra, more=True)
    await discard_body(receive, _LINGER_BYTES, _LINGER_SECONDS)
    await send({"type": "http.response.body", "body": b""})
