"""What the records outside, the api's answers and nothing else prove. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from quarterdeck.specs.resources import Job, LogLine, MetricPoint

TOLERANCE = 0.05
"""Seconds by which the last line of one process may follow the first of the next."""


@dataclass
class Process:
    """One rank's process, as its own lines tell."""

    job: str
    epoch: int
    rank: int
    pid: int
    first: float
    last: float
    ended: bool = False


@dataclass
class Verdict:
    """What went wrong, each with a sentence."""

    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)


def processes(lines: Iterable[str]) -> list[Process]:
    """Every process that wrote a line; a torn last line (its writer was killed) is left out."""
    found: dict[tuple[str, int, int, int], Process] = {}
    for line in lines:
        words = line.split()
        if len(words) != 6 or not line.endswith("\n"):
            continue
        at, job, epoch, rank, pid = float(words[0]), words[1], *map(int, words[2:5])
        key = (job, epoch, rank, pid)
        one = found.setdefault(key, Process(*key, at, at))
        one.last = max(one.last, at)
        one.ended = one.ended or words[5] == "end"
    return list(found.values())


def twice(found: Sequence[Process]) -> list[str]:
    """Ranks with two processes of one epoch, and processes of one rank at the same time."""
    wrong = []
    ranks: dict[tuple[str, int], list[Process]] = {}
    for one in found:
        ranks.setdefault((one.job, one.rank), []).append(one)
    for (job, rank), members in ranks.items():
        members.sort(key=lambda one: (one.first, one.last))
        for before, after in pairwise(members):
            if before.epoch == after.epoch:
                wrong.append(
                    f"{job} rank {rank}: pids {before.pid} and {after.pid} in epoch {after.epoch}"
                )
            elif after.first < before.last - TOLERANCE:
                both = before.last - after.first
                wrong.append(
                    f"{job} rank {rank}: epochs {before.epoch} and {after.epoch} at the same "
                    f"time for {both:.2f} s"
                )
    return wrong


def lost(
    acknowledged: Mapping[str, str],
    cancelled: frozenset[str],
    jobs: Sequence[Job],
    found: Sequence[Process],
    ranks: int,
) -> list[str]:
    """Jobs that vanished, never ended, ended otherwise than they should, or did not do what is
    said. `acknowledged` is name → id, `cancelled` the names of which an end was asked."""
    wrong = []
    by_id = {job.id: job for job in jobs}
    finished = {(one.job, one.epoch, one.rank) for one in found if one.ended}
    for name, identity in acknowledged.items():
        job = by_id.get(identity)
        if job is None:
            wrong.append(f"{name}: {identity} vanished")
        elif job.phase == "cancelled" and name in cancelled:
            continue
        elif job.phase != "succeeded":
            wrong.append(f"{name}: {job.phase} ({job.reason}): {job.message}")
        else:
            # The attempt that succeeded is the last one.
            missing = [rank for rank in range(ranks) if (name, job.attempts, rank) not in finished]
            if missing:
                wrong.append(f"{name}: succeeded, but ranks {missing} never came to their end")
    return wrong


def doubled(
    name: str, jobs: Sequence[Job], logs: Sequence[LogLine], metrics: Sequence[MetricPoint]
) -> list[str]:
    """A job submitted twice, log lines stored twice, steps told twice or of another attempt."""
    wrong = []
    if len(jobs) > 1:
        wrong.append(f"{name}: {len(jobs)} jobs of one submission")
    lines = Counter(line.line for line in logs if line.line.startswith("line "))
    wrong += [f"{name}: {count} times {line!r}" for line, count in lines.items() if count > 1]
    steps = Counter(point.step for point in metrics)
    wrong += [f"{name}: {count} times step {step}" for step, count in steps.items() if count > 1]
    for point in metrics:
        if point.values.get("unique", 0) != point.epoch * 1e6 + point.step:
            wrong.append(f"{name}: step {point.step} of epoch {point.epoch} is another's")
    return wrong
