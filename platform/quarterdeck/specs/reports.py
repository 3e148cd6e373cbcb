"""What the api works out for operators: where rank time went, and whether the invariants hold."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from quarterdeck.specs.base import Message
from quarterdeck.specs.beats import RankSeconds


class IncidentCost(Message):
    """What the end of an attempt that did not finish its job cost, in rank-seconds."""

    epoch: int
    what: str
    at: datetime
    lost: float
    """Work that no checkpoint had, and what was held until the end was known."""
    stalled: float = 0
    """The stall that ended it."""
    waiting: float
    """Until the next attempt was placed: its ranks' time, which they did not hold."""
    restart: float
    """The next attempt until its first step."""
    total: float


class JobGoodput(Message):
    """GET /api/v1/jobs/{id}/goodput: a job's rank-seconds, each in one account."""

    job_id: str
    name: str
    project: str
    attempts: int
    accounts: RankSeconds
    held_seconds: float
    goodput: float | None = None
    """Productive ÷ held."""
    incidents: list[IncidentCost] = []
    """Oldest first; in lists left out."""


class FleetGoodput(Message):
    """GET /api/v1/goodput: jobs over all of their attempts in the time asked for, those that held
    most first (at most a thousand), and the sum of them."""

    accounts: RankSeconds
    held_seconds: float
    goodput: float | None = None
    jobs: list[JobGoodput]


class DoctorFinding(Message):
    """One row that breaks an invariant, or is worth knowing."""

    id: str
    message: str


class DoctorCheck(Message):
    """One invariant, looked for."""

    name: str
    claim: str
    """What holds when nothing is found."""
    state: Literal["ok", "failed", "note"]
    remedy: str = ""
    found: list[DoctorFinding] = []
    """At most a hundred."""


class DoctorReport(Message):
    """Whether the invariants hold on the live database and in the artifact store."""

    generation: int
    """How often a backup was restored."""
    checks: list[DoctorCheck]
