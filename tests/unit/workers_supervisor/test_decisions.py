from __future__ import annotations

import signal

import pytest

from quarterdeck_workers.supervisor.failures import RankFailure, exit_failure, first_failure
from quarterdeck_workers.supervisor.watchdog import (
    Company,
    Progress,
    left_waiting,
    odd_one_out,
    stalled,
)

BOUNDS = {"stall_after": 300.0, "stall_after_first": 600.0}


# --- watchdog ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("progress", "now", "must_report", "expected"),
    [
        (Progress(0.0), 600.0, True, False),
        (Progress(0.0), 600.1, True, True),
        (Progress(0.0), 9e9, False, False),
        (Progress(0.0, last=500.0), 1100.0, True, False),
        (Progress(0.0, last=500.0), 1100.1, True, True),
        (Progress(0.0, last=500.0, stepped=True), 800.0, True, False),
        (Progress(0.0, last=500.0, stepped=True), 800.1, True, True),
        (Progress(0.0, last=500.0, stepped=True), 800.1, False, True),
    ],
)
def test_stall_bounds(progress: Progress, now: float, must_report: bool, expected: bool) -> None:
    assert (stalled(progress, now, must_report=must_report, **BOUNDS) is not None) is expected


def test_rank_outside_the_collective_is_singled_out() -> None:
    waiting = 'File "torch/distributed/distributed_c10d.py", line 1 in all_reduce'
    working = 'File "job.py", line 3 in read_batch'
    assert odd_one_out({0: waiting, 1: working, 2: waiting}) == 1
    assert odd_one_out({0: waiting, 1: waiting}) is None
    assert odd_one_out({0: working, 1: working, 2: waiting}) is None
    assert odd_one_out({0: working}) is None


# --- first failure -----------------------------------------------------------------------------


def failure(rank: int, at: float, blame: str, *, explained: bool = True) -> RankFailure:
    return RankFailure(rank, at, blame, f"rank {rank}", explained=explained)  # type: ignore[arg-type]


def test_cause_wins_over_the_network_errors_that_it_provokes() -> None:
    network = [failure(2, 10.0, "network"), failure(1, 10.2, "network")]
    failures = [*network, failure(0, 10.4, "memory")]
    chosen = first_failure(failures)
    assert chosen is not None
    assert chosen.rank == 0


def test_earliest_wins_among_equals() -> None:
    chosen = first_failure([failure(2, 10.0, "unknown"), failure(0, 9.0, "data")])
    assert chosen is not None
    assert chosen.rank == 0
    assert first_failure([]) is None


def test_explanation_wins_over_the_bare_exit_of_the_same_rank() -> None:
    bare = failure(1, 5.0, "unknown", explained=False)
    chosen = first_failure([bare, failure(1, 6.0, "data")])
    assert chosen is not None
    assert chosen.blame == "data"


@pytest.mark.parametrize(
    ("kind", "code", "number", "oom", "blame"),
    [
        ("command", 3, None, False, "user_code"),
        ("pretrain", 3, None, False, "unknown"),
        ("command", None, signal.SIGKILL, False, "unknown"),
        ("command", None, signal.SIGKILL, True, "memory"),
        ("command", None, signal.SIGSEGV, False, "user_code"),
        ("pretrain", None, signal.SIGSEGV, False, "unknown"),
        ("pretrain", None, None, False, "unknown"),
        ("command", None, 64, False, "unknown"),
    ],
)
def test_blame_of_an_exit(
    kind: str, code: int | None, number: int | None, oom: bool, blame: str
) -> None:
    found = exit_failure(kind, 0, 1.0, code=code, number=number, oom=oom, tail="last words")
    assert found is not None
    assert (found.blame, found.traceback) == (blame, "last words")


@pytest.mark.parametrize(
    ("tail", "port", "blame"),
    [
        ("failed to listen. port: 20123, name: EADDRINUSE, message: ...", 20123, "node"),
        ("OSError: [Errno 98] Address already in use: 0.0.0.0:20123", 20123, "node"),
        ("port: 8080, name: EADDRINUSE", 20123, "user_code"),
        ("port: 120123, name: EADDRINUSE", 20123, "user_code"),
        ("port: 20123, name: EADDRINUSE", None, "user_code"),
        ("meeting at port 20123", 20123, "user_code"),
    ],
)
def test_a_rank_is_not_to_blame_for_its_taken_port(tail: str, port: int | None, blame: str) -> None:
    found = exit_failure("command", 0, 1.0, code=1, number=None, oom=False, tail=tail, port=port)
    assert found is not None and found.blame == blame


def test_who_has_filled_the_disk() -> None:
    tail = "cat: write error: No space left on device"
    for filled, blame in (("", "disk"), ("9 MiB of its own files", "user_code")):
        found = exit_failure(
            "command", 0, 1.0, code=1, number=None, oom=False, tail=tail, filled=filled
        )
        assert found is not None and found.blame == blame and filled in found.message


def test_clean_exit_is_no_failure() -> None:
    assert exit_failure("command", 0, 1.0, code=0, number=None, oom=False, tail="") is None


def test_a_rank_is_left_waiting_only_in_silence_and_within_its_role() -> None:
    def company(*ranks: tuple[str, bool, float]) -> list[Company]:
        return [Company(place, *rank) for place, rank in enumerate(ranks)]

    waiting = company(("a", True, 10.0), ("a", False, 12.0))
    assert left_waiting(waiting, 22.0, 10.0) is None
    found = left_waiting(waiting, 22.1, 10.0)
    assert found is not None and found[0] == 0 and "while 1 went on" in found[1]
    assert left_waiting(company(("a", True, 0.0), ("b", False, 0.0)), 99.0, 10.0) is None
    assert left_waiting(company(("a", True, 0.0), ("a", True, 0.0)), 99.0, 10.0) is None
    assert left_waiting(company(("a", False, 0.0), ("a", False, 0.0)), 99.0, 10.0) is None
    one_works = company(("a", True, 0.0), ("a", False, 0.0), ("a", False, 95.0))
    assert left_waiting(one_works, 99.0, 10.0) is None
