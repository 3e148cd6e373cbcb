"""What the api answers with: one class for each noun, the same for SDK, CLI and dashboard."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from quarterdeck.specs.base import Message
from quarterdeck.specs.beats import CheckpointManifest, Failure, RankState
from quarterdeck.specs.log_policies import LogPolicy, OrderedPolicy
from quarterdeck.specs.node_facts import ConfirmedDeath, NodeFault, QuarantinedRun, SharedSlot
from quarterdeck.specs.pool_status import PoolStatus
from quarterdeck.specs.protocol import RankPlacement
from quarterdeck.specs.tenancy import Isolation

JobPhase = Literal[
    "waiting", "queued", "starting", "running", "stopping", "suspended",
    "succeeded", "failed", "cancelled",
]  # fmt: skip
ServicePhase = Literal["deploying", "ready", "degraded", "idle", "stopped"]
Access = Literal["viewer", "operator", "admin", "agent"]
Item = TypeVar("Item")


class Page(Message, Generic[Item]):
    """A list's page; `next_cursor` is None on the last."""

    items: list[Item]
    next_cursor: str | None = None


class Progress(Message):
    step: int | None = None
    steps_total: int | None = None
    eta_seconds: float | None = None
    loss: float | None = None
    tokens_per_second: float | None = None
    goodput: float | None = None
    """Rank-seconds in steps that were kept ÷ rank-seconds held, over all attempts."""


class Job(Message):
    id: str
    name: str
    project: str
    kind: str
    phase: JobPhase
    reason: str
    message: str
    desired: Literal["run", "suspend", "cancel"] = "run"
    queue: str
    priority: int
    spec: dict[str, Any]
    ranks: int | None = None
    progress: Progress = Progress()
    run_id: str | None = None
    attempts: int = 0
    restarts_used: int = 0
    failure: Failure | None = None
    outputs: list[str] = []
    """Versions it made, as `model/NAME@1`."""
    results: dict[str, Any] = {}
    starts_at: datetime | None = None
    """Estimated start of a queued job, where `max_duration` of others allows one."""
    restart_at: datetime | None = None
    """Not placed before: its attempts fail in a row, and it backs off."""
    retry_of: str | None = None
    array_id: str | None = None
    """The array that it is a member of, as number `array_index`."""
    array_index: int | None = None
    array_size: int | None = None
    """Set: it is an array of so many members."""
    members: dict[str, int] = {}
    """Of an array: how many members are in each phase."""
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    version: int = 1


class Run(Message):
    id: str
    epoch: int
    attempt: int
    owner_type: Literal["job", "service"]
    owner_id: str
    owner_name: str
    project: str
    kind: str
    cluster: str
    phase: str
    reason: str = ""
    message: str = ""
    reported_phase: str | None = None
    placements: list[RankPlacement] = []
    reads: list[str] = []
    """Versions that it was given, as `dataset/NAME@1`; what was named by a URI as that."""
    full_ranks: int | None = None
    """The job's ranks, where an elastic run has fewer."""
    ranks: list[RankState] = []
    step: int | None = None
    resumed_from_step: int | None = None
    first_step: int | None = None
    failure: Failure | None = None
    productive_seconds: float = 0
    checkpoint_seconds: float = 0
    restart_seconds: float = 0
    stalled_seconds: float = 0
    starting_seconds: float = 0
    held_seconds: float = 0
    """Rank-seconds held: the sum of the five accounts."""
    lost_seconds: float = 0
    """Of the restart ones, those that this attempt's own end threw away."""
    claimed_by: str | None = None
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None
    last_beat_at: datetime | None = None


class Replica(Message):
    run_id: str
    epoch: int
    revision: int
    phase: str
    reason: str = ""
    message: str = ""
    url: str | None = None
    node_id: str | None = None
    created_at: datetime


class ServiceStep(Message):
    """One step of a chain: whether its service takes requests, and how that stands."""

    role: str
    service: str
    ready: bool
    message: str = ""


class Service(Message):
    id: str
    name: str
    project: str
    phase: ServicePhase
    reason: str
    message: str
    model: str | None = None
    """None: it is a chain."""
    model_version: str | None = None
    """The version that the newest revision resolved, `NAME@3`."""
    steps: list[ServiceStep] = []
    """Of a chain, in order."""
    revision: int
    desired: Literal["run", "stop"] = "run"
    """`stop`: it is being removed."""
    desired_replicas: int
    ready_replicas: int
    replicas: list[Replica] = []
    spec: dict[str, Any]
    created_at: datetime
    version: int = 1


class Event(Message):
    """An append-only fact. `id` orders events and is the SSE id."""

    id: int
    type: str
    """Dotted, e.g. `job.phase`, `run.failed`, `checkpoint.registered`."""
    subject: str
    """`job/NAME`, `service/NAME`, `node/…`."""
    subject_id: str
    project: str
    message: str
    actor: str = ""
    data: dict[str, Any] = {}
    at: datetime


