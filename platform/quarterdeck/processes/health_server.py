"""`/healthz`, `/readyz` and `/metrics` of a process that serves nothing else."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CONTENT_TYPE_LATEST

from quarterdeck.controller.health import Health
from quarterdeck.processes.failures import ProcessFailed

_REQUEST_SECONDS = 5.0


@contextmanager
def served_health(health: Health, host: str, port: int) -> Iterator[int]:
    """Answer on a thread of its own until the block ends; gives the port (0: a free one).

    Raises ProcessFailed when the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = _REQUEST_SECONDS

        def do_GET(self) -> None:
            status, content, media = answer(health, self.path)
            self.send_response(status)
            self.send_header("Content-Type", media)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Probes come every few seconds."""

    try:
        server = ThreadingHTTPServer((host, port), Handler)
    except OSError as error:
        raise ProcessFailed(
            f"{host}:{port} cannot be listened on: {error}: choose another --health-port"
        ) from error
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="health", daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(health: Health, path: str) -> tuple[int, bytes, str]:
    """Status, content and media type of one address."""
    if path == "/metrics":
        return 200, health.render(), CONTENT_TYPE_LATEST
    if path == "/healthz":
        hanging = ", ".join(health.hanging())
        return _said("alive", f"loops hang: {hanging}" if hanging else "")
    if path == "/readyz":
        return _said("ready", health.unready())
    return 404, b'{"status": "not found"}', "application/json"


def _said(word: str, against: str) -> tuple[int, bytes, str]:
    body = {"status": f"not {word}" if against else word, "detail": against}
    return 503 if against else 200, json.dumps(body).encode(), "application/json"
