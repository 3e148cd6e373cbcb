"""A folder on HTTP as an object store serves it: ranges, and a count of what went out."""

from __future__ import annotations

import re
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

_PIECE = 64 * 1024


class WeightsServer:
    """Serves `folder` at `uri` while the block runs.

    `sent` counts the bytes of bodies. After `hold_after` of them (None: never) every answer waits
    until `go_on` is set.
    """

    def __init__(self, folder: Path, hold_after: int | None = None) -> None:
        self.folder = folder
        self.sent = 0
        self.hold_after = hold_after
        self.held = threading.Event()
        self.go_on = threading.Event()
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(body=False)

            def do_GET(self) -> None:
                self._answer(body=True)

            def log_message(self, *_: object) -> None:
                pass

            def _answer(self, *, body: bool) -> None:
                with suppress(ConnectionError):  # a client that was killed
                    self._send(body=body)

            def _send(self, *, body: bool) -> None:
                file = outer.folder / self.path.removeprefix("/model/")
                if not file.is_file():
                    self.send_response(404)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                size = file.stat().st_size
                asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                first = int(asked[1]) if asked else 0
                last = min(int(asked[2]), size - 1) if asked and asked[2] else size - 1
                self.send_response(206 if asked else 200)
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("Content-Length", str(last - first + 1))
                if asked:
                    self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
                self.end_headers()
                if body:
                    with file.open("rb") as stream:
                        stream.seek(first)
                        left = last - first + 1
                        while left:
                            piece = stream.read(min(_PIECE, left))
                            left -= len(piece)
                            outer.count(len(piece))
                            self.wfile.write(piece)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}/model"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def count(self, size: int) -> None:
        """Note bytes that are about to go out, or wait with them."""
        with self._lock:
            self.sent += size
            hold = self.hold_after is not None and self.sent > self.hold_after
        if hold and not self.go_on.is_set():
            self.held.set()
            self.go_on.wait(120)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
