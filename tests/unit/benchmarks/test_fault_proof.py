"""The judge of the fault benchmark: each wrong is found, and a clean story passes."""

from __future__ import annotations

from datetime import UTC, datetime

from benchmarks import fault_proof
from quarterdeck.specs.resources import Job, LogLine, MetricPoint

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def told(*rows: str) -> list[fault_proof.Process]:
    return fault_proof.processes(f"{row}\n" for row in rows)


def job(name: str = "a", phase: str = "succeeded", attempts: int = 1) -> Job:
    return Job(
        id=f"job-{name}", name=name, project="default", kind="command", phase=phase,  # type: ignore[arg-type]
        reason="", message="", queue="default", priority=0, spec={}, attempts=attempts,
        created_at=NOW,
    )  # fmt: skip


CLEAN = ("1.0 a 1 0 7 begin", "2.0 a 1 0 7 1", "3.0 a 2 0 8 begin", "4.0 a 2 0 8 end")


def lost(*jobs: Job, found: list[fault_proof.Process], cancelled: str = "") -> list[str]:
    names = frozenset(filter(None, [cancelled]))
    return fault_proof.lost({"a": "job-a"}, names, jobs, found, 1)


def test_clean_story_passes() -> None:
    found = told(*CLEAN)
    assert fault_proof.twice(found) == []
    assert lost(job(attempts=2), found=found) == []


def test_second_process_of_one_epoch_is_twice_even_one_after_the_other() -> None:
    found = told("1.0 a 1 0 7 begin", "2.0 a 1 0 7 1", "9.0 a 1 0 8 begin")
    assert len(fault_proof.twice(found)) == 1


def test_two_epochs_at_the_same_time_are_twice() -> None:
    found = told("1.0 a 1 0 7 begin", "3.0 a 1 0 7 9", "2.0 a 2 0 8 begin", "4.0 a 2 0 8 end")
    assert len(fault_proof.twice(found)) == 1
    assert fault_proof.twice(told(*CLEAN, "3.5 a 2 1 9 begin")) == []


def test_torn_line_is_no_evidence() -> None:
    assert fault_proof.processes(["1.0 a 1 0 7 be", "2.0 a 1"]) == []


def test_vanished_failed_and_empty_successes_are_lost() -> None:
    found = told(*CLEAN)
    assert "vanished" in lost(found=found)[0]
    assert "failed" in lost(job(phase="failed"), found=found)[0]
    assert "running" in lost(job(phase="running"), found=found)[0]
    assert "never came to their end" in lost(job(attempts=1), found=found)[0]
    assert lost(job(phase="cancelled"), found=found, cancelled="a") == []
    assert lost(job(phase="cancelled"), found=found) != []


def test_lines_steps_and_submissions_told_twice() -> None:
    line = LogLine(cursor="1", rank=0, epoch=1, at=0, line="line 1 0 1")
    point = MetricPoint(step=1, epoch=1, at=NOW, values={"unique": 1e6 + 1})
    alien = point.model_copy(update={"epoch": 2})
    assert fault_proof.doubled("a", [job()], [line], [point]) == []
    assert len(fault_proof.doubled("a", [job(), job()], [line, line], [point, alien])) == 4
