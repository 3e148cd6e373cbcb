"""What agents say to the api and hear back, a run's order among it; supervisors: see beats.

Additive only: a supervisor may be older or newer than the control plane, so unknown fields are
ignored and every new field has a default. Times are UTC; sizes are bytes; durations seconds.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from quarterdeck.specs.accelerator_share import WHOLE
from quarterdeck.specs.base import Message, Name
from quarterdeck.specs.beats import CheckpointManifest, FileEntry
from quarterdeck.specs.log_policies import OrderedPolicy
from quarterdeck.specs.warming import WarmReport, WeightsToWarm


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
    versions: dict[str, str] = {}
    """Of `quarterdeck`, `ray` and `python`, when its Ray was started; empty: nothing is known."""


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
    project: Name | None = None
    """The project whose runs alone go to this cluster; None: shared."""
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


class JoinRequest(Message):
    """What a machine tells that wants to join a cluster; earlier versions tell nothing."""

    host: Annotated[str, Field(min_length=1, max_length=253)]
    address: Annotated[str, Field(max_length=253)] = ""
    versions: Annotated[dict[str, Annotated[str, Field(max_length=100)]], Field(max_length=20)] = {}
    """Of `quarterdeck`, `ray` and `python`."""


class JoinTicket(Message):
    """What a machine that joins a cluster needs. Holds a credential."""

    cluster: str
    address: str
    ray_token: str
    silent: bool = False
    """Its agent is not heard: the head may be gone, and another come up at another address."""
    versions: dict[str, str] = {}
    """Of the head: Ray refuses a machine that has another Ray or Python."""


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
    accelerator: str = ""
    """Its node's, when it was placed; empty where an older controller placed it."""


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


SupervisorReport.model_rebuild()
Stranger.model_rebuild()
AgentBeat.model_rebuild()
WeightsOrder.model_rebuild()
ResumeFrom.model_rebuild()
RunOrder.model_rebuild()
