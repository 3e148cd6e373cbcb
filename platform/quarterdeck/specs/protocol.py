"""What agents and supervisors say to the api, and hear back.

Additive only: a supervisor may be older or newer than the control plane, so unknown fields are
ignored and every new field has a default. Times are UTC; sizes are bytes; durations seconds.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from quarterdeck.specs.accelerator_share import WHOLE
from quarterdeck.specs.base import Message
from quarterdeck.specs.log_policies import OrderedPolicy, Verdict
from quarterdeck.specs.warming import WarmReport, WeightsToWarm

# --- agent -----------------------------------------------------------------------------------


class NodeReport(Message):
    """One machine of the agent's cluster as Ray sees it now."""

    node_id: str
    """Ray's node id: unique for each start of a raylet."""
    host: str
    address: str
    slots: int
    """Accelerators, or declared slots of a machine without."""
    accelerator: str = "cpu"
    cpus: float = 0
    memory: int = 0
    labels: dict[str, str] = {}
    alive: bool = True
    is_head: bool = False


class RunSighting(Message):
    """What the agent knows of one run. `dead` only with proof (ActorDiedError, absent by name
    in a reachable cluster); an unreachable actor is `unknown`."""

    run_id: str
    epoch: int
    state: Literal["alive", "dead", "unknown"]
    detail: str = ""


class SupervisorReport(Message):
    """What a supervisor says of its run, from its order: enough to make the run's row again."""

    run_id: str
    epoch: int
    attempt: int = 1
    owner_type: Literal["job", "service"]
    owner_id: str
    owner_name: str
    project: str = "default"
    kind: str
    spec: dict[str, Any]
    cluster: str
    placements: list[RankPlacement]
    inputs: dict[str, list[ResolvedAsset]] = {}
    resume_checkpoint: str | None = None
    resumed_from_step: int | None = None
    key_sha256: str
    """Digest of the run's key, so that its beats are taken again."""
    started_at: datetime | None = None


class Stranger(Message):
    """A supervisor that lives on the cluster and is not in the agent's list to watch."""

    run_id: str
    epoch: int
    report: SupervisorReport | None = None
    """None: it does not answer, or is too old to know the question."""


class AgentBeat(Message):
    """POST /api/v1/agents/{cluster}/beat, every two seconds. The first one creates the cluster."""

    agent_id: str
    """Random for each start of an agent: a newer one takes the cluster over."""
    started_at: datetime
    address: str = ""
    """Ray's head address, for machines that join; empty where none may."""
    ray_token: str = ""
    """Ray's token, handed to machines that join; stored encrypted."""
    endpoints_reachable: bool = True
    """Whether gateways outside can reach engines of this cluster directly."""
    versions: dict[str, str] = {}
    nodes: list[NodeReport] = []
    runs: list[RunSighting] = []
    generation: int | None = None
    """The generation that came with the list to watch to which `strangers` was compared; None:
    this beat says nothing of strangers."""
    strangers: list[Stranger] = []
    """All of them. There are none, unless a backup of the database was restored."""
    warmed: list[WarmReport] = Field(default=[], max_length=5000)
    """How far the weights are that nodes fetch ahead."""


class RunToStart(Message):
    """A run placed on this cluster that nobody claimed yet."""

    run_id: str
    epoch: int


class RunToKill(Message):
    """An explicit kill: the only reason for an agent to end a supervisor."""

    run_id: str
    epoch: int
    reason: str


class TunnelToOpen(Message):
    """A user waits for a connection into a run: the rank's node opens it, outwards."""

    tunnel_id: str
    run_id: str
    epoch: int
    rank: int
    kind: Literal["exec", "attach", "forward"]
    token: str
    """Opens this one tunnel, as the bearer of GET /api/v1/agents/{cluster}/tunnels/{id}."""


class AgentWork(Message):
    """GET /api/v1/agents/{cluster}/work?wait=20 (long poll): what there is to do."""

    generation: int = 0
    start: list[RunToStart] = []
    kill: list[RunToKill] = []
    watch: list[RunToStart] = []
    """Runs claimed on this cluster whose liveness the agent reports in its beats."""
    tunnels: list[TunnelToOpen] = []
    warm: list[WeightsToWarm] = []
    """Weights to bring to nodes ahead, in the order in which they were asked for."""


