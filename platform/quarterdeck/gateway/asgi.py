"""The little of ASGI that the gateway needs: requests with bounds, plain answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import Any

from quarterdeck.gateway.errors import ApiError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]


class ClientGone(Exception):
    """The client left before it had its answer."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """The first header of that (lower-case) name."""
    return next((value for key, value in scope["headers"] if key == name), None)


async def read_body(
    scope: Scope, receive: Receive, limit: int, timeout: float, grow: Callable[[int], None]
) -> bytes:
    """The whole body; `grow` hears of each piece's size before it is kept, and may raise.

    Raises ApiError 413 beyond `limit` bytes and 408 when it takes longer than `timeout` seconds,
    ClientGone when the client leaves."""
    too_large = ApiError(
        413, f"the body is larger than {limit} bytes", code="body_too_large", close=True
    )
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > limit:
        raise too_large
    received = bytearray()
    try:
        async with asyncio.timeout(timeout):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                piece = message.get("body", b"")
                if len(received) + len(piece) > limit:
                    raise too_large
                grow(len(piece))
                received += piece
                if not message.get("more_body", False):
                    return bytes(received)
    except TimeoutError:
        raise ApiError(
            408, f"the body was not complete after {timeout:g} s", code="body_timeout", close=True
        ) from None


async def discard_body(receive: Receive, most: int, timeout: float) -> None:
    """Read and forget the rest of a body, `most` bytes and `timeout` seconds at most: closing a
    connection with unread data resets it, and the client might never see why it was refused."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            while most > 0 and (message := await receive()).get("more_body", False):
                most -= len(message["body"])


async def until_gone(receive: Receive) -> None:
    """Returns when the client has left; to be called once the body is read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def answer(
    send: Send,
    status: int,
    body: bytes,
    content_type: str,
    extra: Iterable[tuple[bytes, bytes]],
    *,
    more: bool = False,
) -> None:
    """A whole answer at once; with `more` its end is still to be sent."""
    headers: Headers = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
        *extra,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def answer_json(
    send: Send, status: int, content: object, extra: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """A whole answer as JSON."""
    await answer(send, status, json.dumps(content).encode(), "application/json", extra)
