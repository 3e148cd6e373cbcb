"""Whether a run stands still, and which rank its stacks point at. Pure; time is an argument."""

from __future__ import annotations

from collections.abc import Mapping
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


def odd_one_out(stacks: Mapping[int, str]) -> int | None:
    """The rank that hangs by itself while the others wait for it in a collective.

    None when all wait, or several do not: then nobody can be singled out.
    """
    known = {rank: stack for rank, stack in stacks.items() if stack}
    outside = [rank for rank, stack in known.items() if not any(mark in stack for mark in _WAITING)]
    return outside[0] if len(outside) == 1 and len(known) > 1 else None
