"""What the end of one job means for a job that waits for it. Pure."""

from __future__ import annotations

from typing import Literal

from quarterdeck.lifecycle.job import JOB, NOT_NEEDED

Verdict = Literal["met", "waiting", "failed", "not_needed"]

_WANTED = {
    "success": frozenset({"succeeded"}),
    "failure": frozenset({"failed"}),
    "any": JOB.final,
}


def judge_dependency(condition: str, phase: str, reason: str) -> Verdict:
    """Whether `condition` (success, failure, any) holds for a job in `phase`.

    A success that cannot come any more is a failure of who waits for it. A failure that cannot
    come leaves nothing to do (`not_needed`), and so does a success of a job that had nothing to
    do itself.
    """
    if phase not in JOB.final:
        return "waiting"
    if phase in _WANTED[condition]:
        return "met"
    if condition == "failure" or (phase == "cancelled" and reason == NOT_NEEDED):
        return "not_needed"
    return "failed"
