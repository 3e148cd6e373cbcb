"""The least that a proxy in Python can be: bytes from one socket to another, nothing is read.

`python -m benchmarks.bare_proxy PORT ENGINE` gives every client connection one to the engine and
passes on what comes, on uvloop. What it costs is the floor under any gateway in Python: no
parsing, no keys, no routing, no bounds.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop


class Upstream(asyncio.Protocol):
    """The engine's side of a connection."""

    def __init__(self, client: asyncio.Transport) -> None:
        self._client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._client.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self._client.close()


class Downstream(asyncio.Protocol):
    """The client's side of a connection."""

    def __init__(self, engine: int) -> None:
        self._engine = engine
        self._early = b""
        self._upstream: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._task = asyncio.get_running_loop().create_task(self._connect(transport))

    async def _connect(self, client) -> None:
        loop = asyncio.get_running_loop()
        self._upstream, _ = await loop.create_connection(
            lambda: Upstream(client), "127.0.0.1", self._engine
        )
        self._upstream.write(self._early)

    def data_received(self, data: bytes) -> None:
        if self._upstream is None:
            self._early += data
        else:
            self._upstream.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        if self._upstream is not None:
            self._upstream.close()


async def main(port: int, engine: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Downstream(engine), "127.0.0.1", port, backlog=8192)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2])))
