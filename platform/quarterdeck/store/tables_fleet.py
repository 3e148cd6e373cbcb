"""Where runs go: clusters and their machines, as agents last reported them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Text, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from quarterdeck.store.columns import Base, BigId, database_now


class GatewayRow(Base):
    """A gateway process that reports; gone two minutes after its last report."""

    __tablename__ = "gateways"

    name: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger)
    demand: Mapped[dict[str, Any]]
    """What keys with limits asked of it lately, by the key's digest."""
    seen_at: Mapped[datetime]


class ClusterRow(Base):
    __tablename__ = "clusters"

    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    phase: Mapped[str] = mapped_column(default="connected")
    """connected or silent; gone: deleted by the platform."""
    agent_id: Mapped[str | None]
    agent_started_at: Mapped[datetime | None]
    address: Mapped[str] = mapped_column(default="")
    ray_token: Mapped[bytes | None]
    """Encrypted before it comes here."""
    endpoints_reachable: Mapped[bool] = mapped_column(default=True)
    versions: Mapped[dict[str, Any]] = mapped_column(default=dict)
    last_beat_at: Mapped[datetime | None]
    retired_agents: Mapped[list[Any] | None]
    """Agents that newer ones replaced, newest last: they are refused whatever their clocks say."""
    refused_joins: Mapped[list[Any] | None]
    """Machines whose versions kept them out, newest last: see joins.py."""
    heard_since: Mapped[datetime | None]
    """Since when beats have come without a long gap. Silence of a run counts only while somebody
    was heard all that time: after an outage of the control plane itself nobody is silent."""
    generation: Mapped[int] = mapped_column(default=0)
    """The newest under which the agent has told every supervisor that lives here."""
    placed: Mapped[int] = mapped_column(BigInteger, default=0, server_default="0")
    """How many runs were ever created here: see capacity.py."""
    project: Mapped[str | None]
    """Whose it is, as its agent says; None: shared. What its pool says comes first."""
    created_at: Mapped[datetime] = mapped_column(default=database_now())


class PoolRow(Base):
    """A pool of Kubernetes that controllers size; one of them at a time, by the lease."""

    __tablename__ = "pools"

    name: Mapped[str] = mapped_column(primary_key=True)
    """The cluster's."""
    namespace: Mapped[str]
    object: Mapped[str]
    """The RayCluster's name."""
    project: Mapped[str | None]
    """Whose it is, as the file says; None: shared."""
    of_pool: Mapped[str | None]
    """Set: it is made for one run from this pool's template: see own_clusters.py."""
    owner_id: Mapped[str | None]
    """The job whose run gets it, after its epoch `owner_epoch`."""
    owner_epoch: Mapped[int | None]
    image: Mapped[str] = mapped_column(default="", server_default="")
    ending: Mapped[bool] = mapped_column(default=False, server_default=false())
    """It takes nothing new, and its RayCluster is to be deleted."""
    groups: Mapped[list[Any]]
    """What the file says of each group (specs.pools.WorkerGroup)."""
    sizes: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """By group the last decision and what was seen: see pools.py."""
    idle_since: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """By pod, since when nothing needs it."""
    reason: Mapped[str] = mapped_column(default="")
    """Why nobody can size it now; empty: it is sized."""
    message: Mapped[str] = mapped_column(Text, default="")
    looked_at: Mapped[datetime | None]
    lease_id: Mapped[str | None]
    lease_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(default=database_now())


class OrphanRow(Base):
    """A supervisor that lives on a cluster and that no row of `runs` tells of, as the agent last
    reported it. Only a restored backup makes them; controllers adopt those whose owner is known."""

    __tablename__ = "orphans"

    run_id: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    cluster: Mapped[str] = mapped_column(ForeignKey("clusters.name"), index=True)
    agent_id: Mapped[str]
    description: Mapped[dict[str, Any] | None]
    """What the supervisor says of itself (protocol.SupervisorReport); None: it does not answer."""
    detail: Mapped[str] = mapped_column(default="")
    """Why it was not adopted."""
    first_seen_at: Mapped[datetime] = mapped_column(default=database_now())
    last_seen_at: Mapped[datetime] = mapped_column(default=database_now())


WIDEST_LABELS = ("region", "zone")
PLACE_LABELS = (*WIDEST_LABELS, "block", "rack")
"""Labels of agents that say where a machine is, the widest domain first."""


