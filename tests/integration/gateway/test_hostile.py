"""Clients that mean harm, against a gateway in a process of its own: each gets a correct error or
meets a bound, memory stays bounded, and the others are served."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

MIB = 2**20
BODY = {"model": "chat", "prompt": "hi"}
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer qd_user\r\n"
STREAM = HEAD + b"content-length: 48\r\n\r\n" + b'{"model": "chat", "prompt": "hi", "stream":true}'


class Process:
    """A gateway's process and what it costs."""

    def __init__(self, settings: Any, open_files: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        values = asdict(replace(settings, port=self.port)) | {"open_files": open_files}
        program = Path(__file__).with_name("gateway_process.py")
        self._started = subprocess.Popen(
            [sys.executable, str(program), json.dumps(values, default=str)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._process = psutil.Process(self._started.pid)
        self.url = f"http://127.0.0.1:{self.port}"

    def client(self, **values: Any) -> httpx.Client:
        headers = {"authorization": "Bearer qd_user"}
        return httpx.Client(base_url=self.url, headers=headers, **{"timeout": 30, **values})

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        made = socket.socket()
        if receive_buffer is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        made.settimeout(30)
        made.connect(("127.0.0.1", self.port))
        return made

    def memory(self) -> float:
        """MiB that are resident."""
        return float(self._process.memory_info().rss / MIB)

    def clients(self) -> int:
        """Connections of clients, those that the other side has given up too."""
        found = self._process.net_connections("tcp")
        return sum(each.laddr.port == self.port and each.status != "LISTEN" for each in found)

    def is_serving(self) -> bool:
        with suppress(httpx.HTTPError):
            with self.client() as client:
                return client.post("/v1/completions", json=BODY).json() == {"ok": True}
        return False

    def in_flight(self) -> float:
        text = httpx.get(self.url + "/metrics").text
        found = [x for x in text.splitlines() if x.startswith("quarterdeck_gateway_in_flight")]
        return float(found[0].split()[-1])

    def close(self) -> str:
        """What it wrote to its error output."""
        self._started.terminate()
        try:
            return self._started.communicate(timeout=20)[1]
        except subprocess.TimeoutExpired:
            self._started.kill()
            self._started.communicate()
            raise


@pytest.fixture(scope="module", autouse=True)
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


Started = Callable[..., Process]


@pytest.fixture
def process(api: Any, settings: Any, kit: Any, scripted: Any) -> Iterator[Started]:
    """Starts a gateway before a replica that runs a script (by default: answers at once), both
    with room for thousands. It must end without a traceback on its error output."""
    running: list[Process] = []

    def start(script: Any = None, open_files: int = 16_384, **changes: Any) -> Process:
        replica = scripted("run-1", script or (lambda n: [kit.whole(b'{"ok": true}')]))
        api.publish(
            kit.route("chat", replica.endpoint()).model_copy(update={"concurrency": 10_000})
        )
        running.append(Process(replace(settings, **changes), open_files))
        kit.wait_until(lambda: listed(running[-1]), "the gateway did not start")
        return running[-1]

    def listed(gateway: Process) -> bool:
        with suppress(httpx.HTTPError), gateway.client() as client:
            return "chat" in client.get("/v1/models").text
        return False

    yield start
    for gateway in running:
        said = gateway.close()
        assert "Traceback" not in said and "ASGI" not in said, said


def poured(gateway: Process, first: bytes, then: bytes, most: int = 8 * MIB) -> bytes:
    """Send `first`, then `then` again and again until the gateway has had enough or `most` bytes
    have gone; what it answered."""
    received = b""
    with gateway.connect() as client:
        with suppress(ConnectionError):
            client.sendall(first)
            for _ in range(most // len(then)):
                client.sendall(then)
        with suppress(ConnectionError):
            while piece := client.recv(65536):
                received += piece
    return received


CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"
CLOSING = HEAD + b"connection: close\r\n"
FLOODS = {
    "one without end": (HEAD + b"x-large: ", b"a" * 4096),
    "many": (HEAD, b"x-a: b\r\n" * 512),
    "a path without end": (b"POST /", b"a" * 4096),
    "trailers": (CHUNKED + b"2\r\n{}\r\n0\r\n", b"x-a: b\r\n" * 512),
    "one trailer without end": (CHUNKED + b"2\r\n{}\r\n0\r\nx-large: ", b"a" * 4096),
    "an extension without end": (CHUNKED + b"2;x=", b"a" * 4096),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_floods_of_headers_are_cut_off(process: Started, kind: str) -> None:
    gateway = process()
    before = gateway.memory()
    for _ in range(10):
        answered = poured(gateway, *FLOODS[kind])
        # The reset of what is still under way may overtake the answer.
        assert answered[:12] in (b"HTTP/1.1 431", b"HTTP/1.1 400", b"")
    assert gateway.memory() - before < 16
    assert gateway.is_serving()


def test_small_chunks_are_no_flood(process: Started) -> None:
    gateway = process()
    body = json.dumps({**BODY, "pad": "x" * 40_000}).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    with gateway.connect() as client:
        client.sendall(CHUNKED + chunks)
        assert client.recv(65536).startswith(b"HTTP/1.1 200")


def test_slow_bodies_end_in_time_and_hold_nobody_up(process: Started, kit: Any) -> None:
    gateway = process(body_timeout=1.0)
    slow = [HEAD + b"content-length: 100\r\n\r\n{", CHUNKED + b"1\r\n{\r\n"]
    with ExitStack() as held:
        clients = [held.enter_context(gateway.connect()) for _ in range(200)]
        for number, client in enumerate(clients):
            client.sendall(slow[number % 2])
        assert gateway.is_serving()
        for client in clients:
            assert client.recv(65536).startswith(b"HTTP/1.1 408")
    kit.wait_until(lambda: gateway.in_flight() == 0, "slow bodies stayed in flight")
    assert gateway.is_serving()


def test_bodies_of_fifty_megabytes_are_refused(process: Started) -> None:
    gateway = process()
    before = gateway.memory()
    large = b"x" * (50 * 10**6)

    def in_pieces() -> Iterator[bytes]:
        for start in range(0, len(large), 65536):
            yield large[start : start + 65536]

    def send(number: int) -> None:
        with gateway.client() as client:
            body = large if number % 2 else in_pieces()
            answer = client.post("/v1/completions", content=body)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "body_too_large"
        assert str(8 * MIB) in answer.json()["error"]["message"]

    together(send, 6)
    assert gateway.memory() - before < 128
    with gateway.connect() as client:
        head = HEAD + b"expect: 100-continue\r\ncontent-length: 50000000\r\n\r\n"
        client.sendall(head)
        assert client.recv(65536).startswith(b"HTTP/1.1 413")
    assert gateway.is_serving()


def together(work: Callable[[int], None], times: int) -> None:
    """Do it in so many threads; raises the first error."""
    errors: list[BaseException] = []

    def one(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


async def refused(port: int, body: bytes, times: int, wanted: int) -> list[bytes]:
    """Send a body over so many connections at once; the answers, once so many have come."""

    async def one() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(CLOSING + b"content-length: %d\r\n\r\n" % len(body) + body)
            return await reader.readuntil(b"\r\n\r\n") + await reader.read()
        finally:
            writer.close()

    asked = {asyncio.ensure_future(one()) for _ in range(times)}
    answered: list[bytes] = []
    while len(answered) < wanted:
        done, asked = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        answered += [each.result() for each in done]
    for each in asked:
        each.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    return answered


def test_bodies_that_parse_to_gigabytes_have_a_common_bound(process: Started, kit: Any) -> None:
    taken: list[int] = []

    def script(n: int) -> list[Any]:
        taken.append(n)
        return [kit.HANG]

    gateway = process(script, max_bodies=256 * MIB)
    before = gateway.memory()
    # Two megabytes of text that are more than forty of lists.
    body = b'{"model": "chat", "x": [' + b"[]," * (2 * MIB // 3) + b"[]]}"
    answers = asyncio.run(refused(gateway.port, body, times=16, wanted=12))
    for answer in answers:
        assert answer.startswith(b"HTTP/1.1 503") and b"retry-after:" in answer
        assert b"gateway_overloaded" in answer
    assert gateway.memory() - before < 400
    kit.wait_until(lambda: gateway.in_flight() == 0, "requests stayed")
    before_last = len(taken)
    with gateway.connect() as client:  # what they held was given back
        client.sendall(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body)
        kit.wait_until(lambda: len(taken) > before_last, "it was not let in")


async def idle_streams(port: int, count: int, meanwhile: Callable[[], None]) -> None:
    """Hold so many streams open, each after its first event."""

    async def one() -> asyncio.StreamWriter:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(STREAM)
        await reader.readuntil(b"data: ")
        return writer

    writers = []
    for _ in range(0, count, 100):
        writers += await asyncio.gather(*[one() for _ in range(100)])
    await asyncio.to_thread(meanwhile)
    for writer in writers:
        writer.close()


def test_two_thousand_idle_streams(process: Started, kit: Any) -> None:
    def script(n: int) -> Iterator[Any]:
        # The request that asks whether others are served does not stream; it is the 2001st.
        if n % 2001 == 2000:
            yield kit.whole(b'{"ok": true}')
            return
        yield kit.STREAM_HEAD
        yield kit.chunk(kit.text_event("a"))
        yield kit.HANG

    gateway = process(script)
    before, held = gateway.memory(), [0.0, 0.0]
    for turn in range(2):

        def look(turn: int = turn) -> None:
            assert gateway.in_flight() == 2000
            assert gateway.is_serving()
            held[turn] = gateway.memory()

        asyncio.run(idle_streams(gateway.port, 2000, look))
        kit.wait_until(lambda: gateway.in_flight() == 0, "streams stayed in flight")
    assert held[0] - before < 200  # a tenth of a megabyte for each
    assert held[1] - held[0] < 20  # nothing is left of the first ones
    kit.wait_until(lambda: gateway.clients() == 0, "connections stayed open")


class Endless:
    """A replica's stream without end; it counts what the gateway took."""

    def __init__(self, kit: Any) -> None:
        self._kit = kit
        self.taken = 0
        self.ended = False

    def __call__(self, n: int) -> Iterator[Any]:
        if n:
            yield self._kit.whole(b'{"ok": true}')
            return
        yield self._kit.STREAM_HEAD
        event = self._kit.chunk(self._kit.text_event("a" * 60_000))
        try:
            while True:
                yield event
                self.taken += len(event)
        finally:
            self.ended = True


@pytest.mark.parametrize("pace", [None, 0.05], ids=["nothing", "a byte now and then"])
def test_a_client_that_hardly_reads_is_given_up(
    process: Started, kit: Any, pace: float | None
) -> None:
    endless = Endless(kit)
    gateway = process(endless, reader_timeout=1.5, between_timeout=1.5)
    before = gateway.memory()
    with gateway.connect(receive_buffer=4096) as client:
        client.sendall(STREAM)
        deadline = time.monotonic() + 30
        while not endless.ended:
            assert time.monotonic() < deadline, "the replica was asked on and on"
            if pace is not None:
                client.recv(1)
            time.sleep(pace or 0.05)
        assert endless.taken < 24 * MIB  # what kernels buffer between the three
        assert gateway.memory() - before < 16
        kit.wait_until(lambda: gateway.clients() == 0, "the client's connection stayed")
        assert gateway.is_serving()


@pytest.mark.parametrize("extra", [b"", b"connection: close\r\n"], ids=["kept", "closed"])
def test_an_answer_that_nobody_takes_is_thrown_away(
    process: Started, kit: Any, extra: bytes
) -> None:
    answer = kit.whole(b'{"x": "' + b"a" * (12 * MIB) + b'"}')
    gateway = process(
        lambda n: [kit.whole(b'{"ok": true}') if n else answer],
        reader_timeout=1.0, keep_alive_timeout=1.0,
    )  # fmt: skip
    with gateway.connect(receive_buffer=4096) as client:
        body = json.dumps(BODY).encode()
        client.sendall(HEAD + extra + b"content-length: %d\r\n\r\n" % len(body) + body)
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        kit.wait_until(lambda: gateway.clients() == 0, "the connection stayed")
        assert gateway.is_serving()


def test_a_gateway_out_of_descriptors_serves_again_once_they_are_free(
    process: Started, kit: Any
) -> None:
    gateway = process(open_files=100, header_timeout=2.0)
    with ExitStack() as held:
        for _ in range(150):
            held.enter_context(gateway.connect())
        kit.wait_until(gateway.is_serving, "it did not come back")
