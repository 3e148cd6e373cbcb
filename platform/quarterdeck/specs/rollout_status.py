"""What the api answers of a service's rollout and of its revisions."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from quarterdeck.specs.base import Message


class RevisionStatus(Message):
    """One revision that has replicas or is wanted. `weight` is its share of the traffic, 0 to 1;
    the figures are those of the last five minutes."""

    revision: int
    model_version: str | None = None
    weight: float = 0.0
    wanted: int = 0
    alive: int = 0
    ready: int = 0
    requests: int = 0
    error_rate: float | None = None
    """None: no requests."""
    ttft_p95: float | None = None


class RolloutStatus(Message):
    """GET /api/v1/services/{id}/rollout. A revision that repeats another one has its replicas: it
    goes by that one's number in `target`, `stable` and `revisions`."""

    service: str
    revision: int
    """The newest."""
    of_revision: int | None = None
    """The one that it repeats."""
    strategy: Literal["rolling", "canary"]
    phase: Literal["unknown", "progressing", "paused", "rolled_back", "finished"]
    """unknown: the controller has not looked yet."""
    reason: str = ""
    message: str = ""
    step: int = 0
    """Of a canary: how many steps are passed, of `steps`."""
    steps: int = 0
    target: int | None = None
    stable: int | None = None
    """The last revision that was ready in full."""
    since: datetime | None = None
    reached_at: datetime | None = None
    """When the present step's weight was reached."""
    revisions: list[RevisionStatus] = []


class Revision(Message):
    """One spec that a service had, the versions that it resolved, and how it came about."""

    revision: int
    spec: dict[str, Any]
    inputs: dict[str, Any] | None = None
    of_revision: int | None = None
    actor: str = ""
    note: str = ""
    """`applied`, `undo to revision 3`, `support@prod is version 5`."""
    changed: list[str] = []
    """Fields that differ from the revision before; `model` also where its version alone does."""
    created_at: datetime
