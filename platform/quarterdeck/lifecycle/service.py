"""The life of a service: deploying → ready ⇄ degraded → stopped, idle at zero replicas."""

from __future__ import annotations

from enum import StrEnum

from quarterdeck.lifecycle.machine import Machine


class ServiceEvent(StrEnum):
    DEPLOY = "deploy"
    """A new revision, or replicas wanted again after none."""
    ALL_READY = "all_ready"
    SHORT = "short"
    """Fewer ready replicas than wanted, after it was ready."""
    EMPTY = "empty"
    """No replica wanted and none left."""
    STOPPED = "stopped"
    """Deleted and drained."""


E = ServiceEvent

SERVICE: Machine[ServiceEvent] = Machine(
    "service",
    "deploying",
    {
        "deploying": {E.ALL_READY: "ready", E.EMPTY: "idle", E.STOPPED: "stopped"},
        "ready": {
            E.SHORT: "degraded",
            E.DEPLOY: "deploying",
            E.EMPTY: "idle",
            E.STOPPED: "stopped",
        },
        "degraded": {
            E.ALL_READY: "ready",
            E.DEPLOY: "deploying",
            E.EMPTY: "idle",
            E.STOPPED: "stopped",
        },
        "idle": {E.DEPLOY: "deploying", E.STOPPED: "stopped"},
    },
    {
        E.DEPLOY: "Deploying",
        E.ALL_READY: "Ready",
        E.SHORT: "ReplicasMissing",
        E.EMPTY: "Idle",
        E.STOPPED: "Stopped",
    },
)
