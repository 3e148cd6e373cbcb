"""What a run's observations mean: facts in, one decision out. Pure.

The order of the questions matters: an end that the run reported itself wins over a death that
the agent saw, a death over silence, and only a run without any of these is asked to stop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from quarterdeck.lifecycle.run import RunEvent

LOST_AFTER_S = {"job": 300.0, "service": 30.0}
"""Seconds without a beat after which an unknown run is given up."""
STOP_DEADLINE_S = {"checkpoint_and_stop": 300.0, "stop": 30.0}
KILL_AFTER_S = 15.0
"""Seconds beyond the deadline of an order after which the agent kills the run."""
TRAININGS = frozenset({"pretrain"})
"""Kinds that save a checkpoint before they stop."""

RESTORED = "RestoredBackup"
"""The reason of a run whose end a restored backup has missed."""
UNKNOWN = "Unknown"
"""The reason of a run of which nobody knows whether it lives."""

_STOPPED = {
    "cancel": (RunEvent.CANCELLED, "Cancelled"),
    "suspend": (RunEvent.PREEMPTED, "Suspended"),
    "max_duration": (RunEvent.CANCELLED, "MaxDurationReached"),
    "drain": (RunEvent.CANCELLED, "Drained"),
    "unhealthy": (RunEvent.FAILED, "Unhealthy"),
    "regrow": (RunEvent.PREEMPTED, "Regrowing"),
}


@dataclass(frozen=True)
class RunFacts:
    """A run as the database and its clock see it at one moment."""

    owner_type: Literal["job", "service"]
    kind: str
    phase: str
    claimed: bool = True
    generation_passed: bool = False
    """A backup was restored since it was last heard (or assigned): how it ended is not known."""
    may_be_claimed: bool = False
    """Since a restored backup it is not known yet whether an agent has claimed it meanwhile."""
    refused: dict[str, Any] | None = None
    """{reason, message}: its order could not be written when its agent came to claim it."""
    reported_phase: str | None = None
    failure: dict[str, Any] | None = None
    heard: bool = True
    """At least one beat came."""
    sighted: str | None = None
    sighted_detail: str = ""
    silent: bool = False
    """No beat beyond `lost_after`, although beats of others were heard all that time."""
    cluster_silent: bool = False
    """Its agent has been silent beyond `lost_after`."""
    nodes_dead: bool = False
    """A machine of its placement is dead."""
    confirmed_dead: str = ""
    """Somebody vouched that every machine of its placement is dead: who and why."""
    unproven: tuple[str, ...] = ()
    """Hosts of its placement whose death nobody has vouched for."""
    noted_unknown: bool = False
    """It has been told already that nobody knows of the run."""
    desired: str = "run"
    stopping_for: str | None = None
    deadline_passed: bool = False
    kill_requested: bool = False
    overdue: bool = False
    """Longer at work than max_duration."""
    restart_safe: bool = True
    probed: bool = False
    """Its endpoint really answered a request."""


@dataclass(frozen=True)
class RunDecision:
    """What changes; all None or empty: nothing."""

    events: tuple[RunEvent, ...] = ()
    reason: str | None = None
    message: str = ""
    failure: dict[str, Any] | None = None
    """The failure to blame, where the run ends without having reported one."""
    stop_for: str | None = None
    """Order the run to stop, and why: cancel, suspend, max_duration, regrow."""
    kill: str | None = None
    quarantine: bool = False
    telemetry_gap: str = ""
    unless_heard: bool = False
    """The decision rests on silence: drop it if anything was heard meanwhile."""

    @property
    def empty(self) -> bool:
        return not (self.events or self.stop_for or self.kill or self.reason)


NOTHING = RunDecision()


def decide(facts: RunFacts) -> RunDecision:
    """What becomes of a run that has not ended."""
    if not facts.claimed:
        return _unclaimed(facts)
    before = (RunEvent.CLAIMED,) if facts.phase == "assigned" else ()
    return (
        _reported_end(facts, before)
        or _dead(facts, before)
        or _silent(facts, before)
        or _wanted(facts, before)
        or _progress(facts, before)
    )


def order_for(kind: str, stop_for: str) -> str:
    """The order that ends a run: trainings save first, except where nothing is to be kept."""
    return "checkpoint_and_stop" if kind in TRAININGS and stop_for != "drain" else "stop"


def _unclaimed(facts: RunFacts) -> RunDecision:
    if facts.may_be_claimed:
        return NOTHING
    if facts.generation_passed and facts.desired == "run":
        message = "assigned in a backup that was restored; whether it ran since is not known"
        return RunDecision((RunEvent.CANCELLED,), RESTORED, message, unless_heard=True)
    if facts.desired in ("cancel", "suspend"):
        _, reason = _STOPPED[facts.desired]
        return RunDecision(
            (RunEvent.CANCELLED,), reason, "before it was claimed", unless_heard=True
        )
    if facts.refused:
        reason, message = str(facts.refused["reason"]), str(facts.refused["message"])
        return RunDecision((RunEvent.CANCELLED,), reason, message, unless_heard=True)
    if facts.nodes_dead:
        message = "a machine of its placement died before it was claimed"
        return RunDecision((RunEvent.CANCELLED,), "NodesGone", message, unless_heard=True)
    if facts.cluster_silent:
        message = "the cluster's agent fell silent before it claimed the run"
        return RunDecision((RunEvent.CANCELLED,), "ClusterSilent", message, unless_heard=True)
    return NOTHING


def _reported_end(facts: RunFacts, before: tuple[RunEvent, ...]) -> RunDecision | None:
    if facts.reported_phase == "succeeded":
        return RunDecision((*before, RunEvent.SUCCEEDED))
    if facts.reported_phase == "failed":
        if facts.stopping_for:
            event, reason = _STOPPED[facts.stopping_for]
            return RunDecision((*before, event), reason, "it failed while it stopped")
        failure = facts.failure or _failure("unknown", "the run failed without saying why")
        return RunDecision(
            (*before, RunEvent.FAILED), None, str(failure.get("message", "")), failure
        )
    if facts.reported_phase in ("cancelled", "preempted"):
        if facts.stopping_for:
            event, reason = _STOPPED[facts.stopping_for]
            return RunDecision((*before, event), reason)
        return RunDecision((*before, RunEvent.PREEMPTED), "Preempted", "it stopped by itself")
    return None


def _dead(facts: RunFacts, before: tuple[RunEvent, ...]) -> RunDecision | None:
    if facts.sighted != "dead" and not facts.confirmed_dead:
        return None
    detail = facts.sighted_detail or "its supervisor is gone"
    if facts.sighted != "dead":
        detail = f"its machines are dead, {facts.confirmed_dead}"
    gap = f"what it had not yet sent is lost ({detail})"
    if facts.stopping_for:
        event, reason = _STOPPED[facts.stopping_for]
        return RunDecision((*before, event), reason, detail, telemetry_gap=gap)
    if facts.failure is not None:
        message = str(facts.failure.get("message", ""))
        return RunDecision(
            (*before, RunEvent.FAILED), None, message, facts.failure, telemetry_gap=gap
        )
    if facts.generation_passed:
        message = f"a backup was restored; how it ended since is not known ({detail})"
        return RunDecision((*before, RunEvent.LOST), RESTORED, message, telemetry_gap=gap)
    # Who never spoke was not started, or ended before it could start anything of the job's own.
    machines = facts.nodes_dead or bool(facts.confirmed_dead) or not facts.heard
    blame = "node" if machines else "unknown"
    who = "the agent found it dead: " if facts.sighted == "dead" else ""
    failure = _failure(blame, f"{who}{detail}")
    return RunDecision((*before, RunEvent.LOST), None, detail, failure, telemetry_gap=gap)


def _silent(facts: RunFacts, before: tuple[RunEvent, ...]) -> RunDecision | None:
    if not facts.silent:
        return None
    lost_after = LOST_AFTER_S[facts.owner_type]
    words = f"no beat for more than {lost_after:g} s and no proof of its death"
    wanted = facts.desired in ("cancel", "suspend") or facts.overdue
    if not facts.restart_safe and not facts.stopping_for and not wanted:
        # The user's program may still write somewhere: two of it could do harm.
        hosts = " ".join(facts.unproven) or "NODE"
        return RunDecision(
            before,
            UNKNOWN,
            f"{words}; it waits because it does not declare restart_safe. If the machine is "
            f"gone: quarterdeck nodes confirm-dead {hosts} --reason TEXT; or cancel the job",
            unless_heard=True,
        )
    return RunDecision(
        (*before, RunEvent.LOST),
        None,
        f"{words}: given up, its slots stay quarantined",
        _failure("network", words),
        stop_for=_unanswered(facts),
        kill="given up after silence",
        quarantine=True,
        telemetry_gap=f"what it did since is not known ({words})",
        unless_heard=True,
    )


def _unanswered(facts: RunFacts) -> str | None:
    """The wish that a silent run will not hear of."""
    if facts.stopping_for:
        return None
    if facts.desired in ("cancel", "suspend"):
        return facts.desired
    return "max_duration" if facts.overdue else None


def _wanted(facts: RunFacts, before: tuple[RunEvent, ...]) -> RunDecision | None:
    if facts.stopping_for:
        if facts.desired == "cancel" and facts.stopping_for in ("suspend", "regrow"):
            return RunDecision(before, stop_for="cancel")
        if facts.deadline_passed and not facts.kill_requested:
            return RunDecision(before, kill="it did not stop within its deadline")
        return None
    if facts.desired in ("cancel", "suspend"):
        return RunDecision((*before, RunEvent.STOP), stop_for=facts.desired)
    if facts.overdue:
        return RunDecision((*before, RunEvent.STOP), "MaxDurationReached", stop_for="max_duration")
    return None


def _progress(facts: RunFacts, before: tuple[RunEvent, ...]) -> RunDecision:
    phase = "starting" if before else facts.phase
    reported = facts.reported_phase
    if facts.owner_type == "job":
        if phase == "starting" and reported == "running":
            return RunDecision((*before, RunEvent.RUNNING))
        if facts.noted_unknown:
            return RunDecision(before, phase.capitalize())
        return RunDecision(before)
    return RunDecision((*before, *_replica_steps(phase, reported, facts.probed)))


def _replica_steps(phase: str, reported: str | None, probed: bool) -> tuple[RunEvent, ...]:
    ready = reported == "ready" and probed
    if phase == "starting":
        if reported in ("loading", "running", "ready", "unhealthy"):
            return (RunEvent.LOADING, *_replica_steps("loading", reported, probed))
        return ()
    if phase in ("loading", "unhealthy") and ready:
        return (RunEvent.READY,)
    if phase == "ready" and (reported == "unhealthy" or not ready):
        return (RunEvent.UNHEALTHY,)
    return ()


def _failure(blame: str, message: str) -> dict[str, Any]:
    return {"rank": None, "blame": blame, "message": message, "traceback": "", "stacks": {}}
