"""What a run has to tell, in order, bounded, and exactly once. Pure.

At most one beat is on its way. Until it is acknowledged it is sent again unchanged, and news
gathers behind it; so a beat's content never depends on how often it had to be sent. Metrics, log
lines and plain events are bounded: the oldest go first and are counted. Checkpoints, outputs,
results and the failure are never dropped.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from quarterdeck.specs.beats import (
    CheckpointManifest,
    LogMatch,
    MetricRow,
    OutputAsset,
    RunBeat,
    RunEvent,
)
from quarterdeck_workers.supervisor.line_queue import LineQueue, Stream


@dataclass(frozen=True)
class SpoolLimits:
    """What is kept while the api is away, and what one beat carries at most."""

    metrics: int = 20_000
    lines: int = 50_000
    line_size: int = 16 * 1024 * 1024
    events: int = 1_000
    beat_metrics: int = 1_000
    beat_lines: int = 4_000
    beat_line_size: int = 512 * 1024
    """Sizes of lines are characters."""


class Spool:
    """Everything not yet acknowledged."""

    def __init__(self, limits: SpoolLimits | None = None) -> None:
        self._limits = limits or SpoolLimits()
        self._metrics: OrderedDict[int, MetricRow] = OrderedDict()
        self._lines = LineQueue(self._limits.lines, self._limits.line_size)
        self._events: deque[RunEvent] = deque()
        self._log_matches: deque[LogMatch] = deque()
        self._checkpoints: list[CheckpointManifest] = []
        self._outputs: list[OutputAsset] = []
        self._results: dict[str, Any] = {}
        self._dropped = 0
        self._seq = 0
        self._pending: RunBeat | None = None

    # --- filling ---------------------------------------------------------------------------

    def add_metrics(self, row: MetricRow) -> None:
        """Metrics of a step; what several ranks say of one step is one row while it waits."""
        if (waiting := self._metrics.get(row.step)) is not None:
            merged = {**waiting.values, **row.values}
            self._metrics[row.step] = waiting.model_copy(update={"values": merged})
            return
        self._metrics[row.step] = row
        if len(self._metrics) > self._limits.metrics:
            self._metrics.popitem(last=False)
            self._dropped += 1

    def add_lines(
        self, rank: int, lines: list[tuple[float, str]], stream: Stream = "output"
    ) -> None:
        """Output lines of a rank."""
        self._dropped += self._lines.add(rank, lines, stream)

    def add_event(self, event: RunEvent) -> None:
        """A fact for the owner's events."""
        self._events.append(event)
        if len(self._events) > self._limits.events:
            self._events.popleft()
            self._dropped += 1

    def add_log_match(self, match: LogMatch) -> None:
        """A line that a log policy knows."""
        self._log_matches.append(match)
        if len(self._log_matches) > self._limits.events:
            self._log_matches.popleft()
            self._dropped += 1

    def add_checkpoint(self, manifest: CheckpointManifest) -> None:
        """A checkpoint to register."""
        self._checkpoints.append(manifest)

    def add_output(self, asset: OutputAsset) -> None:
        """A version to publish."""
        self._outputs.append(asset)

    def add_result(self, name: str, value: Any) -> None:
        """A named result; a later one of the same name replaces it."""
        self._results[name] = value

    def add_dropped(self, count: int) -> None:
        """Items that were lost before they came here."""
        self._dropped += count

    # --- emptying --------------------------------------------------------------------------

    @property
    def empty(self) -> bool:
        """Nothing is waiting and nothing is on its way."""
        waiting = (
            self._metrics, self._lines, self._events, self._checkpoints, self._outputs,
            self._results, self._log_matches,
        )  # fmt: skip
        return self._pending is None and not any(waiting)

    @property
    def pending(self) -> bool:
        """A beat is on its way, made of an earlier state."""
        return self._pending is not None

    @property
    def backlog(self) -> bool:
        """More than one beat's worth waits: send the next at once."""
        limits = self._limits
        return (
            len(self._metrics) > limits.beat_metrics
            or len(self._lines) > limits.beat_lines
            or self._lines.size > limits.beat_line_size
        )

    def next(self, status: dict[str, Any], sent_at: datetime) -> RunBeat:
        """The beat to send: the one on its way, else a new one of `status` and what waits.

        `status` holds RunBeat's fields of the present state (phase, step, ranks, …).
        """
        if self._pending is not None:
            return self._pending
        self._seq += 1
        metrics = [
            self._metrics.popitem(last=False)[1]
            for _ in range(min(len(self._metrics), self._limits.beat_metrics))
        ]
        self._pending = RunBeat(
            **status, seq=self._seq, sent_at=sent_at, metrics=metrics,
            logs=self._lines.take(self._limits.beat_lines, self._limits.beat_line_size),
            events=list(self._events), checkpoints=self._checkpoints, outputs=self._outputs,
            results=self._results, log_matches=list(self._log_matches), dropped=self._dropped,
        )  # fmt: skip
        self._events.clear()
        self._log_matches.clear()
        self._checkpoints, self._outputs, self._results = [], [], {}
        self._dropped = 0
        return self._pending

    def acknowledge(self, seq: int) -> None:
        """The api has stored the beat of this number."""
        if self._pending is not None and self._pending.seq <= seq:
            self._pending = None

    def lighten(self) -> bool:
        """The api refused the waiting beat's content: leave its bulk out and count it.

        False when nothing is left to leave out; then the beat is given up.
        """
        beat = self._pending
        if beat is None:
            return False
        bulk = len(beat.metrics) + sum(len(chunk.lines) for chunk in beat.logs) + len(beat.events)
        if bulk == 0:
            self._pending = None
            return False
        self._pending = beat.model_copy(
            update={"metrics": [], "logs": [], "events": [], "dropped": beat.dropped + bulk}
        )
        return True
