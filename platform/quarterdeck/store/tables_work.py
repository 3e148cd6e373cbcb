"""What people ask for and what is scheduled: jobs, services, runs.

Columns of a phase (`phase`, `reason`, `message`) are written by controllers only, except that the
`message` of a job at work is what its run says of itself, stored with a beat like its step;
`desired` is the api's. Lease columns (`lease_id`, `lease_until`, `due_at`) say which controller
works on a row and when it is next looked at; they are never shown as status.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from quarterdeck.store.columns import Base, BigId, database_now


class Leased:
    """A row that one controller at a time works on."""

    lease_id: Mapped[str | None] = mapped_column(default=None)
    lease_until: Mapped[datetime | None] = mapped_column(default=None)
    due_at: Mapped[datetime] = mapped_column(default=database_now())


class JobRow(Leased, Base):
    __tablename__ = "jobs"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    project: Mapped[str] = mapped_column(ForeignKey("projects.name"))
    kind: Mapped[str]
    spec: Mapped[dict[str, Any]]
    """The parsed document, complete with its defaults."""
    spec_digest: Mapped[str] = mapped_column(default="")
    phase: Mapped[str] = mapped_column(default="waiting")
    reason: Mapped[str] = mapped_column(default="Submitted")
    message: Mapped[str] = mapped_column(default="")
    facts: Mapped[list[Any]] = mapped_column(default=list)
    """Sentences for `why`, written by admission."""
    desired: Mapped[str] = mapped_column(default="run")
    """run, suspend or cancel."""
    queue: Mapped[str] = mapped_column(default="default")
    priority: Mapped[int] = mapped_column(default=0)
    ordinal: Mapped[int] = mapped_column(BigInteger)
    """Submission order (ids.next_ordinal); kept over restarts."""
    version: Mapped[int] = mapped_column(default=1)
    """Raised by every intent and every change of phase: compare-and-swap and ETag."""
    ranks: Mapped[int | None]
    layout: Mapped[dict[str, Any] | None]
    """Degrees {data, tensor, pipeline, …} that replace `parallelism: auto`."""
    smaller_layouts: Mapped[list[Any] | None]
    """Of an elastic training: layouts to restart on, the one to prefer first."""
    edges_bound: Mapped[bool] = mapped_column(default=False)
    array_size: Mapped[int | None]
    """Set: this is an array. It never has a run; its members have."""
    array_id: Mapped[str | None]
    """The array that this job is a member of."""
    array_index: Mapped[int | None]
    held: Mapped[bool] = mapped_column(default=False, server_default=false())
    """A member that its array has not let go yet: admission does not look at it."""
    epoch: Mapped[int] = mapped_column(default=0)
    """The newest run's epoch; 0 before the first."""
    run_id: Mapped[str | None]
    """The newest run."""
    restarts_used: Mapped[int] = mapped_column(default=0)
    step: Mapped[int | None]
    steps_total: Mapped[int | None]
    eta_seconds: Mapped[float | None]
    loss: Mapped[float | None]
    tokens_per_second: Mapped[float | None]
    results: Mapped[dict[str, Any]] = mapped_column(default=dict)
    failure: Mapped[dict[str, Any] | None]
    starts_at: Mapped[datetime | None]
    restart_at: Mapped[datetime | None]
    """Not placed before then: a job whose attempts fail in a row waits ever longer."""
    retry_of: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(default=database_now())
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        Index(None, "project", "name", "ordinal"),
        Index(None, "phase", "due_at"),
        Index(None, "project", "ordinal"),
        Index(None, "array_id", "ordinal", "id"),
        Index(None, "phase", "array_id", "ordinal", "id"),
    )


class JobEdgeRow(Base):
    """One thing that a job waits for: another job's end, or a dataset that one makes."""

    __tablename__ = "job_edges"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    needs_name: Mapped[str] = mapped_column(primary_key=True)
    needs_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id"), index=True)
    """The job bound at submission: the newest of that name; None: there was none."""
    field: Mapped[str]
    """Where the spec says so, e.g. `after` or `datasets`."""
    condition: Mapped[str] = mapped_column(default="success", server_default="success")
    """How the other job must end: success, failure or any."""


