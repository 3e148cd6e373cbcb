"""What supervisors say of their runs to the api, and hear back.

Additive only, as `protocol` is. Times are UTC; sizes are bytes; durations seconds.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from quarterdeck.specs.base import Message
from quarterdeck.specs.log_policies import Verdict

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
