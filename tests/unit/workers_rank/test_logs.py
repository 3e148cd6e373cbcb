from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quarterdeck_workers.rank.logs import LONGEST_LINE, LogBuffer


def test_lines_cross_reads_and_the_last_needs_no_newline() -> None:
    buffer = LogBuffer()
    for part in (b"one\ntw", b"o\r\n", b"thr", b"ee"):
        buffer.feed(part, 1.0)
    assert buffer.take(10) == [(1.0, "one"), (1.0, "two")]
    buffer.close(2.0)
    assert buffer.take(10) == [(2.0, "three")]


def test_long_line_is_cut_and_invalid_bytes_replaced() -> None:
    buffer = LogBuffer()
    buffer.feed(b"x" * (LONGEST_LINE + 5) + b"\n\xff\x00ok\n", 0.0)
    long, odd = (line for _, line in buffer.take(10))
    assert long == "x" * LONGEST_LINE + " …[cut]"
    assert odd == "\ufffd\ufffdok"


def test_oldest_lines_go_first_and_are_counted() -> None:
    buffer = LogBuffer(limit=3)
    buffer.feed(b"".join(b"%d\n" % number for number in range(10)), 0.0)
    assert [line for _, line in buffer.take(10)] == ["7", "8", "9"]
    assert buffer.take_dropped() == 7
    assert buffer.take_dropped() == 0
    assert buffer.tail.splitlines() == [str(number) for number in range(10)]


def test_bytes_are_bounded_too() -> None:
    buffer = LogBuffer(limit_bytes=10)
    buffer.feed(b"aaaa\nbbbb\ncccc\n", 0.0)
    assert [line for _, line in buffer.take(10)] == ["bbbb", "cccc"]


@given(st.binary(max_size=400), st.lists(st.integers(1, 20), max_size=40))
def test_cutting_of_reads_changes_nothing(data: bytes, sizes: list[int]) -> None:
    whole, parts = LogBuffer(), LogBuffer()
    whole.feed(data, 0.0)
    whole.close(0.0)
    start = 0
    for size in sizes:
        parts.feed(data[start : start + size], 0.0)
        start += size
    parts.feed(data[start:], 0.0)
    parts.close(0.0)
    assert whole.take(1000) == parts.take(1000)