class Claim(Message):
    """POST /api/v1/runs/{id}/claim: compare-and-swap, once per epoch; 409 `already_claimed`."""

    epoch: int
    agent_id: str


class RankPlacement(Message):
    """Where one rank of a gang runs."""

    rank: int
    role: str = "trainer"
    node_id: str
    slots: int = 1
    local_rank: int = 0
    share: int = WHOLE
    """Thousandths of its slot that it takes."""
    shared_slot: int | None = None
    """Which of the node's shared slots that one is; None: whole slots, which nobody shares."""


class ResolvedAsset(Message):
    """A version of a model, dataset or tokenizer that a run reads."""

    kind: Literal["model", "dataset", "tokenizer"]
    name: str
    version: int
    digest: str
    uri: str
    """Folder of the version's files (artifact store), or the dataset's own URI."""
    split: Literal["train", "held_out"] | None = None
    metadata: dict[str, Any] = {}


class WeightsOrder(Message):
    """GET /api/v1/agents/{cluster}/weights/{asset_id}: all that a node needs to fetch them. Holds
    credentials: never log it."""

    model: ResolvedAsset
    files: list[FileEntry]
    artifacts_options: dict[str, Any] = {}


class ResumeFrom(Message):
    """The last registered checkpoint of the job."""

    checkpoint_id: str
    step: int
    uri: str
    manifest: CheckpointManifest


class RunOrder(Message):
    """The answer to a claim: all that a supervisor needs. Holds credentials: never log it."""

    run_id: str
    epoch: int
    attempt: int = 1
    owner_type: Literal["job", "service"]
    owner_id: str
    owner_name: str
    project: str = "default"
    kind: str
    spec: dict[str, Any]
    """The submitted spec, with `auto` layouts replaced by the planner's."""
    cluster: str
    placements: list[RankPlacement]
    inputs: dict[str, list[ResolvedAsset]] = {}
    """By the spec's field: `datasets`, `tokenizer`, `dataset`, `model`."""
    resume: ResumeFrom | None = None
    mean_time_to_failure: float | None = None
    """Seconds, observed on this cluster, for `checkpoints: {every: auto}`; None: a default."""
    artifacts_uri: str
    artifacts_options: dict[str, Any] = {}
    secrets: dict[str, str] = {}
    env_secrets: list[str] = []
    log_policies: list[OrderedPolicy] = []
    api_url: str
    run_key: str
    stall_after: float = 300.0
    stall_after_first: float = 600.0


# --- supervisor --------------------------------------------------------------------------------

Blame = Literal["user_code", "data", "memory", "node", "network", "disk", "unknown"]
RunPhase = Literal[
    "assigned", "starting", "running", "loading", "ready", "unhealthy", "draining", "stopping",
    "succeeded", "failed", "lost", "preempted", "cancelled",
]  # fmt: skip


class FileEntry(Message):
    path: str
    size: int
    sha256: str


class CheckpointManifest(Message):
    """What makes a checkpoint: written last, registered to exist. Under {job}/{epoch}/{step}/."""

    step: int
    epoch: int
    uri: str
    files: list[FileEntry]
    layout: dict[str, int] = {}
    sample_index: int = 0
    """Global samples consumed: the next sample to read."""
    skipped_windows: list[tuple[int, int]] = []
    loss: float | None = None
    tokens: int = 0
    save_seconds: float = 0.0
    state: dict[str, Any] = {}
    """Small scalars of the trainer: learning-rate position, seeds, loss scale."""


class MetricRow(Message):
    """Metrics of one step; keyed (job, step, epoch), a later epoch supersedes."""

    step: int
    values: dict[str, float]
    at: datetime


class LogChunk(Message):
    """Lines of one rank in order. `seq` is per (run, rank): receivers drop what they have."""

    rank: int
    seq: int
    stream: Literal["output", "setup"] = "output"
    lines: list[tuple[float, str]]
    """(unix seconds, line without its newline)."""


class OutputAsset(Message):
    """A version that the run publishes: exists when the api has registered it."""

    kind: Literal["model", "dataset", "tokenizer"]
    name: str
    digest: str
    uri: str
    size: int = 0
    files: list[FileEntry] = []
    metadata: dict[str, Any] = {}


class RunEvent(Message):
    """A fact worth keeping: becomes an event of the owner."""

    type: str
    message: str
    at: datetime
    data: dict[str, Any] = {}


