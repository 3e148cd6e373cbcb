"""Keys, names, readiness, the snapshot, and the bounds that keep bad clients out."""

from __future__ import annotations

import json
import socket
import stat
import time
from contextlib import suppress
from typing import Any

import httpx
import openai
import pytest

from quarterdeck.specs.gateway_snapshot import ServedAlias

BODY = {"model": "chat", "prompt": "hi"}


def error_of(answer: httpx.Response) -> dict[str, Any]:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)


@pytest.fixture
def replica(scripted: Any, kit: Any) -> Any:
    return scripted("run-1", lambda n: [kit.whole(b'{"ok": true}')])


def test_keys_are_checked(api: Any, gateways: Any, kit: Any, replica: Any) -> None:
    api.publish(kit.route("chat", replica.endpoint()))
    gateway = gateways()
    gateway.wait_for("chat")
    with httpx.Client(base_url=gateway.url) as client:
        for headers in ({}, {"authorization": "Basic x"}, {"authorization": "Bearer qd_wrong"}):
            answer = client.post("/v1/completions", json=BODY, headers=headers)
            assert answer.status_code == 401
            assert error_of(answer)["code"] == "invalid_api_key"
            assert client.get("/v1/models", headers=headers).status_code == 401
    with gateway.client(kit.AGENT_KEY) as client:
        assert client.post("/v1/completions", json=BODY).status_code == 403
    with gateway.client() as client:
        assert client.post("/v1/completions", json=BODY).json() == {"ok": True}
    api.publish(kit.route("chat", replica.endpoint()), keys=kit.KEYS[1:])
    with gateway.client() as client:
        kit.wait_until(
            lambda: client.post("/v1/completions", json=BODY).status_code == 401,
            "a revoked key went on working",
        )
    assert len(replica.requests) >= 1


def test_a_key_sees_the_services_of_its_project(
    api: Any, gateways: Any, kit: Any, replica: Any
) -> None:
    api.publish(
        kit.route("chat", replica.endpoint()),
        kit.route("chat", replica.endpoint(), project="other"),
        kit.route("hidden", replica.endpoint(), project="other"),
    )
    gateway = gateways()
    gateway.wait_for("default/chat", "other/chat", "hidden")
    with gateway.client() as client:
        assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["chat"]
        for name in ("hidden", "other/hidden", "nothing"):
            missing = client.post("/v1/completions", json={**BODY, "model": name})
            assert missing.status_code == 404
            error = error_of(missing)
            assert error["code"] == "model_not_found"
            assert error["message"].endswith("Models you can use: chat")
        assert client.get("/v1/models/chat").json()["owned_by"] == "default"
        assert client.get("/v1/models/hidden").status_code == 404
    with gateway.client(kit.ALL_KEY) as client:
        ambiguous = client.post("/v1/completions", json=BODY)
        assert ambiguous.status_code == 400
        assert "default/chat, other/chat" in error_of(ambiguous)["message"]
        named = client.post("/v1/completions", json={**BODY, "model": "other/chat"})
        assert named.status_code == 200
        assert json.loads(replica.requests[-1][2])["model"] == "chat"
        assert client.get("/v1/models/other/chat").json()["id"] == "other/chat"


def test_only_ready_replicas_that_are_not_drained_take_traffic(
    api: Any, gateways: Any, kit: Any, replica: Any
) -> None:
    api.publish(kit.route("chat", replica.endpoint(ready=False)))
    gateway = gateways()
    gateway.wait_for("chat")
    with gateway.client() as client:
        for endpoints, words in (
            ([replica.endpoint(ready=False)], "none of 1 replicas is ready"),
            ([replica.endpoint(draining=True)], "being stopped"),
            ([], "has no replica"),
        ):
            api.publish(kit.route("chat", *endpoints))
            kit.wait_until(
                lambda words=words: (
                    words in client.post("/v1/completions", json=BODY).json()["error"]["message"]
                ),
                f"never {words!r}",
            )
            answer = client.post("/v1/completions", json=BODY)
            assert answer.status_code == 503
            assert error_of(answer)["code"] == "no_ready_replica"
            assert int(answer.headers["retry-after"]) >= 1
        assert not replica.requests
        api.publish(kit.route("chat", replica.endpoint()))
        kit.wait_until(
            lambda: client.post("/v1/completions", json=BODY).status_code == 200, "never ready"
        )


