"""Whether a run stands still, and which rank its stacks point at. Pure; time is an argument."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_WAITING = (
    "distributed_c10d.py", "deepspeed/comm/", "deepspeed/runtime/pipe/p2p.py",
    "torch/distributed/",
)  # fmt: skip
"""Frames of a rank that waits for others."""


@dataclass(frozen=True)
class Progress:
    """Signs of life of the whole gang, monotonic seconds."""

    started: float
    last: float | None = None
    """The newest step or heartbeat of any rank; None before the first."""
    stepped: bool = False


def stalled(
    progress: Progress,
    now: float,
    *,
    stall_after: float,
    stall_after_first: float,
    must_report: bool,
) -> str | None:
    """Why the run counts as stalled, or None.

    Before the first sign of life the longer bound holds. A program that need not report
    (`must_report` False) and never did is never stalled.
    """  # fmt: skip
    if progress.last is None:
        if must_report and now - progress.started > stall_after_first:
            return f"no step in the first {stall_after_first:g} s"
        return None
    bound = stall_after if progress.stepped or not must_report else stall_after_first
    if now - progress.last > bound:
        return f"no step and no heartbeat for {bound:g} s"
    return None


@dataclass(frozen=True)
class Company:
    """One rank among those of its role, monotonic seconds."""

    rank: int
    role: str
    ended_well: bool
    heard: float
    """When it last said anything; of one that ended, its end."""


def left_waiting(ranks: Sequence[Company], now: float, grace: float) -> tuple[int, str] | None:
    """The rank that ended by itself while others of its role wait for it, as it seems: they have
    said nothing for `grace` seconds since. None where that is not so."""
    ended = {each.role: each for each in ranks if each.ended_well}
    waiting = [each for each in ranks if not each.ended_well and each.role in ended]
    if not waiting or any(each.role in ended and now - each.heard <= grace for each in ranks):
        return None
    first = ended[waiting[0].role]
    others = ", ".join(str(each.rank) for each in waiting[:8])
    more = f" and {len(waiting) - 8} more" if len(waiting) > 8 else ""
    return first.rank, (
        f"rank {first.rank} ended with code 0 while {others}{more} went on and said nothing for "
        f"{grace:g} s: they seem to wait for it (exit_grace: a longer time lets them)"
    )


def odd_one_out(stacks: Mapping[int, str]) -> int | None:
    """The rank that hangs by itself while the others wait for it in a collective.

    None when all wait, or several do not: then nobody can be singled out.
    """
    known = {rank: stack for rank, stack in stacks.items() if stack}
    outside = [rank for rank, stack in known.items() if not any(mark in stack for mark in _WAITING)]
    return outside[0] if len(outside) == 1 and len(known) > 1 else None
