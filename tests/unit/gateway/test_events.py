from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.gateway.events import EventRelay, EventTooLarge

EVENTS = [b"data: {}\n\n", b": ping\n\n", b"data: a\r\n\r\n", "data: 你好\n\n".encode(), b"\n\n"]
DONE = b"data: [DONE]\n\n"


def cut(content: bytes, places: list[int]) -> list[bytes]:
    borders = [0, *sorted(place % (len(content) + 1) for place in places), len(content)]
    return [content[a:b] for a, b in pairwise(borders)]


@given(st.lists(st.sampled_from(EVENTS)), st.lists(st.integers(0, 500)))
def test_whole_events_come_out_byte_for_byte_wherever_they_are_cut(
    events: list[bytes], places: list[int]
) -> None:
    content = b"".join(events) + DONE
    relay, out = EventRelay(), b""
    for piece in cut(content, places):
        whole = relay.push(piece)
        assert whole == b"" or whole.endswith((b"\n\n", b"\r\n\r\n"))
        out += whole
    assert out == content
    assert relay.complete


@given(st.lists(st.sampled_from(EVENTS)), st.binary(max_size=20), st.lists(st.integers(0, 500)))
def test_a_tail_is_held_back_and_makes_the_stream_incomplete(
    events: list[bytes], tail: bytes, places: list[int]
) -> None:
    tail = b"data: x" + tail.replace(b"\n", b"").replace(b"\r", b"")
    relay = EventRelay()
    out = b"".join(relay.push(piece) for piece in cut(b"".join(events) + tail, places))
    # Half of a blank line may wait for what follows.
    assert b"".join(events).startswith(out)
    assert b"".join(events)[len(out) :].strip(b"\n") == b""
    assert not relay.complete


def test_a_blank_line_too_many_does_not_make_a_stream_incomplete() -> None:
    relay = EventRelay()
    out = b"".join(relay.push(piece) for piece in (b"data: [DONE]\n\n\n", b"\n"))
    assert out == b"data: [DONE]\n\n\n"
    assert relay.complete


@pytest.mark.parametrize(
    ("content", "complete"),
    [
        (b"", False),
        (b"data: {}\n\n", False),
        (b"data: {}\n\ndata: [DONE]\n\n", True),
        (b"data: {}\r\n\r\ndata: [DONE]\r\n\r\n", True),
        (b'data: {"error": {}}\n\n', True),
        (b"data: [DONE]\n\ndata: {}\n\n", False),
        (b"data: [DONE]\n", False),
    ],
)
def test_completeness(content: bytes, complete: bool) -> None:
    relay = EventRelay()
    relay.push(content)
    assert relay.complete is complete


def test_an_endless_event_is_bounded() -> None:
    relay = EventRelay()
    with pytest.raises(EventTooLarge):
        for _ in range(100):
            relay.push(b"a" * 100_000)
