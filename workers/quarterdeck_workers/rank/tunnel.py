"""The rank's end of a tunnel: a process beside the rank, in its environment.

It connects outwards to the api, then runs programs, passes the rank's output on, or connects to
ports of this machine, whatever the tunnel was opened for. Its watcher ends it with the run, and
everything that it started.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from quarterdeck.client.errors import NotFound, QuarterdeckError
from quarterdeck.client.mux import Stream, TunnelClosed
from quarterdeck.client.transport import API
from quarterdeck.client.tunnel import connected
from quarterdeck_workers.rank.context import RankContext
from quarterdeck_workers.rank.programs import run_program

SETTINGS = "QUARTERDECK_TUNNEL"
"""Variable with the path of a JSON file: api_url, cluster, tunnel_id, token, kind, output."""
_FIND_SECONDS = 10.0
"""Several replicas of the api may share an address; only one holds the user's end."""
_RETRY_SECONDS = 0.1
_CONNECT_SECONDS = 10.0
_CHUNK = 32 * 2**10


def main(context: RankContext) -> None:
    """Serve one tunnel until its user leaves."""
    file = Path(os.environ.pop(SETTINGS))
    settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    file.unlink()
    asyncio.run(_serve(settings))


async def _serve(settings: dict[str, Any]) -> None:
    path = f"{API}/agents/{settings['cluster']}/tunnels/{settings['tunnel_id']}"
    server = Server(settings["kind"], settings.get("output", ""))
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _FIND_SECONDS
    while loop.time() < deadline:
        try:
            async with connected(
                settings["api_url"], path, settings["token"], first=2, accept=server.accept
            ) as mux:
                await mux.over()
            return
        except NotFound:
            await asyncio.sleep(_RETRY_SECONDS)
        except QuarterdeckError:
            return


class Server:
    """Serves the streams that the user opens, all of one `kind`. `output` is the socket on which
    the rank's output comes, for `attach`."""

    def __init__(self, kind: str, output: str = "") -> None:
        handlers: dict[str, Callable[[Stream], Awaitable[None]]] = {
            "exec": run_program,
            "attach": self._attach,
            "forward": _forward,
        }
        self._handler = handlers[kind]
        self._output = output
        self._tasks: set[asyncio.Task[None]] = set()

    def accept(self, stream: Stream) -> None:
        """A stream was opened."""
        task = asyncio.create_task(self._handle(stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, stream: Stream) -> None:
        with suppress(TunnelClosed):
            try:
                await self._handler(stream)
            except (OSError, ValueError, KeyError, TypeError) as error:
                await stream.close(error=f"{type(error).__name__}: {error}")

    async def _attach(self, stream: Stream) -> None:
        output = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        output.setblocking(False)
        loop = asyncio.get_running_loop()
        with output:
            await loop.sock_connect(output, self._output)
            while data := await loop.sock_recv(output, _CHUNK):
                await stream.write(data)
        await stream.close()


async def _forward(stream: Stream) -> None:
    port = int(stream.wanted["port"])
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError) as error:
        await stream.close(error=f"port {port} of the rank's machine: {error}")
        return
    try:
        await stream.carry(reader, writer)
    finally:
        writer.close()
        await stream.close()