def test_it_starts_from_the_last_snapshot_when_the_api_is_away(
    api: Any, gateways: Any, kit: Any, replica: Any, settings: Any
) -> None:
    fresh = gateways()
    assert httpx.get(fresh.url + "/healthz").status_code == 200
    api.publish(kit.route("chat", replica.endpoint()))
    fresh.wait_for("chat")
    kit.wait_until(
        lambda: settings.snapshot_path.is_file() and "run-1" in settings.snapshot_path.read_text(),
        "no snapshot was kept",
    )
    assert stat.S_IMODE(settings.snapshot_path.stat().st_mode) == 0o600
    assert kit.USER_KEY not in settings.snapshot_path.read_text()
    away = gateways(api_url="http://127.0.0.1:9")
    assert httpx.get(away.url + "/readyz").status_code == 200
    assert httpx.get(away.url + "/health").status_code == 200
    with away.client() as client:
        assert client.post("/v1/completions", json=BODY).json() == {"ok": True}
        kit.wait_until(
            lambda: int(client.get("/readyz").json()["stale_seconds"]) >= 1, "never called stale"
        )
        marked = client.post("/v1/completions", json=BODY)
        assert int(marked.headers["x-quarterdeck-stale-seconds"]) >= 1
    with fresh.client() as client:
        assert client.get("/readyz").json()["stale_seconds"] == 0
        heard = client.post("/v1/completions", json=BODY)
        assert "x-quarterdeck-stale-seconds" not in heard.headers
    kit.wait_until(
        lambda: "snapshot_failed_polls 0.0" not in httpx.get(away.url + "/metrics").text,
        "failed polls were not counted",
    )


@pytest.mark.parametrize("kept", [None, b"", b"{}", b"\xff" * 100])
def test_without_a_usable_snapshot_it_is_alive_but_not_ready(
    gateways: Any, settings: Any, kit: Any, kept: bytes | None
) -> None:
    if kept is not None:
        settings.snapshot_path.parent.mkdir()
        settings.snapshot_path.write_bytes(kept)
    gateway = gateways(api_url="http://127.0.0.1:9")
    assert httpx.get(gateway.url + "/healthz").status_code == 200
    for path in ("/readyz", "/health"):
        assert httpx.get(gateway.url + path).status_code == 503
    with gateway.client() as client:
        answer = client.post("/v1/completions", json=BODY)
    assert answer.status_code == 503 and error_of(answer)["code"] == "no_snapshot"


def test_the_poll_is_long_and_carries_the_key(api: Any, gateways: Any, kit: Any) -> None:
    version = api.publish()
    gateway = gateways()
    gateway.wait_for()
    kit.wait_until(lambda: len(api.polls) >= 2, "the second poll never came")
    assert api.polls[0] == (None, f"Bearer {kit.GATEWAY_KEY}")
    assert api.polls[1][0] == version
    assert len(api.polls) == 2


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"{", 400, "line 1 column 2"),
        (b"[]", 400, "not a JSON object"),
        (b"{}", 400, "model: is missing"),
        (b'{"model": 5}', 400, "model: is missing"),
        (b'{"model": ""}', 400, "model: is missing"),
        (b'{"model": ' + b"[" * 100_000, 400, "nested too deeply"),
        (b'{"model": "chat", "n": ' + b"9" * 5000 + b"}", 400, "4300 digits"),
        (b'{"model": "chat", "prompt": "\xff"}', 400, "not UTF-8 at byte 29"),
        (b"\xff\xfe", 400, "not UTF-8"),
        (b" " * 300_000, 413, "200000 bytes"),
    ],
)
def test_bad_bodies(
    api: Any, gateways: Any, kit: Any, replica: Any, content: bytes, status: int, words: str
) -> None:
    api.publish(kit.route("chat", replica.endpoint()))
    gateway = gateways(max_body=200_000)
    gateway.wait_for("chat")
    with gateway.client() as client:
        answer = client.post("/v1/completions", content=content)
        assert answer.status_code == status
        assert error_of(answer)["type"] == "invalid_request_error"
        assert words in error_of(answer)["message"]
        assert client.get("/v1/completions").status_code == 405
        assert client.get("/nothing").status_code == 404
    assert not replica.requests


def test_a_body_that_is_deep_is_refused_or_renamed_whole(
    api: Any, gateways: Any, kit: Any, replica: Any
) -> None:
    alias = ServedAlias(name="other")
    api.publish(kit.route("chat", replica.endpoint()).model_copy(update={"aliases": [alias]}))
    gateway = gateways()
    gateway.wait_for("chat", "other")
    with gateway.client() as client:
        # Large bodies are read in a thread, which has more stack left than the event loop.
        pad = "x" * 300_000
        for depth in range(900, 1000, 3):
            body = b'{"model": "other", "pad": "%s", "x": %s%s}' % (
                pad.encode(), b"[" * depth, b"]" * depth,
            )  # fmt: skip
            answer = client.post("/v1/completions", content=body)
            if answer.status_code != 200:
                assert answer.status_code == 400, answer.text
                assert "nested too deeply" in error_of(answer)["message"]
    assert replica.requests


