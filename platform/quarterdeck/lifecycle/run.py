"""The life of a job's run, and of a replica's.

run      assigned → starting → running → stopping → an end
         (succeeded, failed, lost, preempted, cancelled)
replica  assigned → starting → loading → ready ⇄ unhealthy → draining → stopping → an end
"""

from __future__ import annotations

from enum import StrEnum

from quarterdeck.lifecycle.machine import Machine


class RunEvent(StrEnum):
    CLAIMED = "claimed"
    RUNNING = "running"
    LOADING = "loading"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    DRAIN = "drain"
    STOP = "stop"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"
    """Proven dead without having reported an end, or given up after it was unknown too long."""
    PREEMPTED = "preempted"
    CANCELLED = "cancelled"


E = RunEvent
_ENDS = {
    E.SUCCEEDED: "succeeded",
    E.FAILED: "failed",
    E.LOST: "lost",
    E.PREEMPTED: "preempted",
    E.CANCELLED: "cancelled",
}
_REASONS = {
    E.CLAIMED: "Starting",
    E.RUNNING: "Running",
    E.LOADING: "Loading",
    E.READY: "Ready",
    E.UNHEALTHY: "Unhealthy",
    E.DRAIN: "Draining",
    E.STOP: "Stopping",
    E.SUCCEEDED: "Succeeded",
    E.FAILED: "Failed",
    E.LOST: "Lost",
    E.PREEMPTED: "Preempted",
    E.CANCELLED: "Cancelled",
}

RUN: Machine[RunEvent] = Machine(
    "run",
    "assigned",
    {
        "assigned": {E.CLAIMED: "starting", E.CANCELLED: "cancelled", E.LOST: "lost"},
        "starting": {**_ENDS, E.RUNNING: "running", E.STOP: "stopping"},
        "running": {**_ENDS, E.STOP: "stopping"},
        "stopping": _ENDS,
    },
    _REASONS,
)

_REPLICA_ENDS = {**_ENDS, E.DRAIN: "draining", E.STOP: "stopping"}

REPLICA: Machine[RunEvent] = Machine(
    "replica",
    "assigned",
    {
        "assigned": {E.CLAIMED: "starting", E.CANCELLED: "cancelled", E.LOST: "lost"},
        "starting": {**_REPLICA_ENDS, E.LOADING: "loading"},
        "loading": {**_REPLICA_ENDS, E.READY: "ready", E.UNHEALTHY: "unhealthy"},
        "ready": {**_REPLICA_ENDS, E.UNHEALTHY: "unhealthy"},
        "unhealthy": {**_REPLICA_ENDS, E.READY: "ready"},
        "draining": {**_ENDS, E.STOP: "stopping"},
        "stopping": _ENDS,
    },
    _REASONS,
)

ENDED = RUN.final
"""The phases in which a run's work is over, whatever became of its machines."""


def machine_of(owner_type: str) -> Machine[RunEvent]:
    """The table of a run owned by a `job` or a `service`."""
    return RUN if owner_type == "job" else REPLICA