class LogMatch(Message):
    """A line of a rank's output that a log policy knows."""

    policy: str
    verdict: Verdict
    rank: int
    node_id: str
    line: str
    """Its first 500 characters."""
    at: float
    """Unix seconds."""
    trusted: bool = True


class Failure(Message):
    """The first failure of the gang."""

    rank: int | None
    blame: Blame
    message: str
    traceback: str = ""
    exit_code: int | None = None
    signal: int | None = None
    stacks: dict[int, str] = {}
    """Stacks of all ranks, where a stall was the failure."""
    reason: str = ""
    """What kind of failure, in one word, where it is known: `OutOfMemory`, `PortInUse`,
    `ModelMissing`, `EngineMissing`, `BadArguments`, `StartTimeout`, `Unanswered`, `Crashed`."""


class Endpoint(Message):
    """Where a replica's engine answers, and what it showed."""

    url: str
    probed: bool
    """A token was really generated."""
    models: list[str] = []
    in_flight: int = 0
    healthy: bool = True
    """False once it answers no real request any more and generates nothing."""
    running: float | None = None
    """Sequences that it computes; None here and below where the engine does not tell."""
    waiting: float | None = None
    """Sequences in its own queue."""
    kv_usage: float | None = None
    """Share of its key-value cache that is held, 0 to 1."""
    generated_tokens: float | None = None
    """Since its start."""


class RankState(Message):
    rank: int
    phase: str
    node_id: str = ""
    pid: int | None = None
    step: int | None = None
    exit_code: int | None = None
    memory: int = 0


class RankSeconds(Message):
    """Rank-seconds held since a run's start, each in exactly one account: their sum is what was
    held. Seconds of wall time × ranks."""

    productive: float = 0.0
    """In steps (of a program that tells none: at work)."""
    checkpoint: float = 0.0
    """Writing checkpoints and results."""
    restart: float = 0.0
    """A later attempt until its first step, and work that an end threw away."""
    stalled: float = 0.0
    """Between steps without working on one, and stalls."""
    starting: float = 0.0
    """The first attempt until its first step."""

    @property
    def held(self) -> float:
        return self.productive + self.checkpoint + self.restart + self.stalled + self.starting


class RunBeat(Message):
    """POST /api/v1/runs/{id}/beat with the run's key: idempotent by `seq`."""

    epoch: int
    seq: int
    """Starts at 1, by one for each new beat; a replay carries the same number and content."""
    sent_at: datetime
    reported_phase: RunPhase
    message: str = ""
    """What it does now, for people: `loading data`, `step 12 of 100`."""
    step: int | None = None
    steps_total: int | None = None
    eta_seconds: float | None = None
    productive_seconds: float = 0.0
    """Rank-seconds inside steps since the run's start."""
    held_seconds: float = 0.0
    """Rank-seconds held since the run's start."""
    accounts: RankSeconds | None = None
    """Where they went; None from a supervisor that does not know yet."""
    unsaved_seconds: float = 0.0
    """Of the productive ones, those after the last checkpoint: a failure throws them away."""
    lost_seconds: float = 0.0
    """Of the restart ones, those that this attempt's own end threw away."""
    ranks: list[RankState] = []
    metrics: list[MetricRow] = Field(default=[], max_length=5000)
    logs: list[LogChunk] = Field(default=[], max_length=5000)
    checkpoints: list[CheckpointManifest] = []
    outputs: list[OutputAsset] = []
    results: dict[str, Any] = {}
    """Named results of the job, e.g. perplexity; merged over beats."""
    events: list[RunEvent] = Field(default=[], max_length=1000)
    log_matches: list[LogMatch] = Field(default=[], max_length=1000)
    failure: Failure | None = None
    endpoint: Endpoint | None = None
    dropped: int = 0
    """Items that the bounded spool had to drop while the api was away: event telemetry_gap."""


class BeatReply(Message):
    """What the control plane wants of the run. 409 `stale_epoch` means: die."""

    order: Literal["continue", "checkpoint_and_stop", "stop", "die"] = "continue"
    deadline_seconds: float = 30.0
    reason: str = ""
    acked_seq: int = 0


SupervisorReport.model_rebuild()
Stranger.model_rebuild()
AgentBeat.model_rebuild()
WeightsOrder.model_rebuild()
ResumeFrom.model_rebuild()
RunOrder.model_rebuild()
