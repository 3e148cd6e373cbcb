"""The least that proxies in Python can be: the floors under any gateway in Python.

`python -m benchmarks.bare_proxy bytes PORT ENGINE` gives every client connection one to the engine
and passes on what comes, on uvloop: nothing is read. `... asgi PORT ENGINE` is a plain ASGI app on
uvicorn that passes whole answers on over kept connections, and reads of them only where they end:
no keys, no routing, no bounds, no metrics.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, cast

import httptools
import uvicorn
import uvloop

Message = MutableMapping[str, Any]


class Upstream(asyncio.Protocol):
    """The engine's side of a client's connection."""

    def __init__(self, client: asyncio.Transport) -> None:
        self._client = client

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


class Exchange(asyncio.Protocol):
    """A kept connection to the engine that carries one request after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)
        self.answer: asyncio.Future[bytes] | None = None

    def ask(self, data: bytes) -> asyncio.Future[bytes]:
        self._body = b""
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(data)
        return self.answer

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        assert self.answer is not None
        self.answer.set_result(self._body)


class App:
    """The ASGI app."""

    def __init__(self, engine: int) -> None:
        self._engine = engine
        self._kept: list[Exchange] = []

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if self._kept:
            engine = self._kept.pop()
        else:
            _, engine = await asyncio.get_running_loop().create_connection(
                Exchange, "127.0.0.1", self._engine
            )
        head = b"POST /v1/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n" % len(body)
        answer = await engine.ask(head + body)
        self._kept.append(engine)
        length = b"%d" % len(answer)
        headers = [(b"content-type", b"application/json"), (b"content-length", length)]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


async def pass_bytes(port: int, engine: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Downstream(engine), "127.0.0.1", port, backlog=8192)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    kind, port, engine = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    if kind == "bytes":
        uvloop.run(pass_bytes(port, engine))
    else:
        uvicorn.run(App(engine), host="127.0.0.1", port=port, access_log=False, log_level="warning")
