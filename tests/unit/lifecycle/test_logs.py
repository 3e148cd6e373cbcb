from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.lifecycle.logs import (
    LogBounds,
    LogPolicy,
    Shelved,
    overfull,
    stretch,
    whole_logs_to_delete,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = LogPolicy(hot_chunks=4, hot_size=100, file_chunks=5, file_size=50)


def shelf(name: str, days: int, size: int, project: str = "a", *, ended: bool = True) -> Shelved:
    return Shelved(name, project, NOW - timedelta(days=days), size, ended)


@given(st.lists(st.integers(0, 60), max_size=40), st.booleans())
def test_files_are_full_and_the_newest_stay(sizes: list[int], idle: bool) -> None:
    left = list(sizes)
    while count := stretch(POLICY, left[:5], len(left), sum(left), idle=idle):
        taken, left = left[:count], left[count:]
        assert len(taken) <= 5 and (sum(taken) <= 50 or len(taken) == 1)
    assert not left if idle else not overfull(POLICY, len(left), sum(left))
    if not idle and len(left) < len(sizes):
        assert len(left) >= 4 or sum(left) >= 100 - 60


def test_the_oldest_ended_logs_go_until_everything_fits() -> None:
    logs = [
        shelf("new", 1, 40), shelf("old", 9, 30), shelf("live", 20, 50, ended=False),
        shelf("older", 10, 5), shelf("other", 30, 20, "b"),
    ]  # fmt: skip
    assert whole_logs_to_delete(logs, LogBounds(total_bytes=145)) == []
    assert whole_logs_to_delete(logs, LogBounds(total_bytes=121)) == ["other", "older"]
    assert whole_logs_to_delete(logs, LogBounds(total_bytes=0)) == ["other", "older", "old", "new"]
    by_project = LogBounds(total_bytes=None, project_bytes=95)
    assert whole_logs_to_delete(logs, by_project) == ["older", "old"]
