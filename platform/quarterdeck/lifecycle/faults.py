"""What the faults of machines mean: whom to keep off a host, and when to close it for all. Pure.

A fault is an attempt that failed with a line that a policy blames on the machine, or whose ranks a
living machine could not start or hold. Faults of hardware keep the owner off the host for good;
others only as long as it fits elsewhere, because a full disk or a bad start may be everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from quarterdeck.lifecycle.restarts import COUNTED

NODE_FAILURE = "node-failure"
"""The policy's name of a failure blamed on a machine without any line that says why."""
DISK_FULL = "disk-full"
SOFT = frozenset({NODE_FAILURE, DISK_FULL})
REPEATED = 2
"""Failures without a line that make an exclusion."""
CORDON_AFTER = 3
"""Different owners that failed on a host within the window close it for all."""
WINDOW_S = 24 * 3600.0
RECENT_S = 300.0
"""A line this much older than an attempt's end did not end it."""


@dataclass(frozen=True)
class Fault:
    """One fault of one host, as it is kept."""

    machine: tuple[str, str]
    """Its host's name and address."""
    owner_id: str
    policy: str
    epoch: int
    rank: int | None = None
    message: str = ""
    trusted: bool = True


@dataclass(frozen=True)
class Exclusion:
    """Why an owner is kept off a host; `hard` even if nothing else is left."""

    words: str
    hard: bool


def exclusions(faults: Iterable[Fault]) -> dict[tuple[str, str], Exclusion]:
    """By machine, from the faults of one owner."""
    found: dict[tuple[str, str], Exclusion] = {}
    plain: dict[tuple[str, str], int] = {}
    for fault in sorted(faults, key=lambda fault: fault.epoch):
        machine, known = fault.machine, found.get(fault.machine)
        if fault.policy == NODE_FAILURE:
            plain[machine] = plain.get(machine, 0) + 1
            if plain[machine] >= REPEATED and (known is None or not known.hard):
                words = f"{plain[machine]} attempts failed there, the last in attempt "
                found[machine] = Exclusion(f"{words}{fault.epoch}: {fault.message}", False)
            continue
        hard = fault.policy not in SOFT
        if known is None or (hard and not known.hard):
            words = f"{fault.policy} in attempt {fault.epoch}: {fault.message}"
            found[machine] = Exclusion(words, hard)
    return found


def cordon_reason(faults: Sequence[Fault]) -> str:
    """Why a host is to be closed for all, from its recent faults; empty: it is not."""
    trusted = [fault for fault in faults if fault.trusted]
    owners = {fault.owner_id for fault in trusted}
    if len(owners) < CORDON_AFTER:
        return ""
    policies = ", ".join(sorted({fault.policy for fault in trusted}))
    return f"RepeatedFaults: {len(owners)} jobs or services failed there in a day ({policies})"


@dataclass(frozen=True)
class Judgement:
    """What the lines of a failed attempt decide."""

    cancel: str = ""
    """There is no next attempt: the policy and its line."""
    excused: str = ""
    """The failure uses up no restart: the policy's name."""
    blamed: tuple[dict[str, Any], ...] = ()
    """Matches that exclude their machine."""


def judge(matches: Sequence[dict[str, Any]], blame: str, ended_at: float) -> Judgement:
    """Weigh beats.LogMatch's of an attempt that failed at `ended_at` (Unix seconds).

    A full disk is no machine's fault where the failure is blamed on the program, which has filled
    it. A failure that is a machine's own by other proof is retried whatever a line says.
    """
    recent = [
        match
        for match in matches
        if ended_at - _at(match) <= RECENT_S
        and not (match["policy"] == DISK_FULL and blame == "user_code")
    ]
    blamed = tuple(match for match in recent if match["verdict"] == "exclude_node")
    for match in recent:
        if match["verdict"] == "cancel_retries" and blame in COUNTED and not blamed:
            return Judgement(cancel=f"log policy {match['policy']}: {match['line']}")
    excusing = [*blamed, *(match for match in recent if match["verdict"] == "retry")]
    return Judgement(excused=excusing[0]["policy"] if excusing else "", blamed=blamed)


def _at(match: dict[str, Any]) -> float:
    return float(match.get("at") or 0.0)
