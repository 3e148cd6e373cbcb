"""The application under another server than its own, and what its own does with connections."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import uvicorn

from quarterdeck.gateway.app import create_app

BODY = {"model": "chat", "prompt": "hi"}
STREAM = {**BODY, "stream": True}
DONE = b"data: [DONE]\n\n"


@pytest.fixture
def plain(settings: Any, kit: Any) -> Iterator[str]:
    """The address of a gateway under uvicorn as it is."""
    config = uvicorn.Config(create_app(settings), port=0, http="httptools", log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    kit.wait_until(lambda: server.started, "it did not start")
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


def test_another_server_does_too(api: Any, kit: Any, scripted: Any, plain: str) -> None:
    scripts: list[list[Any]] = [
        [kit.whole(b'{"ok": true}')],
        [kit.STREAM_HEAD, kit.chunk(kit.text_event("a")), 0.05, kit.chunk(DONE), kit.chunk(b"")],
        [kit.STREAM_HEAD, kit.chunk(kit.text_event("a")), 0.05, kit.RESET],
        [kit.HANG],
    ]
    replica = scripted("run-1", lambda n: scripts[n])
    api.publish(kit.route("chat", replica.endpoint()))
    headers = {"authorization": f"Bearer {kit.USER_KEY}"}
    with httpx.Client(base_url=plain, headers=headers, timeout=20) as client:
        kit.wait_until(lambda: "chat" in client.get("/v1/models").text, "no snapshot")
        whole = client.post("/v1/completions", json=BODY, headers={"x-request-id": "mine"})
        assert whole.json() == {"ok": True} and whole.headers["x-request-id"] == "mine"
        stream = client.post("/v1/completions", json={**BODY, "stream": True})
        assert stream.content == kit.text_event("a") + DONE
        broken = client.post("/v1/completions", json={**BODY, "stream": True})
        assert b"stream_broken" in broken.content
    with httpx.Client(base_url=plain, headers=headers, timeout=0.5) as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/completions", json=BODY)
    kit.wait_until(lambda: replica.left == 1, "the replica goes on for nobody")


def test_an_idle_connection_ends_so_long_after_its_last_answer(gateways: Any) -> None:
    gateway = gateways(keep_alive_timeout=1.0)
    ask = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as client:
        for _ in range(4):
            client.sendall(ask)
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
            last = time.monotonic()
            time.sleep(0.6)
        assert client.recv(65536) == b""
        assert 0.9 < time.monotonic() - last < 3


def test_answers_are_not_heaped_up_for_who_asks_on_and_reads_nothing(
    api: Any, gateways: Any, kit: Any, scripted: Any
) -> None:
    replica = scripted("run-1", lambda n: [kit.whole(b'"' + b"a" * 1_000_000 + b'"')])
    api.publish(kit.route("chat", replica.endpoint()))
    gateway = gateways()
    gateway.wait_for("chat")
    body = json.dumps(BODY).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {kit.USER_KEY}\r\n"
    one = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        client.settimeout(20)
        client.connect(("127.0.0.1", gateway.port))
        client.sendall(one * 100)
        time.sleep(2)
        asked = len(replica.requests)
        assert 1 <= asked < 20, "what kernels buffer, and one answer more"
        received, wanted = 0, 100 * 1_000_000
        while received < wanted:
            received += len(client.recv(2**20))
    assert len(replica.requests) == 100


def test_a_client_that_reads_slowly_gets_all_of_a_long_stream(
    api: Any, gateways: Any, scripted: Any, kit: Any
) -> None:
    """Its replica waits meanwhile, and the connection to it is good for the next request."""
    events = b"".join(kit.text_event(f"{n} " + "x" * 1000) for n in range(12_000)) + DONE

    def script(n: int) -> Any:
        yield kit.STREAM_HEAD
        for start in range(0, len(events), 50_000):
            yield kit.chunk(events[start : start + 50_000])
        yield kit.chunk(b"")

    replica = scripted("run-1", script)
    api.publish(kit.route("chat", replica.endpoint()))
    gateway = gateways()
    gateway.wait_for("chat")
    body = json.dumps(STREAM).encode()
    head = f"POST /v1/completions HTTP/1.0\r\nauthorization: Bearer {kit.USER_KEY}\r\n"
    for _ in range(2):
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            client.settimeout(30)
            client.connect(("127.0.0.1", gateway.port))
            client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            received = bytearray(client.recv(100))
            time.sleep(0.5)  # everything between the two is full
            while piece := client.recv(2**20):
                received += piece
        answer, got = bytes(received), b""
        rest = answer[answer.index(b"\r\n\r\n") + 4 :]
        while (size := int(rest[: rest.index(b"\r\n")], 16)) > 0:
            start = rest.index(b"\r\n") + 2
            got, rest = got + rest[start : start + size], rest[start + size + 2 :]
        assert got == events


def test_pipelined_requests_are_answered_in_order_and_left_together(
    api: Any, gateways: Any, scripted: Any, kit: Any
) -> None:
    replica = scripted("run-1", lambda n: [kit.HANG] if n == 2 else [kit.whole(b"%d" % n)])
    api.publish(kit.route("chat", replica.endpoint()))
    gateway = gateways()
    gateway.wait_for("chat")
    body = json.dumps(BODY).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {kit.USER_KEY}\r\n"
    one = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as client:
        client.sendall(one * 4)
        received = b""
        while received.count(b"HTTP/1.1 200") < 2 or not received.endswith(b"1"):
            received += client.recv(65536)
        assert received.index(b"\r\n\r\n0") < received.index(b"\r\n\r\n1")
        kit.wait_until(lambda: len(replica.requests) == 3, "the third was not asked")
    kit.wait_until(lambda: replica.left == 1, "the third goes on for nobody")
    time.sleep(0.2)
    assert len(replica.requests) == 3, "the fourth was asked for nobody"
