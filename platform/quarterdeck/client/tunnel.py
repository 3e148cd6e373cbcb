"""A user's end of a tunnel into a run, and the connection that both ends use.

Both are WebSockets to the api, opened outwards; see quarterdeck.client.mux for what they carry.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Literal
from urllib.parse import quote, urlencode

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from quarterdeck.client.errors import QuarterdeckError, Unreachable, error_from
from quarterdeck.client.frames import BadFrame
from quarterdeck.client.mux import Mux, Stream
from quarterdeck.client.transport import API

OPEN_SECONDS = 15.0
PING_SECONDS = 20.0
_LARGEST = 64 * 2**10
_QUEUED = 4
"""Messages held between the network and the streams."""


@asynccontextmanager
async def connected(
    url: str, path: str, bearer: str, first: int, accept: Callable[[Stream], None] | None = None
) -> AsyncIterator[Mux]:
    """A tunnel's end at `url`/`path`. Raises QuarterdeckError subclasses when it is refused."""
    try:
        socket = await connect(
            _websocket(url) + path,
            additional_headers={"Authorization": f"Bearer {bearer}"},
            open_timeout=OPEN_SECONDS, ping_interval=PING_SECONDS, ping_timeout=PING_SECONDS,
            max_size=_LARGEST, max_queue=_QUEUED, compression=None, proxy=None,
        )  # fmt: skip
    except InvalidStatus as refused:
        answer = refused.response
        raise error_from(
            httpx.Response(
                answer.status_code, content=bytes(answer.body or b""),
                request=httpx.Request("GET", url + path),
            )
        ) from refused  # fmt: skip
    except (OSError, TimeoutError, WebSocketException) as error:
        why = str(error) or type(error).__name__
        raise Unreachable(f"{url} does not answer: {why}") from error
    async with socket:
        mux = Mux(socket.send, first, accept)
        serving = asyncio.create_task(_serve(mux, socket))
        try:
            yield mux
        finally:
            serving.cancel()
            with suppress(asyncio.CancelledError):
                await serving


async def _serve(mux: Mux, socket: ClientConnection) -> None:
    with suppress(BadFrame, ConnectionClosed):
        await mux.serve(_messages(mux, socket))
    await socket.close()


async def _messages(mux: Mux, socket: ClientConnection) -> AsyncIterator[bytes | str]:
    try:
        while True:
            yield await socket.recv()
    except ConnectionClosed as gone:
        mux.end((gone.rcvd and gone.rcvd.reason) or "the connection to the api was lost")


@asynccontextmanager
async def tunnel(
    url: str,
    key: str | None,
    subject: str,
    kind: Literal["exec", "attach", "forward"],
    *,
    rank: int = 0,
    project: str = "default",
    accept: Callable[[Stream], None] | None = None,
) -> AsyncIterator[Mux]:
    """A tunnel to a rank of `job/NAME` or `service/NAME`; `accept` gets the streams that the
    rank's side opens. Raises QuarterdeckError subclasses."""
    noun, _, name = subject.partition("/")
    if noun not in ("job", "service") or not name:
        raise QuarterdeckError(f"{subject!r}: write job/NAME or service/NAME")
    query = urlencode({"kind": kind, "rank": rank, "project": project})
    path = f"{API}/{noun}s/{quote(name, safe='')}/tunnel?{query}"
    async with connected(url, path, key or "", 1, accept) as mux:
        yield mux


def _websocket(url: str) -> str:
    scheme, _, rest = url.rstrip("/").partition("://")
    return f"{'wss' if scheme == 'https' else 'ws'}://{rest}"
