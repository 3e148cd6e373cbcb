"""A corked transport over real sockets: what is written together, and what nobody takes."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

import pytest

from quarterdeck.gateway.corked import Corked


class Lost(asyncio.Protocol):
    def __init__(self) -> None:
        self.lost = asyncio.get_running_loop().create_future()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set_result(error)


async def corked(mine: socket.socket, patience: float) -> tuple[Corked, Lost]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_connection(Lost, sock=mine)
    return Corked(cast(asyncio.Transport, transport), loop, patience), cast(Lost, protocol)


@pytest.mark.parametrize("size", [1000, 1_000_000])
async def test_what_a_client_leaves_behind_is_thrown_away_after_the_close(size: int) -> None:
    mine, theirs = socket.socketpair()
    with theirs:
        mine.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        transport, protocol = await corked(mine, patience=0.2)
        transport.write(b"x" * size)
        transport.close()
        await asyncio.wait_for(protocol.lost, 20)  # without a byte read at the other end


async def test_what_was_written_arrives_before_the_close() -> None:
    mine, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        transport, protocol = await corked(mine, patience=20)
        transport.write(b"head ")
        transport.write(b"body " * 100_000)
        transport.close()
        received = b""
        while piece := await asyncio.get_running_loop().sock_recv(theirs, 65536):
            received += piece
        assert received == b"head " + b"body " * 100_000
        await protocol.lost
