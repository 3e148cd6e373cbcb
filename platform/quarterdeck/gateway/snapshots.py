"""Following the api's snapshot, and starting from the last one when the api is away."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import aiohttp
from pydantic import ValidationError

from quarterdeck.gateway.settings import GatewaySettings
from quarterdeck.specs.gateway_snapshot import GatewaySnapshot

_log = logging.getLogger(__name__)
_SLACK = 10.0  # seconds beyond the poll's wait before it counts as lost
_LONGEST_PAUSE = 5.0
_SHORTEST_PERIOD = 0.25  # between polls that brought nothing, should the api not hold them
_LARGEST = 256 * 2**20


def read_snapshot(path: Path) -> GatewaySnapshot | None:
    """The snapshot kept on disk; None when there is none or it cannot be read."""
    try:
        return GatewaySnapshot.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        _log.warning("the snapshot at %s is of no use and is ignored: %s", path, type(error))
        return None


def write_snapshot(path: Path, snapshot: GatewaySnapshot) -> None:
    """Keep a snapshot, whole or not at all, readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(snapshot.model_dump_json())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


class SnapshotWatch:
    """Polls the api for ever; `apply` gets each new snapshot."""

    def __init__(
        self,
        settings: GatewaySettings,
        session: aiohttp.ClientSession,
        apply: Callable[[GatewaySnapshot], None],
        random: Random,
    ) -> None:
        self._settings = settings
        self._session = session
        self._apply = apply
        self._random = random
        self.failures = 0
        """Polls that failed in a row; 0 while the api answers."""
        self._heard: float | None = None
        self._began = asyncio.get_running_loop().time()

    def stale_seconds(self) -> float:
        """How long the api has been away; 0 while it answers."""
        if not self.failures:
            return 0.0
        last = self._began if self._heard is None else self._heard
        return asyncio.get_running_loop().time() - last

    async def run(self, version: str | None) -> None:
        """Follow from `version` (None: from nothing) until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                snapshot = await self._poll(version)
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                self.failures += 1
                # With a key in the header, only the kind of error is safe to show.
                _log.warning("the api's snapshot is not to be had: %s", type(error).__name__)
                pause = min(0.25 * 2 ** min(self.failures - 1, 10), _LONGEST_PAUSE)
                await asyncio.sleep(pause * self._random.uniform(0.5, 1.0))
                continue
            self.failures = 0
            self._heard = loop.time()
            if snapshot is not None and snapshot.version != version:
                version = snapshot.version
                self._apply(snapshot)
                await self._keep(snapshot)
            else:
                await asyncio.sleep(max(0.0, began + _SHORTEST_PERIOD - loop.time()))

    async def _poll(self, version: str | None) -> GatewaySnapshot | None:
        settings = self._settings
        params = {"wait": f"{settings.snapshot_wait:g}"}
        if version is not None:
            params["after"] = version
        timeout = aiohttp.ClientTimeout(
            total=settings.snapshot_wait + _SLACK, sock_connect=settings.connect_timeout
        )
        key = settings.key_path.read_text(encoding="utf-8").strip()
        async with self._session.get(
            f"{settings.api_url.rstrip('/')}/api/v1/gateway/snapshot",
            params=params,
            headers={"authorization": f"Bearer {key}", "accept-encoding": "identity"},
            timeout=timeout,
            allow_redirects=False,
        ) as response:
            if response.status in (204, 304):
                return None
            if response.status != 200:
                raise aiohttp.ClientError(f"status {response.status}")
            received = bytearray()
            async for piece in response.content.iter_any():
                received += piece
                if len(received) > _LARGEST:
                    raise ValueError(f"the snapshot is larger than {_LARGEST} bytes")
            return GatewaySnapshot.model_validate_json(bytes(received))

    async def _keep(self, snapshot: GatewaySnapshot) -> None:
        try:
            await asyncio.to_thread(write_snapshot, self._settings.snapshot_path, snapshot)
        except OSError as error:
            _log.warning("the snapshot could not be kept on disk: %s", error)
