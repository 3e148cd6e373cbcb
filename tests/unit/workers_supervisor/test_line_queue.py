from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quarterdeck_workers.supervisor.line_queue import LineQueue


def said(
    queue: LineQueue, limit: int = 1000, size: int = 10**6
) -> dict[tuple[int, str], list[str]]:
    return {
        (chunk.rank, chunk.stream): [line for _, line in chunk.lines]
        for chunk in queue.take(limit, size)
    }


def test_a_flooding_rank_loses_its_own_oldest_lines_and_nobody_elses() -> None:
    queue = LineQueue(limit=100, limit_size=10_000)
    queue.add(1, [(0.0, "quiet")])
    dropped = sum(queue.add(0, [(float(n), str(n))]) for n in range(500))
    assert dropped == 500 - 99
    lines = said(queue)
    assert lines[1, "output"] == ["quiet"]
    assert lines[0, "output"] == ["… 401 lines dropped …", *map(str, range(401, 500))]


def test_every_rank_has_its_share_of_a_beat() -> None:
    queue = LineQueue(limit=10_000, limit_size=10**6)
    queue.add(0, [(0.0, "x" * 100)] * 5000)
    queue.add(1, [(0.0, "short")] * 3)
    queue.add(2, [(0.0, "made")] * 2, "setup")
    first = said(queue, limit=100, size=2_000)
    assert first[1, "output"] == ["short"] * 3
    assert first[2, "setup"] == ["made"] * 2
    assert 15 <= len(first[0, "output"]) <= 19


def test_a_line_longer_than_a_beat_goes_alone() -> None:
    queue = LineQueue(limit=10, limit_size=10**6)
    queue.add(0, [(0.0, "a" * 50), (0.0, "b" * 50)])
    queue.add(1, [(0.0, "c" * 50)])
    beats = []
    while queue:
        beats.append(said(queue, size=10))
    assert beats == [
        {(0, "output"): ["a" * 50]},
        {(0, "output"): ["b" * 50]},
        {(1, "output"): ["c" * 50]},
    ]


Add = st.tuples(st.integers(0, 3), st.lists(st.integers(0, 30), min_size=1, max_size=12))


@given(
    st.lists(st.one_of(Add, st.none()), max_size=40),
    st.integers(1, 20),
    st.integers(1, 200),
)
def test_lines_keep_their_order_and_whatever_is_missing_is_counted(
    actions: list[tuple[int, list[int]] | None], limit: int, size: int
) -> None:
    queue = LineQueue(limit, size)
    fed: dict[int, list[str]] = {}
    got: dict[int, list[str]] = {}
    seqs: dict[int, list[int]] = {}
    dropped = 0

    def take() -> None:
        chunks = queue.take(5, 60)
        assert chunks or not queue
        for chunk in chunks:
            got.setdefault(chunk.rank, []).extend(line for _, line in chunk.lines)
            seqs.setdefault(chunk.rank, []).append(chunk.seq)

    for number, action in enumerate(actions):
        if action is None:
            take()
            continue
        rank, widths = action
        lines = [f"{number}.{place}:".ljust(width, "x") for place, width in enumerate(widths)]
        fed.setdefault(rank, []).extend(lines)
        dropped += queue.add(rank, [(float(number), line) for line in lines])
        assert len(queue) <= limit
        assert queue.size <= size or len(queue) == 1
    while queue:
        take()

    told = 0
    for rank, lines in fed.items():
        place = 0
        for line in got.get(rank, []):
            if line.startswith("… "):
                missing = int(line.split()[1])
                told += missing
                place += missing
            else:
                assert line == lines[place]
                place += 1
        assert place == len(lines)
        assert seqs.get(rank, []) == list(range(1, len(seqs.get(rank, [])) + 1))
    assert told == dropped
