"""An engine that speaks OpenAI's completions, and misbehaves when it is told to.

`python -m benchmarks.naughty_engine --port P --mood FILE`. The file names a port (or 0: all), a
mood and until when: `5xx`, `garbage` (no HTTP), `close` (hangs up after the head), `trickle` (a
byte a second). Its `/health` always says that all is well.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path

import httptools

TOKENS = 20
TOKEN_SECONDS = 0.01
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Request:
    """What httptools tells of one request."""

    def __init__(self) -> None:
        self.url, self.body, self.whole = b"", b"", False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.whole = True


class Engine:
    """Answers; counts the tokens that it made."""

    def __init__(self, port: int, mood: Path) -> None:
        self._port = port
        self._file = mood
        self._tokens = 0

    def mood(self) -> str:
        """How it behaves now."""
        try:
            told = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return ""
        mine = told.get("port") in (0, self._port) and time.time() < told["until"]
        return str(told["mood"]) if mine else ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, httptools.HttpParserError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        request = Request()
        parser = httptools.HttpRequestParser(request)
        while not request.whole:
            data = await reader.read(65536)
            if not data:
                return False
            parser.feed_data(data)
        if parser.get_method() == b"GET":
            told = b"quarterdeck_engine_generated_tokens_total %d\n" % self._tokens
            self._whole(writer, told if request.url == b"/metrics" else b"{}")
            return True
        asked = json.loads(request.body)
        mood = self.mood()
        if mood == "5xx":
            self._whole(writer, b'{"error": {"message": "a mood"}}', b"500 Internal Server Error")
        elif mood == "garbage":
            writer.write(b"\x00\xff garbage \r\n\r\n" * 50)
            return False
        elif mood == "close":
            writer.write(STREAM)
            await writer.drain()
            return False
        elif mood == "trickle":
            for byte in STREAM:
                writer.write(bytes([byte]))
                await asyncio.sleep(1.0)
            return False
        elif asked.get("stream"):
            await self._stream(writer)
        else:
            await asyncio.sleep(TOKENS * TOKEN_SECONDS)
            self._tokens += TOKENS
            self._whole(writer, json.dumps(self._completion(" token" * TOKENS)).encode())
        await writer.drain()
        return True

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)
        for _ in range(TOKENS):
            await asyncio.sleep(TOKEN_SECONDS)
            self._tokens += 1
            self._chunk(writer, b"data: " + json.dumps(self._completion(" token")).encode())
            await writer.drain()
        self._chunk(writer, b"data: [DONE]")
        writer.write(b"0\r\n\r\n")

    def _chunk(self, writer: asyncio.StreamWriter, line: bytes) -> None:
        writer.write(b"%x\r\n%b\n\n\r\n" % (len(line) + 2, line))

    def _whole(self, writer: asyncio.StreamWriter, body: bytes, status: bytes = b"200 OK") -> None:
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % (status, len(body)) + body)

    def _completion(self, text: str) -> dict:
        choice = {"index": 0, "text": text, "finish_reason": None, "logprobs": None}
        return {
            "id": "c", "object": "text_completion", "created": 1, "model": "m",
            "choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": TOKENS},
        }  # fmt: skip


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--mood", type=Path, required=True)
    options = parser.parse_args()
    engine = Engine(options.port, options.mood)
    server = await asyncio.start_server(engine.serve, options.host, options.port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
