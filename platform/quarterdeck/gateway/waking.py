"""Waking services that are at zero replicas: the api is told at once, and again while requests
wait, at most once a second for each service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import aiohttp

from quarterdeck.gateway.settings import GatewaySettings
from quarterdeck.specs.gateway_snapshot import ServiceRoute
from quarterdeck.specs.observations import Wake

_log = logging.getLogger(__name__)
_AGAIN_S = 1.0
_TIMEOUT_S = 5.0
_MOST = 100
"""Calls under way; services beyond that are told of with their next request."""


class Waker:
    """Tells the api, in the background. `clock` gives seconds that never go back."""

    def __init__(
        self,
        settings: GatewaySettings,
        session: aiohttp.ClientSession,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._session = session
        self._clock = clock
        self._told: dict[tuple[str, str], float] = {}
        self._calls: set[asyncio.Task[None]] = set()

    def wake(self, route: ServiceRoute) -> None:
        """A request waits for this service."""
        key, now = (route.project, route.name), self._clock()
        if now - self._told.get(key, float("-inf")) < _AGAIN_S or len(self._calls) >= _MOST:
            return
        self._told = {k: at for k, at in self._told.items() if now - at < _AGAIN_S} | {key: now}
        call = asyncio.ensure_future(self._tell(route))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def close(self) -> None:
        """Give up the calls under way."""
        for call in list(self._calls):
            call.cancel()
        await asyncio.gather(*self._calls, return_exceptions=True)

    async def _tell(self, route: ServiceRoute) -> None:
        try:
            key = self._settings.key_path.read_text(encoding="utf-8").strip()
            async with self._session.post(
                f"{self._settings.api_url.rstrip('/')}/api/v1/gateway/wake",
                data=Wake(project=route.project, service=route.name).model_dump_json(),
                headers={"authorization": f"Bearer {key}", "content-type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
                allow_redirects=False,
            ) as response:
                if response.status >= 400:
                    raise aiohttp.ClientError(f"status {response.status}")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # With a key in the header, only the kind of error is safe to show.
            _log.warning("service %s could not be woken: %s", route.name, type(error).__name__)