class Checkpoint(Message):
    id: str
    job_id: str
    job_name: str
    run_id: str
    epoch: int
    step: int
    size: int
    loss: float | None = None
    state: Literal["registered", "deleting", "deleted"]
    manifest: CheckpointManifest
    created_at: datetime


class AssetVersion(Message):
    """A version of a model, dataset or tokenizer, with lineage."""

    id: str
    kind: Literal["model", "dataset", "tokenizer"]
    name: str
    project: str
    version: int
    aliases: list[str] = []
    digest: str
    uri: str
    size: int
    metadata: dict[str, Any] = {}
    job_id: str | None = None
    run_id: str | None = None
    inputs: list[str] = []
    """Versions that the run which made it read, as `dataset/NAME@1`."""
    created_at: datetime


class Artifact(Message):
    """Uploaded bytes of a project, named by their SHA-256."""

    digest: str
    size: int


class Cluster(Message):
    id: str
    name: str
    phase: Literal["connected", "silent"]
    slots: int
    slots_free: int
    """Whole ones."""
    slots_shared: int = 0
    """Slots of which replicas hold parts."""
    shared_free: float = 0.0
    """What is left of those, in slots."""
    nodes: int
    agent_id: str | None = None
    address: str = ""
    endpoints_reachable: bool = True
    project: str | None = None
    """The project whose runs alone go there; None: shared by all that are not isolated."""
    versions: dict[str, str] = {}
    last_beat_at: datetime | None = None
    pool: PoolStatus | None = None
    """Of a cluster whose machines come by themselves."""


class LogPolicies(Message):
    """Log policies: the installation's own, and all that a job without any gets."""

    policies: list[LogPolicy] = []
    in_force: list[OrderedPolicy] = []


class Node(Message):
    id: str
    cluster: str
    host: str
    address: str
    phase: Literal["alive", "unknown", "dead"]
    accelerator: str
    slots: int
    slots_free: int
    """Whole ones: a slot that is shared is not free, whatever is left of it."""
    shared_slots: list[SharedSlot] = []
    cordoned: bool = False
    cordon_reason: str = ""
    """Why the platform cordoned it; empty where somebody did."""
    quarantined: bool = False
    quarantined_runs: list[QuarantinedRun] = []
    confirmed_dead: ConfirmedDeath | None = None
    faults: list[NodeFault] = []
    """Newest first, until somebody uncordons it."""
    cpus: float
    memory: int
    labels: dict[str, str] = {}
    topology: str = ""
    """Where it is in the network, from the widest domain to the narrowest: `zone-a/rack-3`."""
    is_head: bool = False
    versions: dict[str, str] = {}
    """Of `quarterdeck`, `ray` and `python`, where its agent tells."""


class Key(Message):
    id: str
    name: str
    access: Access
    project: str | None = None
    """None: every project."""
    cluster: str | None = None
    """An agent's key may be bound to one cluster."""
    prefix: str
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    streams: int | None = None
    """Inference requests at once. None: no such limit."""
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


class NewKey(Key):
    """The answer to a creation: the only time the secret is shown."""

    key: str


class SecretInfo(Message):
    name: str
    project: str
    version: int
    updated_at: datetime


class Project(Message):
    name: str
    isolation: Isolation = "shared"
    """cluster: its runs go to clusters of its own alone, where nobody else's run."""
    clusters: list[str] = []
    """Its own."""
    created_at: datetime


class MetricPoint(Message):
    step: int
    epoch: int
    at: datetime
    values: dict[str, float]


class LogLine(Message):
    cursor: str
    """Opaque position, usable as Last-Event-ID."""
    rank: int
    """-1 in a notice."""
    epoch: int
    at: float
    line: str
    stream: str = "output"
    """`output`, `setup`, or `notice`: the platform's own word on lines that are missing."""


class Applied(Message):
    """What `apply` did, or would do, with one document."""

    kind: str
    name: str
    id: str | None = None
    action: Literal["created", "updated", "unchanged", "deleted"]
    message: str = ""
    """E.g. `starts ≈14:10`, `revision 7`."""


class ApplyRequest(Message):
    """POST /api/v1/apply: one transaction. `replace` cancels a live job whose spec changed."""

    documents: list[dict[str, Any]]
    prune: bool = False
    dry_run: bool = False
    replace: bool = False
    force: bool = False
    """Submit although the planner says that it cannot fit."""


class ApplyResult(Message):
    results: list[Applied]
    dry_run: bool = False


class Problem(Message):
    """RFC 9457. `type` is `/problems/NAME`, whose page says the remedy."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] = []
    instance: str | None = None


class FieldProblem(Message):
    """One wrong field: `path` as `documents[1].training.tokens`."""

    path: str
    message: str
    line: int | None = None


class Why(Message):
    """GET /api/v1/{jobs|services}/{id}/why: why it is in the state it is in."""

    subject: str
    phase: str
    reason: str
    message: str
    facts: list[str] = []


Problem.model_rebuild()