class ServiceRow(Leased, Base):
    __tablename__ = "services"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    project: Mapped[str] = mapped_column(ForeignKey("projects.name"))
    spec: Mapped[dict[str, Any]]
    phase: Mapped[str] = mapped_column(default="deploying")
    reason: Mapped[str] = mapped_column(default="Submitted")
    message: Mapped[str] = mapped_column(default="")
    facts: Mapped[list[Any]] = mapped_column(default=list)
    desired: Mapped[str] = mapped_column(default="run")
    """run, or stop: deletion drains and stops."""
    desired_replicas: Mapped[int]
    ready_replicas: Mapped[int] = mapped_column(default=0)
    version: Mapped[int] = mapped_column(default=1)
    """Raised by every change of the spec and every intent: the ETag."""
    revision: Mapped[int] = mapped_column(default=1)
    epoch: Mapped[int] = mapped_column(default=0)
    """The newest run's epoch: creating one compares and swaps this."""
    model_version: Mapped[str | None]
    rollout: Mapped[dict[str, Any] | None]
    """lifecycle.rollouts.RolloutState as JSON, with `most` (replicas that may live) and `retry_at`
    by revision; the controller's. None: it has not looked yet."""
    active_at: Mapped[datetime | None]
    """When a request was last under way or waited, as gateways told, to a few seconds."""
    rollout_wish: Mapped[dict[str, Any] | None]
    """{wish: pause | resume, by}: the api's, taken by the controller."""
    crashes: Mapped[int] = mapped_column(default=0)
    """Replica failures in a row, without one that became ready between."""
    retry_at: Mapped[datetime | None]
    priority: Mapped[int] = mapped_column(default=100)
    ordinal: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=database_now())
    ended_at: Mapped[datetime | None]

    __table_args__ = (Index(None, "project", "name"), Index(None, "phase", "due_at"))


class RevisionRow(Base):
    """An immutable spec of a service with the versions that it resolved."""

    __tablename__ = "service_revisions"

    service_id: Mapped[str] = mapped_column(
        ForeignKey("services.id", ondelete="CASCADE"), primary_key=True
    )
    revision: Mapped[int] = mapped_column(primary_key=True)
    spec: Mapped[dict[str, Any]]
    inputs: Mapped[dict[str, Any] | None]
    """Field → list of ResolvedAsset; None until the controller resolved them."""
    of_revision: Mapped[int | None]
    """The revision that this one repeats: it has the same replicas."""
    actor: Mapped[str] = mapped_column(default="", server_default="")
    note: Mapped[str] = mapped_column(default="", server_default="")
    """Why it was made: `applied`, `undo to revision 3`, `support@prod is version 5`."""
    created_at: Mapped[datetime] = mapped_column(default=database_now())


