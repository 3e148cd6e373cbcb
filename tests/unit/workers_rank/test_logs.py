from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck_workers.rank.logs import LONGEST_LINE, LogBuffer, LogLimits, dropped_marker

SMALL = LogLimits(
    burst_lines=5, burst_bytes=10**6, lines_per_second=4, bytes_per_second=10**6,
)  # fmt: skip


def texts(buffer: LogBuffer, now: float = 1e6) -> list[str]:
    return [line for _, line in buffer.take(None, now)]


def test_lines_cross_reads_and_the_last_needs_no_newline() -> None:
    buffer = LogBuffer()
    for part in (b"one\ntw", b"o\r\n", b"thr", b"ee"):
        buffer.feed(part, 1.0)
    assert buffer.take(10, 1.0) == [(1.0, "one"), (1.0, "two")]
    buffer.close(2.0)
    assert buffer.take(10, 2.0) == [(2.0, "three")]


def test_a_long_line_tells_how_much_of_it_is_cut() -> None:
    buffer = LogBuffer()
    buffer.feed(b"x" * 2**20 + b"\nnext\n", 0.0)
    cut = 2**20 - LONGEST_LINE
    assert texts(buffer) == ["x" * LONGEST_LINE + f" …[{cut:,} bytes cut]", "next"]


def test_a_cut_through_a_character_leaves_it_out() -> None:
    buffer = LogBuffer()
    buffer.feed(b"x" * (LONGEST_LINE - 1) + "é".encode() + b"\n", 0.0)
    assert texts(buffer) == ["x" * (LONGEST_LINE - 1) + " …[1 bytes cut]"]


def test_binary_becomes_text() -> None:
    buffer = LogBuffer()
    buffer.feed(bytes(range(256)) + b"\n\xff\x00ok\n", 0.0)
    *_, odd = texts(buffer)
    assert odd == "\ufffd\ufffdok"


def test_a_progress_bar_is_its_last_state() -> None:
    buffer = LogBuffer()
    buffer.feed(b"start\n 10%|#    |\r 20%|##   |\r", 0.0)
    buffer.feed(b"100%|#####|\r\nend\r\n", 1.0)
    assert texts(buffer) == ["start", "100%|#####|", "end"]


def test_a_progress_bar_without_end_is_shown_now_and_then() -> None:
    buffer = LogBuffer()
    for second in range(100):
        buffer.feed(b"\r%d%%" % second + b"\r", float(second))
    assert texts(buffer) == ["30%", "60%", "90%"]
    buffer.close(100.0)
    assert texts(buffer) == ["99%"]


def test_a_flood_keeps_its_beginning_and_its_newest_and_counts_the_rest() -> None:
    buffer = LogBuffer(SMALL)
    buffer.feed(b"".join(b"%d\n" % number for number in range(1000)), 0.5)
    assert texts(buffer, 0.6) == ["0", "1", "2", "3", "4"]
    assert texts(buffer, 1.6) == ["… 993 lines dropped …", "998", "999"]
    assert buffer.tail.splitlines() == [str(number) for number in range(940, 1000)]
    buffer.feed(b"later\n", 60.0)
    assert texts(buffer) == ["later"]


def test_what_nobody_takes_is_bounded_and_its_gap_marked() -> None:
    buffer = LogBuffer(LogLimits(waiting_lines=3))
    buffer.feed(b"".join(b"%d\n" % number for number in range(10)), 0.0)
    assert texts(buffer) == ["… 7 lines dropped …", "7", "8", "9"]
    buffer = LogBuffer(LogLimits(waiting_bytes=10))
    buffer.feed(b"aaaa\nbbbb\ncccc\n", 0.0)
    assert texts(buffer) == ["… 1 lines dropped …", "bbbb", "cccc"]


@pytest.mark.parametrize(("ranks", "lines"), [(1, 2000), (8, 1000), (1000, 8), (100_000, 2)])
def test_a_gang_shares_what_a_run_may_say(ranks: int, lines: int) -> None:
    assert LogLimits.of_gang(ranks).lines_per_second == lines


def test_a_million_lines_cost_little() -> None:
    buffer = LogBuffer()
    block = b"".join(b"step %d loss 2.3456789 some more words of text\n" % n for n in range(1000))
    before = time.process_time()
    kept = 0
    for count in range(1000):
        buffer.feed(block, count / 50)
        if count % 25 == 0:
            kept += len(buffer.take(2000, count / 50))
    spent = time.process_time() - before
    assert spent < 20  # of 20 s in which they were written; 1.5 s on an idle core
    assert 5_000 + 19 * 2_000 <= kept <= 5_000 + 21 * 2_020
    buffer.close(20.0)
    last = texts(buffer)[-1]
    assert last == "step 999 loss 2.3456789 some more words of text"


@given(st.binary(max_size=400), st.lists(st.integers(1, 20), max_size=40))
def test_cutting_of_reads_changes_nothing(data: bytes, sizes: list[int]) -> None:
    parts = LogBuffer()
    start = 0
    for size in sizes:
        parts.feed(data[start : start + size], 0.0)
        start += size
    parts.feed(data[start:], 0.0)
    parts.close(0.0)
    assert texts(parts) == model_lines(data)


def model_lines(data: bytes) -> list[str]:
    """What a plain reader makes of the whole output."""
    *whole, rest = data.split(b"\n")
    found = whole + ([rest] if any(rest.split(b"\r")) else [])
    states = [[part for part in line.split(b"\r") if part] or [b""] for line in found]
    return [state[-1].decode("utf-8", "replace").replace("\0", "\ufffd") for state in states]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 30)), max_size=15),
    st.integers(1, 12),
    st.integers(2, 9),
)
def test_the_limiter_keeps_what_its_model_keeps(
    seconds: list[tuple[int, int]], burst: int, rate: int
) -> None:
    """`seconds` are (seconds since the last output, lines written then)."""
    limits = LogLimits(burst_lines=burst, lines_per_second=rate, bytes_per_second=10**9)
    buffer = LogBuffer(limits)
    expected: list[str] = []
    allowance, now, number = float(burst), 0, 0
    pending: list[str] = []
    for pause, count in seconds:
        now += pause
        if pause:
            expected += newest(pending, rate // 2)
            pending = []
            allowance = min(burst, allowance + pause * rate / 2)
        written = [str(number + each) for each in range(count)]
        number += count
        buffer.feed("".join(line + "\n" for line in written).encode(), float(now))
        free = 0 if pending else min(len(written), int(allowance))
        allowance -= free
        expected += written[:free]
        pending += written[free:]
    buffer.close(float(now))
    assert texts(buffer) == expected + newest(pending, rate // 2)


def newest(lines: list[str], most: int) -> list[str]:
    left_out = max(0, len(lines) - most)
    return ([dropped_marker(left_out)] if left_out else []) + lines[left_out:]
