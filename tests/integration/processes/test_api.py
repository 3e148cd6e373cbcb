"""The api as it is served: a client that dawdles over its headers is cut off, others are served."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from quarterdeck.api.settings import ApiSettings
from quarterdeck.client.config import read_key
from quarterdeck.processes.api import seed, server_for
from quarterdeck.processes.home import Home, prepare
from quarterdeck.processes.http_server import serve
from quarterdeck.processes.keys import key_files
from quarterdeck.store import migrate
from quarterdeck.store.sessions import Database

HEAD = b"GET /healthz HTTP/1.1\r\nhost: x\r\n"


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """An api under its process's server, with a short deadline and small headers."""
    home = Home(tmp_path / ".quarterdeck")
    prepare(home)
    migrate.upgrade(home.database_url)
    database = Database.open(home.database_url)
    seed(database, key_files({}, home))
    settings = ApiSettings(
        database=database, artifacts_uri=home.artifacts_uri, api_url="http://127.0.0.1",
        master_key=read_key(home.master_key), header_timeout=0.5, max_header=4096,
    )  # fmt: skip
    server = server_for(settings, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the api did not start"
    yield int(server.servers[0].sockets[0].getsockname()[1])
    server.should_exit = True
    thread.join()
    database.close()


def status_of(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def read_all(client: socket.socket) -> bytes:
    received = b""
    while piece := client.recv(65536):
        received += piece
    return received


def test_a_drip_of_header_bytes_is_cut_off_while_others_are_served(port: int) -> None:
    served = []
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(HEAD + b"x-drip: ")
        client.settimeout(0.1)
        closed = False
        until = time.monotonic() + 20
        while not closed and time.monotonic() < until:
            served.append(status_of(port, "/healthz"))
            try:
                client.sendall(b"a")
                closed = client.recv(1024) == b""
            except TimeoutError:
                continue
            except OSError:
                closed = True
    assert closed
    assert set(served) == {200}


@pytest.mark.parametrize(
    ("sent", "status", "name"),
    [
        (b"", 408, "headers_too_slow"),
        (HEAD, 408, "headers_too_slow"),
        (HEAD + b"x-large: " + b"a" * 5000, 431, "headers_too_large"),
    ],
)
def test_the_refusal_is_a_problem_with_its_page(
    port: int, sent: bytes, status: int, name: str
) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(sent)
        head, _, body = read_all(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d" % status)
    assert b"application/problem+json" in head
    said = json.loads(body)
    assert (said["type"], said["status"]) == (f"/problems/{name}", status)
    assert status_of(port, said["type"]) == 200


async def unable(scope: Any, receive: Any, send: Any) -> None:
    """An application whose start fails."""
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})


def test_a_server_that_cannot_start_does_not_end_well() -> None:
    server = uvicorn.Server(uvicorn.Config(unable, port=0, lifespan="on", log_level="critical"))
    with pytest.raises(SystemExit) as ended:
        serve(server)
    assert ended.value.code not in (None, 0)