class RunRow(Leased, Base):
    __tablename__ = "runs"

    id: Mapped[str] = mapped_column(primary_key=True)
    owner_type: Mapped[str]
    owner_id: Mapped[str]
    owner_name: Mapped[str]
    project: Mapped[str]
    kind: Mapped[str]
    epoch: Mapped[int]
    generation: Mapped[int] = mapped_column(default=0)
    """The installation's when the run was created: a restore of a backup raises it."""
    attempt: Mapped[int] = mapped_column(default=1)
    revision: Mapped[int | None]
    cluster: Mapped[str]
    spec: Mapped[dict[str, Any]]
    """With `auto` layouts replaced by the planner's."""
    placements: Mapped[list[Any]]
    inputs: Mapped[dict[str, Any]] = mapped_column(default=dict)
    resume_checkpoint: Mapped[str | None]
    resumed_from_step: Mapped[int | None]
    phase: Mapped[str] = mapped_column(default="assigned")
    reason: Mapped[str] = mapped_column(default="Placed")
    message: Mapped[str] = mapped_column(default="")
    version: Mapped[int] = mapped_column(default=1)
    full_ranks: Mapped[int | None]
    """The job's ranks, where this run has fewer."""
    fits_since: Mapped[datetime | None]
    """Since when the full gang would fit; None: it does not."""
    # what the run says
    reported_phase: Mapped[str | None]
    reported_message: Mapped[str] = mapped_column(default="")
    beat_seq: Mapped[int] = mapped_column(default=0)
    last_beat_at: Mapped[datetime | None]
    ranks: Mapped[list[Any]] = mapped_column(default=list)
    step: Mapped[int | None]
    first_step: Mapped[int | None]
    productive_seconds: Mapped[float] = mapped_column(default=0.0)
    held_seconds: Mapped[float] = mapped_column(default=0.0)
    checkpoint_seconds: Mapped[float] = mapped_column(default=0.0, server_default="0")
    restart_seconds: Mapped[float] = mapped_column(default=0.0, server_default="0")
    stalled_seconds: Mapped[float] = mapped_column(default=0.0, server_default="0")
    starting_seconds: Mapped[float] = mapped_column(default=0.0, server_default="0")
    """With productive_seconds the accounts (protocol.RankSeconds): their sum is held_seconds."""
    unsaved_seconds: Mapped[float | None]
    """Of the productive ones, those after the last checkpoint; None: its supervisor is too old."""
    lost_seconds: Mapped[float] = mapped_column(default=0.0, server_default="0")
    """Of the restart ones, those that its own end threw away."""
    kept_seconds: Mapped[float | None]
    """The productive ones once the attempt's books are closed; None: they are open."""
    failure: Mapped[dict[str, Any] | None]
    log_matches: Mapped[list[Any] | None]
    """What log policies found in its output: beats.LogMatch, in the order of arrival."""
    endpoint: Mapped[dict[str, Any] | None]
    unhealthy_since: Mapped[datetime | None]
    """Of a replica; None: it is not unhealthy."""
    # what the agent says
    claimed_by: Mapped[str | None]
    claimed_at: Mapped[datetime | None]
    sighted: Mapped[str | None]
    """alive, dead or unknown."""
    sighted_at: Mapped[datetime | None]
    sighted_detail: Mapped[str] = mapped_column(default="")
    refused: Mapped[dict[str, Any] | None]
    """{reason, message}: why the api could not write the order when the agent came to claim."""
    # what the controller wants
    order: Mapped[str] = mapped_column(default="continue")
    """continue, checkpoint_and_stop, stop or die: the beat's reply."""
    order_reason: Mapped[str] = mapped_column(default="")
    order_deadline_at: Mapped[datetime | None]
    stopping_for: Mapped[str | None]
    """cancel, suspend, max_duration, drain, regrow: why it was ordered to stop."""
    kill_requested: Mapped[bool] = mapped_column(default=False)
    kill_reason: Mapped[str] = mapped_column(default="")
    quarantined: Mapped[bool] = mapped_column(default=False)
    """Given up while unknown: it still holds its slots until it is proven dead."""
    created_at: Mapped[datetime] = mapped_column(default=database_now())
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("owner_id", "epoch"),
        Index(None, "cluster", "phase"),
        Index(None, "phase", "due_at"),
    )


class ObservationRow(Base):
    """What one gateway saw of one revision in one window; kept for a quarter of an hour."""

    __tablename__ = "observations"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    gateway: Mapped[str]
    seq: Mapped[int] = mapped_column(BigInteger)
    service_id: Mapped[str] = mapped_column(ForeignKey("services.id", ondelete="CASCADE"))
    revision: Mapped[int]
    seconds: Mapped[float]
    requests: Mapped[int]
    errors: Mapped[int]
    ttft: Mapped[dict[str, Any]]
    """First tokens by the index of their bucket in specs.observations.TTFT_BUCKETS_S."""
    ttft_seconds: Mapped[float]
    in_flight: Mapped[int]
    waiting: Mapped[int]
    tokens_in: Mapped[int]
    tokens_out: Mapped[int]
    at: Mapped[datetime] = mapped_column(default=database_now(), index=True)

    __table_args__ = (
        UniqueConstraint("gateway", "seq", "service_id", "revision"),
        Index(None, "service_id", "revision", "at"),
    )


class TunnelRow(Base):
    """A connection into a run that a user waits for; gone once it was opened."""

    __tablename__ = "tunnels"

    id: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str]
    epoch: Mapped[int]
    cluster: Mapped[str] = mapped_column(index=True)
    rank: Mapped[int]
    kind: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=database_now())
