"""A stand-in for engines that costs next to nothing: whole answers, and streams of events.

`python -m benchmarks.echo_engine PORT GATEWAY_FILE` serves it; a GET is answered as the api answers
gateways, with the snapshot in that file, and held as long as nothing is new.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs, urlsplit

import httptools
import uvloop

EVENTS = 200
EVENT_SECONDS = 0.002
ANSWER = json.dumps(
    {"choices": [{"text": "x" * 200}], "usage": {"prompt_tokens": 9, "completion_tokens": 50}}
).encode()
EVENT = b"data: " + json.dumps({"choices": [{"text": " token"}]}).encode() + b"\n\n"
DONE = b"data: [DONE]\n\n"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Engine(asyncio.Protocol):
    """One connection."""

    def __init__(self, snapshot: Path) -> None:
        self._snapshot = snapshot
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpRequestParser(self)
        self._url, self._body = b"", b""

    def connection_lost(self, error: Exception | None) -> None:
        for task in self._tasks:
            task.cancel()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        url, body = self._url.decode(), self._body
        self._url, self._body = b"", b""
        if self._parser.get_method() == b"GET":
            self._start(self._tell(url))
        elif b'"stream": true' in body:
            hold = b'"hold": true' in body
            self._start(self._stream(hold))
        else:
            self._answer(ANSWER)

    def _start(self, work) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _answer(self, body: bytes) -> None:
        self._transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
            % (len(body), body)
        )

    async def _tell(self, url: str) -> None:
        query = parse_qs(urlsplit(url).query)
        body = self._snapshot.read_bytes()
        if query.get("after", [""])[0] == json.loads(body)["version"]:
            await asyncio.sleep(float(query["wait"][0]))
        self._answer(body)

    async def _stream(self, hold: bool) -> None:
        self._transport.write(HEAD + chunk(EVENT))
        if hold:
            await asyncio.sleep(3600)
        for _ in range(EVENTS - 2):
            await asyncio.sleep(EVENT_SECONDS)
            self._transport.write(chunk(EVENT))
        self._transport.write(chunk(DONE) + b"0\r\n\r\n")


async def main(port: int, snapshot: Path) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Engine(snapshot), "127.0.0.1", port, backlog=8192)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), Path(sys.argv[2])))