class NodeRow(Base):
    """One start of a raylet: Ray gives each a new id, so a machine that came back is a new row."""

    __tablename__ = "nodes"

    id: Mapped[str] = mapped_column(primary_key=True)
    cluster: Mapped[str] = mapped_column(ForeignKey("clusters.name"), index=True)
    host: Mapped[str]
    address: Mapped[str]
    phase: Mapped[str] = mapped_column(default="alive")
    """alive, unknown or dead."""
    accelerator: Mapped[str] = mapped_column(default="cpu")
    slots: Mapped[int]
    cordoned: Mapped[bool] = mapped_column(default=False)
    quarantined: Mapped[bool] = mapped_column(default=False)
    cordon_reason: Mapped[str] = mapped_column(default="", server_default="")
    """Why it is cordoned, where the platform did it: RepeatedFaults and the words."""
    confirmed_dead: Mapped[dict[str, Any] | None]
    """{by, reason, at}: somebody vouched for its death. It stays dead, whatever Ray says."""
    cpus: Mapped[float] = mapped_column(default=0.0)
    memory: Mapped[int] = mapped_column(BigInteger, default=0)
    labels: Mapped[dict[str, Any]] = mapped_column(default=dict)
    is_head: Mapped[bool] = mapped_column(default=False)
    versions: Mapped[dict[str, Any] | None]
    """Of quarterdeck, Ray and Python; None: its agent does not tell."""
    pool_group: Mapped[str | None]
    """Of its pool, once a look has found its pod."""
    topology: Mapped[str] = mapped_column(default="", server_default="")
    """Where Kubernetes says that it is; see `place`."""
    last_seen_at: Mapped[datetime] = mapped_column(default=database_now())
    created_at: Mapped[datetime] = mapped_column(default=database_now())

    @property
    def place(self) -> str:
        """Where it is in the network, from the widest domain to the narrowest: `zone-a/rack-3`.
        What its agent says lies within what Kubernetes says, unless it says the widest itself."""
        told = [str(self.labels[name]) for name in PLACE_LABELS if self.labels.get(name)]
        whole = any(self.labels.get(name) for name in WIDEST_LABELS)
        if self.topology and not whole:
            told.insert(0, self.topology)
        return "/".join(told)


class NodeFaultRow(Base):
    """A machine that failed a run: by a log policy, or by failing run after run.

    It keeps the run's owner off the host, a `trusted` one counts towards its cordon, until it is
    cleared.
    """

    __tablename__ = "node_faults"

    id: Mapped[int] = mapped_column(BigId, primary_key=True, autoincrement=True)
    cluster: Mapped[str]
    host: Mapped[str]
    address: Mapped[str]
    """With the host it names the machine over restarts of its raylet."""
    node_id: Mapped[str]
    owner_id: Mapped[str]
    owner_name: Mapped[str]
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"))
    epoch: Mapped[int]
    rank: Mapped[int | None]
    policy: Mapped[str]
    message: Mapped[str] = mapped_column(Text)
    trusted: Mapped[bool]
    """Of a policy of the installation, not of the job's own."""
    at: Mapped[datetime] = mapped_column(default=database_now())
    cleared_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("run_id", "node_id", "policy"),
        Index(None, "cluster", "host", "at"),
        Index(None, "owner_id"),
        {"sqlite_autoincrement": True},
    )


class WarmingRow(Base):
    """A model version that somebody wants on a node ahead of the services that will read it.

    There is one row for each version and node; asking again starts it anew. Ended ones go a day
    after their end.
    """

    __tablename__ = "warmings"

    asset_id: Mapped[str] = mapped_column(
        ForeignKey("asset_versions.id", ondelete="CASCADE"), primary_key=True
    )
    node_id: Mapped[str] = mapped_column(primary_key=True)
    cluster: Mapped[str]
    host: Mapped[str]
    asked: Mapped[int] = mapped_column(default=1)
    """How often; agents' reports name it."""
    state: Mapped[str] = mapped_column(default="waiting")
    """specs.warming.WarmState."""
    found: Mapped[bool] = mapped_column(default=False)
    bytes_done: Mapped[int] = mapped_column(BigInteger, default=0)
    rate: Mapped[float] = mapped_column(default=0.0)
    seconds: Mapped[float] = mapped_column(default=0.0)
    message: Mapped[str] = mapped_column(Text, default="")
    actor: Mapped[str] = mapped_column(default="")
    asked_at: Mapped[datetime] = mapped_column(default=database_now())
    ended_at: Mapped[datetime | None]

    __table_args__ = (Index(None, "cluster", "ended_at"),)
