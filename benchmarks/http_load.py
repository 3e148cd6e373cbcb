"""A client that costs little: raw HTTP/1.1 over kept connections.

`python -m benchmarks.http_load` reads one JSON object from its input and writes one to its output,
so that its own processor time is nobody else's.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from typing import cast

import httptools
import uvloop


class Connection(asyncio.Protocol):
    """Sends one request after the other; `done` is the future of the one under way."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.status = 0
        self.begun: asyncio.Future[None] | None = None
        self._fresh()

    def _fresh(self) -> None:
        self._parser = httptools.HttpResponseParser(self)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError("the connection was closed"))

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        if self.begun is not None and not self.begun.done():
            self.begun.set_result(None)

    def on_message_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._fresh()
        self.done.set_result(None)

    async def ask(self, request: bytes) -> None:
        self.done = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        await self.done
        if self.status != 200:
            raise SystemExit(f"status {self.status}")


async def connect(port: int) -> Connection:
    _, made = await asyncio.get_running_loop().create_connection(Connection, "127.0.0.1", port)
    return made


async def closed(port: int, request: bytes, connections: int, requests: int) -> list[float]:
    """`connections` clients, each asking again when it is answered; no latencies."""
    left = requests

    async def client() -> None:
        nonlocal left
        connection = await connect(port)
        connection.done = asyncio.get_running_loop().create_future()
        while left > 0:
            left -= 1
            await connection.ask(request)
        connection.transport.close()

    await asyncio.gather(*(client() for _ in range(connections)))
    return []


async def paced(port: int, request: bytes, rate: float, requests: int) -> list[float]:
    """Requests at a fixed rate whatever becomes of them; their seconds, from the due moment."""
    idle: list[Connection] = []
    taken: list[float] = []
    loop = asyncio.get_running_loop()

    async def one(due: float) -> None:
        connection = idle.pop() if idle else await connect(port)
        await connection.ask(request)
        taken.append(loop.time() - due)
        idle.append(connection)

    began = loop.time() + 0.1
    tasks = []
    for number in range(requests):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - loop.time()))
        tasks.append(loop.create_task(one(due)))
    await asyncio.gather(*tasks)
    return taken


async def held(port: int, request: bytes, connections: int) -> list[float]:
    """Open so many streams, say so when each has its first event, keep them until input ends."""
    for first in range(0, connections, 100):
        batch = [await connect(port) for _ in range(min(100, connections - first))]
        loop = asyncio.get_running_loop()
        for connection in batch:
            connection.done = loop.create_future()
            connection.begun = loop.create_future()
            connection.transport.write(request)
        await asyncio.gather(*(one.begun for one in batch if one.begun is not None))
    print(json.dumps({"open": connections}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    return []


async def main() -> None:
    order = json.loads(sys.stdin.readline())
    request = order["request"].encode()
    began = time.perf_counter()
    if order["kind"] == "closed":
        taken = await closed(order["port"], request, order["connections"], order["requests"])
    elif order["kind"] == "paced":
        taken = await paced(order["port"], request, order["rate"], order["requests"])
    else:
        taken = await held(order["port"], request, order["connections"])
    seconds = time.perf_counter() - began
    print(json.dumps({"seconds": seconds, "latencies": taken}), flush=True)


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(main())
