"""Shadow traffic: copies of a share of the requests to another service, whose answers nobody
sees. A copy never delays the request itself, and there are never more than a few."""

from __future__ import annotations

import asyncio
import json
from random import Random

from quarterdeck.gateway.access_log import Record
from quarterdeck.gateway.asgi import ClientGone, Message
from quarterdeck.gateway.call import Call
from quarterdeck.gateway.directory import Directory
from quarterdeck.gateway.errors import ApiError
from quarterdeck.gateway.metrics import GatewayMetrics
from quarterdeck.gateway.proxy import Proxy
from quarterdeck.gateway.route_request import engine_model
from quarterdeck.specs.gateway_snapshot import ServiceRoute

_MOST = 64
"""Copies under way; more are not made."""


class Mirror:
    """Makes copies in the background, until `close`."""

    def __init__(self, proxy: Proxy, metrics: GatewayMetrics, random: Random) -> None:
        self._proxy = proxy
        self._metrics = metrics
        self._random = random
        self._copies: set[asyncio.Task[None]] = set()

    def offer(self, directory: Directory, route: ServiceRoute, call: Call) -> None:
        """Copy this call if its service says so and the draw falls on it."""
        shadow = route.mirror
        if shadow is None or self._random.random() >= shadow.share:
            return
        target = directory.sibling(route, shadow.service)
        if target is None or target.chain or len(self._copies) >= _MOST:
            self._metrics.mirrored.labels(route.project, route.name, "dropped").inc()
            return
        name = engine_model(target, dict(call.headers))
        asked = {**call.asked, "model": name} if "model" in call.asked else call.asked
        body = json.dumps(asked).encode()
        record = Record(call.record.request_id, call.path)
        copy = Call(call.path, call.headers, body, call.stream, record, call.began, call.asked)
        task = asyncio.ensure_future(self._send(route, target, copy))
        self._copies.add(task)
        task.add_done_callback(self._copies.discard)

    async def close(self) -> None:
        """Give up the copies under way."""
        for copy in list(self._copies):
            copy.cancel()
        await asyncio.gather(*self._copies, return_exceptions=True)

    async def _send(self, route: ServiceRoute, target: ServiceRoute, copy: Call) -> None:
        async def nowhere(message: Message) -> None:
            return

        try:
            await self._proxy.serve(target, copy, nowhere)
            outcome = "sent"
        except (ApiError, ClientGone):
            outcome = "failed"
        self._metrics.mirrored.labels(route.project, route.name, outcome).inc()