def test_requests_beyond_the_bound_are_refused(
    api: Any, gateways: Any, kit: Any, scripted: Any
) -> None:
    slow = scripted("run-1", lambda n: [kit.STREAM_HEAD, kit.chunk(b"data: {}\n\n"), kit.HANG])
    api.publish(kit.route("chat", slow.endpoint()))
    gateway = gateways(max_in_flight=1)
    gateway.wait_for("chat")
    with gateway.client() as client:
        with client.stream("POST", "/v1/completions", json={**BODY, "stream": True}) as stream:
            lines = stream.iter_lines()  # kept: dropping it would close the stream
            next(lines)
            answer = client.post("/v1/completions", json=BODY)
            assert answer.status_code == 503
            assert error_of(answer)["code"] == "gateway_overloaded"
            assert "retry-after" in answer.headers
            assert client.get("/v1/models").status_code == 200
    kit.wait_until(lambda: slow.left == 1, "the upstream was not cancelled")


HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer qd_user\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", b"408"),
        (b"POST /v1/compl", b"408"),
        (HEAD + b"x-slow: ", b"408"),
        (HEAD + b"content-length: 100\r\n\r\n{", b"408"),
        (HEAD + b"x-large: " + b"a" * 5000, b"431"),
    ],
)
def test_slow_and_large_headers_and_bodies_are_cut_off(
    api: Any, gateways: Any, kit: Any, sent: bytes, status: bytes
) -> None:
    api.publish()
    gateway = gateways(header_timeout=0.4, body_timeout=0.4, max_header=4096)
    gateway.wait_for()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as client:
        client.sendall(sent)
        received = b""
        while piece := client.recv(65536):
            received += piece
    assert received.startswith(b"HTTP/1.1 " + status)
    assert b'"invalid_request_error"' in received


def test_a_drip_of_header_bytes_does_not_move_the_deadline(
    api: Any, gateways: Any, kit: Any
) -> None:
    api.publish()
    gateway = gateways(header_timeout=0.6)
    gateway.wait_for()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as client:
        client.sendall(HEAD + b"x-drip: ")
        closed = False
        deadline = time.monotonic() + 20
        client.settimeout(0.1)
        while not closed and time.monotonic() < deadline:
            try:
                client.sendall(b"a")
                closed = client.recv(1024) == b""
            except TimeoutError:
                continue
            except OSError:
                closed = True
    assert closed


def test_a_kept_connection_serves_request_after_request_beyond_the_deadline(
    api: Any, gateways: Any, kit: Any, replica: Any
) -> None:
    api.publish(kit.route("chat", replica.endpoint()))
    gateway = gateways(header_timeout=0.3)
    gateway.wait_for("chat")
    request = HEAD + b"content-length: 17\r\n\r\n" + b'{"model": "chat"}'
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as client:
        for _ in range(3):
            client.sendall(request)
            received = b""
            while not received.endswith(b'{"ok": true}'):
                piece = client.recv(65536)
                assert piece, received
                received += piece
            time.sleep(0.4)
    assert len(replica.requests) == 3


def test_a_client_that_offers_another_protocol_is_answered_in_this_one(
    api: Any, gateways: Any, kit: Any, replica: Any
) -> None:
    api.publish(kit.route("chat", replica.endpoint()))
    gateway = gateways()
    gateway.wait_for("chat")
    offer = b"connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkA\r\n"
    body = b'{"model": "chat",\r\n"x":\r\n\r\n{}}'
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as client:
        for offered in (offer, b"", offer):
            client.sendall(HEAD + offered + b"content-length: %d\r\n\r\n" % len(body) + body)
            received = b""
            while not received.endswith(b'{"ok": true}'):
                piece = client.recv(65536)
                assert piece, received
                received += piece
            assert received.startswith(b"HTTP/1.1 200")
            assert replica.requests[-1][2] == body
    assert len(replica.requests) == 3


def test_connections_beyond_the_bound_are_closed(api: Any, gateways: Any, kit: Any) -> None:
    api.publish()
    gateway = gateways(max_connections=2)
    gateway.wait_for()
    held = [socket.create_connection(("127.0.0.1", gateway.port), timeout=20) for _ in range(2)]
    try:
        for client in held:
            client.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
            assert client.recv(65536).startswith(b"HTTP/1.1 200")
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as third:
            with suppress(ConnectionResetError):
                assert third.recv(1024) == b""
        held[0].sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        assert held[0].recv(65536).startswith(b"HTTP/1.1 200")
    finally:
        for client in held:
            client.close()


def test_the_openai_client_understands_the_errors(
    api: Any, gateways: Any, kit: Any, replica: Any
) -> None:
    api.publish(kit.route("chat", replica.endpoint(ready=False)))
    gateway = gateways()
    gateway.wait_for("chat")
    base = gateway.url + "/v1"
    with openai.OpenAI(base_url=base, api_key="qd_wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError, match="unknown"):
            client.models.list()
    with openai.OpenAI(base_url=base, api_key=kit.USER_KEY, max_retries=0) as client:
        with pytest.raises(openai.NotFoundError, match="can use: chat"):
            client.completions.create(model="nothing", prompt="x")
        with pytest.raises(openai.InternalServerError, match="none of 1 replicas is ready"):
            client.completions.create(model="chat", prompt="x")
