"""What becomes of an array, from what its members are. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quarterdeck.lifecycle.job import JOB, NOT_NEEDED, WITH_RUN, JobEvent


@dataclass(frozen=True)
class Members:
    """An array's members: how many are in each phase, and how many of the waiting are held."""

    size: int
    phases: Mapping[str, int]
    held: int = 0
    not_needed: int = 0

    def count(self, phases: frozenset[str]) -> int:
        """How many are in one of the phases."""
        return sum(count for phase, count in self.phases.items() if phase in phases)

    @property
    def text(self) -> str:
        """`2 running, 1 failed of 8`."""
        parts = [f"{count} {phase}" for phase, count in sorted(self.phases.items()) if count]
        return f"{', '.join(parts)} of {self.size}"


@dataclass(frozen=True)
class ArrayStep:
    """What to do now: a move of the array, how many held members to let go."""

    event: JobEvent | None = None
    reason: str | None = None
    release: int = 0


def step_array(phase: str, desired: str, parallelism: int | None, members: Members) -> ArrayStep:
    """The next step of an array that may start.

    It ends when all of its members have: `failed` if one failed, else `cancelled` if one was, else
    `succeeded`. At most `parallelism` members that were let go have not ended.
    """
    ended = members.count(JOB.final)
    if ended == members.size:
        return _end(phase, members)
    if desired == "suspend" and phase in ("queued", "running") and not members.count(WITH_RUN):
        return ArrayStep(JobEvent.SUSPENDED)
    begun = bool(ended or members.count(WITH_RUN))
    event = JobEvent.MEMBERS_STARTED if phase == "queued" and begun else None
    if desired != "run" or phase not in ("queued", "running"):
        return ArrayStep(event)
    live = members.size - ended - members.held
    room = members.held if parallelism is None else max(0, parallelism - live)
    return ArrayStep(event, release=min(members.held, room))


def _end(phase: str, members: Members) -> ArrayStep:
    if phase == "queued":  # the members were faster than this look at them
        return ArrayStep(JobEvent.MEMBERS_STARTED)
    if members.phases.get("failed") and JOB.allows(phase, JobEvent.FAILED):
        return ArrayStep(JobEvent.FAILED, "MembersFailed")
    if members.phases.get("succeeded") == members.size and JOB.allows(phase, JobEvent.SUCCEEDED):
        return ArrayStep(JobEvent.SUCCEEDED)
    reason = NOT_NEEDED if members.not_needed == members.size else None
    return ArrayStep(JobEvent.CANCELLED, reason)
