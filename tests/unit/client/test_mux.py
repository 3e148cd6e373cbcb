"""Streams over one connection: nothing lost, nothing mixed, nobody held up by a slow reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.client.frames import (
    LARGEST_FRAME,
    WINDOW,
    BadFrame,
    Frame,
    Kind,
    credit,
    decode,
    structured,
)
from quarterdeck.client.mux import MOST_STREAMS, Mux, Stream, TunnelClosed

KINDS = st.sampled_from(list(Kind))


class Wire:
    """Two multiplexers with a queue each way, as a network would have."""

    def __init__(self, accept: Callable[[Stream], None] | None) -> None:
        self.queues: tuple[asyncio.Queue[bytes | None], asyncio.Queue[bytes | None]] = (
            asyncio.Queue(16), asyncio.Queue(16),
        )  # fmt: skip
        self.user = Mux(self.queues[0].put, 1)
        self.rank = Mux(self.queues[1].put, 2, accept)
        self.tasks = [
            asyncio.create_task(self.user.serve(self._messages(self.queues[1]))),
            asyncio.create_task(self.rank.serve(self._messages(self.queues[0]))),
        ]

    async def _messages(self, queue: asyncio.Queue[bytes | None]) -> AsyncIterator[bytes | str]:
        while (message := await queue.get()) is not None:
            yield message

    async def cut(self) -> None:
        for queue in self.queues:
            await queue.put(None)
        await asyncio.gather(*self.tasks)


@given(KINDS, st.integers(0, 2**32 - 1), st.binary(max_size=200))
def test_a_frame_survives_its_way(kind: Kind, stream: int, payload: bytes) -> None:
    frame = Frame(kind, stream, payload)
    assert decode(frame.encode()) == frame


@pytest.mark.parametrize(
    "data", [b"", b"\x01\x00", b"\x09\x00\x00\x00\x01", bytes(LARGEST_FRAME + 1)]
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(BadFrame):
        decode(data)


@pytest.mark.parametrize("payload", [b"{", b"[1]", b"\xff"])
def test_content_that_is_no_object_is_refused(payload: bytes) -> None:
    with pytest.raises(BadFrame):
        Frame(Kind.OPEN, 1, payload).content()
    with pytest.raises(BadFrame):
        Frame(Kind.CREDIT, 1, payload + b"12345").amount()


@given(
    st.lists(st.binary(max_size=100_000), max_size=4),
    st.lists(st.binary(max_size=50_000), max_size=4),
)
def test_both_directions_carry_exactly_what_was_written(
    there: list[bytes], back: list[bytes]
) -> None:
    got: list[bytes] = []

    async def serve(stream: Stream) -> None:
        while data := await stream.read():
            got.append(data)
        for data in back:
            await stream.write(data)
        await stream.close(exit_code=3)

    async def scenario() -> tuple[bytes, dict[str, Any]]:
        tasks: list[asyncio.Task[None]] = []
        wire = Wire(lambda stream: tasks.append(asyncio.create_task(serve(stream))))
        stream = await wire.user.open(what="test")
        for data in there:
            await stream.write(data)
        await stream.end()
        answer = b""
        while data := await stream.read():
            answer += data
        outcome = await stream.closed()
        await stream.close()
        await wire.cut()
        await asyncio.gather(*tasks)
        return answer, outcome

    answer, outcome = asyncio.run(scenario())
    assert b"".join(got) == b"".join(there)
    assert answer == b"".join(back)
    assert outcome == {"exit_code": 3}


def test_a_reader_that_stopped_holds_up_its_own_stream_only() -> None:
    async def scenario() -> tuple[bool, bytes]:
        opened: list[Stream] = []
        wire = Wire(opened.append)
        slow, quick = await wire.user.open(), await wire.user.open()
        flooding = asyncio.create_task(slow.write(bytes(4 * WINDOW)))
        await quick.write(b"through")
        while len(opened) < 2:
            await asyncio.sleep(0)
        data = await opened[1].read()
        await asyncio.sleep(0.05)
        held = not flooding.done()
        total = 0
        while total < 4 * WINDOW:
            total += len(await opened[0].read())
        await flooding
        await wire.cut()
        return held, data

    assert asyncio.run(scenario()) == (True, b"through")


def test_a_side_that_ignores_its_window_is_cut_off() -> None:
    async def scenario() -> None:
        mux = Mux(lambda data: asyncio.sleep(0), 2, lambda stream: None)

        async def messages() -> AsyncIterator[bytes | str]:
            yield structured(Kind.OPEN, 1, {}).encode()
            for _ in range(WINDOW // 1000 + 1):
                yield Frame(Kind.DATA, 1, bytes(1000)).encode()

        await mux.serve(messages())

    with pytest.raises(BadFrame, match="window"):
        asyncio.run(scenario())


def test_credit_never_grows_beyond_the_window() -> None:
    async def scenario() -> int:
        sent: list[bytes] = []

        async def send(data: bytes) -> None:
            sent.append(data)

        mux = Mux(send, 1)
        stream = await mux.open()
        for _ in range(5):
            stream.take(credit(stream.number, WINDOW))
        writing = asyncio.create_task(stream.write(bytes(2 * WINDOW)))
        await asyncio.sleep(0.01)
        writing.cancel()
        return sum(len(decode(data).payload) for data in sent[1:])

    assert asyncio.run(scenario()) == WINDOW


def test_too_many_streams_are_refused() -> None:
    async def scenario() -> None:
        mux = Mux(lambda data: asyncio.sleep(0), 2, lambda stream: None)

        async def messages() -> AsyncIterator[bytes | str]:
            for number in range(MOST_STREAMS + 1):
                yield structured(Kind.OPEN, 2 * number + 1, {}).encode()

        await mux.serve(messages())

    with pytest.raises(BadFrame, match=str(MOST_STREAMS)):
        asyncio.run(scenario())


def test_a_lost_connection_wakes_everybody() -> None:
    async def scenario() -> None:
        wire = Wire(lambda stream: None)
        stream = await wire.user.open()
        reading = asyncio.create_task(stream.read())
        await asyncio.sleep(0)
        await wire.cut()
        with pytest.raises(TunnelClosed):
            await reading
        with pytest.raises(TunnelClosed):
            await wire.user.open()

    asyncio.run(scenario())
