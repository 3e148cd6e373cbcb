"""A server that is away, slow, breaks off or says "not now": retries, reconnections, budgets."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from quarterdeck.client import Client, QuarterdeckError, ServerFailure, Unreachable
from quarterdeck.client.streams import follow
from quarterdeck.client.transport import Transport
from quarterdeck.specs.resources import Event, Key

KEY = {
    "id": "key-1", "name": "ada", "access": "admin", "prefix": "qd_x",
    "created_at": "2026-01-01T00:00:00Z",
}  # fmt: skip
EVENT = {
    "type": "job.phase", "subject": "job/a", "subject_id": "job-1", "project": "default",
    "message": "m", "at": "2026-01-01T00:00:00Z",
}  # fmt: skip
Answer = Callable[[BaseHTTPRequestHandler, int], None]


@contextmanager
def serving(answer: Answer) -> Iterator[tuple[str, list[BaseHTTPRequestHandler]]]:
    """A real server; `answer` gets the handler and how many requests came before."""
    seen: list[BaseHTTPRequestHandler] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self)
            answer(self, len(seen) - 1)

        do_POST = do_GET

        def log_message(self, *arguments: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def reply(handler: BaseHTTPRequestHandler, status: int, body: Any) -> None:
    content = json.dumps(body).encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def send_events(handler: BaseHTTPRequestHandler, *ids: int, end: bool = False) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.end_headers()
    for number in ids:
        data = json.dumps({**EVENT, "id": number})
        handler.wfile.write(f": hello\nid: {number}\ndata: {data}\n\n".encode())
    if end:
        handler.wfile.write(b"event: end\ndata: {}\n\n")


def test_reading_survives_passing_failures() -> None:
    def answer(handler: BaseHTTPRequestHandler, before: int) -> None:
        if before < 2:
            reply(handler, 503, {})
        elif before == 2:
            handler.connection.shutdown(socket.SHUT_RDWR)
        else:
            reply(handler, 200, KEY)

    with serving(answer) as (url, seen), Client(url, "qd_k") as client:
        assert client.whoami().name == "ada"
        assert len(seen) == 4
        assert seen[-1].headers["Authorization"] == "Bearer qd_k"


def test_a_change_that_may_have_happened_is_not_repeated() -> None:
    def answer(handler: BaseHTTPRequestHandler, before: int) -> None:
        handler.connection.shutdown(socket.SHUT_RDWR)

    with serving(answer) as (url, seen), Client(url) as client:
        with pytest.raises(Unreachable):
            client.jobs.retry("a")
        assert len(seen) == 1


def test_one_operation_is_one_idempotency_key_over_all_attempts() -> None:
    def answer(handler: BaseHTTPRequestHandler, before: int) -> None:
        if before < 2:
            handler.connection.shutdown(socket.SHUT_RDWR)
        else:
            reply(handler, 422, {"type": "/problems/x", "title": "t", "status": 422, "detail": "d"})

    with serving(answer) as (url, seen), Client(url) as client:
        with pytest.raises(QuarterdeckError, match="d"):
            client.submit({"kind": "command", "name": "a", "command": "x"})
        keys = {handler.headers["Idempotency-Key"] for handler in seen}
        assert len(seen) == 3 and len(keys) == 1 and None not in keys


def test_the_budget_of_retries_ends() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    now = [0.0]
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    transport = Transport(url, None, retry_seconds=10, clock=lambda: now[0], sleep=sleep)
    with pytest.raises(Unreachable, match="does not answer"):
        transport.get(Key, "/api/v1/whoami")
    transport.close()
    assert 5 < sum(pauses) <= 10
    assert max(pauses) <= 2


def test_a_silent_server_is_unreachable() -> None:
    release = threading.Event()
    with serving(lambda handler, before: (release.wait(20), None)[1]) as (url, _):
        with Client(url, timeout=0.2, retry_seconds=0) as client, pytest.raises(Unreachable):
            client.whoami()
        release.set()


def test_failures_of_the_server_are_said_without_its_page() -> None:
    def answer(handler: BaseHTTPRequestHandler, before: int) -> None:
        handler.send_response(500)
        handler.end_headers()
        handler.wfile.write(b"<html>secret stack</html>")

    with serving(answer) as (url, _), Client(url) as client:
        with pytest.raises(ServerFailure) as caught:
            client.whoami()
    assert str(caught.value) == "/api/v1/whoami answered 500"


def test_another_program_at_the_address_is_noticed() -> None:
    with serving(lambda handler, before: reply(handler, 200, {"hello": 1})) as (url, _):
        with Client(url) as client, pytest.raises(QuarterdeckError, match="is this address"):
            client.whoami()


def test_a_stream_goes_on_after_the_last_event() -> None:
    def answer(handler: BaseHTTPRequestHandler, before: int) -> None:
        if before == 0:
            send_events(handler, 1, 2)  # and the connection ends
        elif before == 1:
            reply(handler, 503, {})
        else:
            send_events(handler, 3, end=True)

    reasons: list[str] = []
    with serving(answer) as (url, seen), Client(url) as client:
        events = list(client.follow_events(on_reconnect=reasons.append))
        assert [event.id for event in events] == [1, 2, 3]
        assert [handler.headers["Last-Event-ID"] for handler in seen] == [None, "2", "2"]
    assert len(reasons) == 2


def test_a_stream_that_breaks_off_after_the_job_has_ended_goes_on() -> None:
    def answer(handler: BaseHTTPRequestHandler, before: int) -> None:
        if before < 2:
            send_events(handler, before + 1)  # the api was restarted in the middle
        else:
            send_events(handler)  # silent: nothing will come any more

    with serving(answer) as (url, seen), Client(url, "qd_k") as client:
        found = follow(client.transport, "/x", Event, {}, 5.0, finished=lambda: True)
        assert [event.id for event in found] == [1, 2]
        assert [each.headers.get("Last-Event-ID") for each in seen] == [None, "1", "2"]


def test_a_stream_that_never_comes_back_is_given_up() -> None:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    with serving(lambda handler, before: reply(handler, 503, {})) as (url, seen):
        with Client(url) as client:
            client.transport.clock, client.transport.sleep = lambda: now[0], sleep
            with pytest.raises(ServerFailure):
                list(client.follow_events())
        assert 100 < now[0] <= 120
        assert len(seen) > 50


def test_keys_stay_out_of_messages(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with serving(lambda handler, before: reply(handler, 500, {})) as (url, _):
        with Client(url, "qd_very-secret") as client, pytest.raises(ServerFailure) as caught:
            client.whoami()
    assert "very-secret" not in str(caught.value) + repr(client.__dict__) + caplog.text
