"""The client of one request, as the gateway's parts see it: the server's own object where the
server is ours (`cycle.Cycle`), else a plain one over ASGI."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol

from quarterdeck.gateway.asgi import ClientGone, Headers, Message, Receive, Scope, Send, until_gone
from quarterdeck.gateway.cycle import EXTENSION, Cycle


class Client(Protocol):
    """`extra` headers go out with the answer's own; `response_started`: its head has."""

    extra: Headers
    response_started: bool

    async def send(self, message: Message) -> None:
        """As ASGI's."""

    def whole_body(self, most: int) -> bytes | None:
        """The request's body, if all of it is here and no more than `most` bytes; then it is not
        to be received any more."""

    def watch(self, work: Coroutine[Any, Any, int]) -> Coroutine[Any, Any, int]:
        """The result of the work, unless the client leaves: then it is cancelled, and so is the
        request's task or ClientGone raised. To be called once the body is read."""


def client_of(scope: Scope, receive: Receive, send: Send) -> Client:
    """The client of a request."""
    extensions = scope.get("extensions")
    ours = extensions.get(EXTENSION) if extensions else None
    return ours if isinstance(ours, Cycle) else _Foreign(receive, send)


class _Foreign:
    """Under another server: a second task waits for the client's leaving."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.extra: Headers = []
        self.response_started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.response_started = True
            message["headers"] = [*message["headers"], *self.extra]
        await self._send(message)

    def whole_body(self, most: int) -> bytes | None:
        return None

    async def watch(self, work: Coroutine[Any, Any, int]) -> int:
        serving = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(until_gone(self._receive))
        try:
            await asyncio.wait({serving, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                return serving.result()
            raise ClientGone
        finally:
            leaving.cancel()
            serving.cancel()
            await asyncio.gather(serving, leaving, return_exceptions=True)
