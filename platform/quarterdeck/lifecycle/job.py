"""The life of a job.

    waiting → queued → starting → running → (stopping →) succeeded | failed | cancelled

With restarts left it goes back to queued, at its old place; suspended goes back to queued (or to
waiting, where its references never resolved).
"""

from __future__ import annotations

from enum import StrEnum

from quarterdeck.lifecycle.machine import Machine


class JobEvent(StrEnum):
    RESOLVED = "resolved"
    """Every reference has a version and every job before it has succeeded."""
    DEPENDENCY_FAILED = "dependency_failed"
    NOT_NEEDED = "not_needed"
    """It waits for an end that cannot come any more, and nothing went wrong."""
    PLACED = "placed"
    """A run was created."""
    MEMBERS_STARTED = "members_started"
    """Of an array: a member has a run, or has ended."""
    STARTED = "started"
    """Its run works."""
    STOP = "stop"
    """Its claimed run was ordered to stop."""
    RESTART = "restart"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SUSPENDED = "suspended"
    RESUMED = "resumed"
    RESUMED_UNRESOLVED = "resumed_unresolved"


E = JobEvent
NOT_NEEDED = "NotNeeded"
"""The reason of a job that ended because its condition cannot come true any more."""
_ENDS = {E.SUCCEEDED: "succeeded", E.FAILED: "failed", E.CANCELLED: "cancelled"}

JOB: Machine[JobEvent] = Machine(
    "job",
    "waiting",
    {
        "waiting": {
            E.RESOLVED: "queued",
            E.DEPENDENCY_FAILED: "failed",
            E.NOT_NEEDED: "cancelled",
            E.FAILED: "failed",
            E.CANCELLED: "cancelled",
            E.SUSPENDED: "suspended",
        },
        "queued": {
            E.PLACED: "starting",
            E.MEMBERS_STARTED: "running",
            E.FAILED: "failed",
            E.CANCELLED: "cancelled",
            E.SUSPENDED: "suspended",
        },
        "starting": {
            **_ENDS,
            E.STARTED: "running",
            E.STOP: "stopping",
            E.RESTART: "queued",
            E.SUSPENDED: "suspended",
        },
        "running": {
            **_ENDS,
            E.STOP: "stopping",
            E.RESTART: "queued",
            E.SUSPENDED: "suspended",
        },
        "stopping": {**_ENDS, E.RESTART: "queued", E.SUSPENDED: "suspended"},
        "suspended": {
            E.RESUMED: "queued",
            E.RESUMED_UNRESOLVED: "waiting",
            E.CANCELLED: "cancelled",
        },
    },
    {
        E.RESOLVED: "Queued",
        E.DEPENDENCY_FAILED: "DependencyFailed",
        E.NOT_NEEDED: NOT_NEEDED,
        E.PLACED: "Placed",
        E.MEMBERS_STARTED: "Running",
        E.STARTED: "Running",
        E.STOP: "Stopping",
        E.RESTART: "Restarting",
        E.SUCCEEDED: "Succeeded",
        E.FAILED: "Failed",
        E.CANCELLED: "Cancelled",
        E.SUSPENDED: "Suspended",
        E.RESUMED: "Queued",
        E.RESUMED_UNRESOLVED: "WaitingForJob",
    },
)

WITH_RUN = frozenset({"starting", "running", "stopping"})
"""Phases in which the newest run is the job's present attempt."""
