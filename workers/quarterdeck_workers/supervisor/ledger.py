"""What a gang's ranks said, as the state of one run. Pure; times are arguments.

`monotonic` measures durations here, `at` in messages is Unix seconds of the rank's machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from quarterdeck.specs.beats import (
    CheckpointManifest,
    Endpoint,
    LogMatch,
    MetricRow,
    OutputAsset,
    RankState,
    RunEvent,
    RunPhase,
)
from quarterdeck.specs.protocol import RankPlacement
from quarterdeck_workers.supervisor.failures import RankFailure, exit_failure
from quarterdeck_workers.supervisor.goodput import Goodput
from quarterdeck_workers.supervisor.spool import Spool
from quarterdeck_workers.supervisor.watchdog import Company, Progress

ENDPOINT_FRESH_SECONDS = 20.0
"""An engine reports every few seconds; older than this it counts as unhealthy."""


@dataclass
class RankRecord:
    """One rank as last heard."""

    placement: RankPlacement
    phase: str = "starting"
    pid: int | None = None
    step: int | None = None
    exit_code: int | None = None
    memory: int = 0
    exited: bool = False
    gone: bool = False
    tail: str = ""
    stopped: bool = False
    """It ended after it was asked to."""
    heard: float = 0.0
    """When it last said anything, monotonic seconds."""

    def state(self) -> RankState:
        """As the control plane hears it."""
        return RankState(
            rank=self.placement.rank, phase=self.phase, node_id=self.placement.node_id,
            pid=self.pid, step=self.step, exit_code=self.exit_code, memory=self.memory,
        )  # fmt: skip


@dataclass
class Ledger:
    """The run's state, fed by `apply`; whatever must be told goes to the spool."""

    kind: str
    placements: Sequence[RankPlacement]
    spool: Spool
    started: float
    resumed: bool = False
    """An attempt after the first."""
    ports: Mapping[int, int] = field(default_factory=dict)
    """By rank: those that ranks were told to open for the others."""
    ranks: dict[int, RankRecord] = field(init=False)
    goodput: Goodput = field(init=False)
    failures: list[RankFailure] = field(default_factory=list)
    message: str = "starting"
    step: int | None = None
    steps_total: int | None = None
    eta_seconds: float | None = None
    running: bool = False
    published: bool = False
    endpoint: Endpoint | None = None
    endpoint_at: float = 0.0
    last_sign: float | None = None
    stepped: bool = False
    released: float | None = None
    stopping: bool = False
    killing: bool = False
    urgent: bool = False

    def __post_init__(self) -> None:
        self.ranks = {place.rank: RankRecord(place) for place in self.placements}
        self.goodput = Goodput(len(self.placements), self.started, resumed=self.resumed)

    # --- hearing ---------------------------------------------------------------------------

    def apply(self, rank: int, message: dict[str, Any], now: float) -> None:
        """Take one message of a rank; unknown types are ignored (a newer rank may send them)."""
        handler = getattr(self, f"_on_{message.get('type')}", None)
        if handler is not None:
            handler(self.ranks[rank], message, now)

    def _on_pid(self, rank: RankRecord, message: dict[str, Any], now: float) -> None:
        rank.pid, rank.phase = int(message["pid"]), "running"
        if self.kind == "command" and all(each.pid for each in self.ranks.values()):
            self.running, self.message, self.urgent = True, "running", True
            self.goodput.working(now)

    def _on_phase(self, rank: RankRecord, message: dict[str, Any], now: float) -> None:
        self._sign(now)
        if rank.placement.rank == 0 or self.message == "starting":
            self.message = str(message.get("message", ""))
        if message.get("running") and not self.running:
            self.running = self.urgent = True
            self.goodput.working(now)

    def _on_heartbeat(self, rank: RankRecord, message: dict[str, Any], now: float) -> None:
        self._sign(now)

    def _on_step(self, rank: RankRecord, message: dict[str, Any], now: float) -> None:
        self._sign(now)
        step = int(message["step"])
        if not self.running or self.step is None:
            self.urgent = True
        self.running = self.stepped = True
        rank.step = step
        self.step = step if self.step is None else max(self.step, step)
        if message.get("steps_total") is not None:
            self.steps_total = int(message["steps_total"])
        if message.get("eta_seconds") is not None:
            self.eta_seconds = float(message["eta_seconds"])
        total = f" of {self.steps_total}" if self.steps_total else ""
        self.message = f"step {self.step}{total}"
        seconds = float(message.get("seconds") or 0.0)
        at = float(message["at"])
        self.goodput.step(rank.placement.rank, step, seconds, at=at, now=now)
        if metrics := message.get("metrics"):
            values = {str(name): float(value) for name, value in metrics.items()}
            self.spool.add_metrics(MetricRow(step=step, values=values, at=_time(message)))

    def _on_checkpoint(self, rank: RankRecord, message: dict[str, Any], now: float) -> None:
        self._sign(now)
        manifest = CheckpointManifest.model_validate(message["manifest"])
        self.goodput.checkpoint(
            rank.placement.rank, manifest.save_seconds, at=float(message["at"]), now=now,
            kept=manifest.step,
        )  # fmt: skip
        self.spool.add_checkpoint(manifest)
        self.urgent = True

    def _on_output(self, rank: RankRecord, message: dict[str, Any], now: float) -> None:
        self._sign(now)
        self.spool.add_output(OutputAsset.model_validate(message["asset"]))
        self.published = self.urgent = True

    def _on_result(self, rank: RankRecord, message: dict[str, Any], now: float) -> None:
        self._sign(now)
        self.spool.add_result(str(message["name"]), message["value"])

    def _on_event(self, rank: RankRecord, message: dict[str, Any], now: float) -> None:
        data = dict(message.get("data") or {})
        data.setdefault("rank", rank.placement.rank)
        if message["event"] == "checkpoint_failed":
            seconds = float(data.get("seconds") or 0.0)
            number, at = rank.placement.rank, float(message["at"])
            self.goodput.checkpoint(number, seconds, at=at, now=now)
        self.event(str(message["event"]), str(message["message"]), _time(message), **data)

    def _on_log_match(self, rank: RankRecord, message: dict[str, Any], now: float) -> None:
        self.spool.add_log_match(
            LogMatch(
                policy=message["policy"], verdict=message["verdict"], line=str(message["line"]),
                rank=rank.placement.rank, node_id=rank.placement.node_id,
                at=float(message["at"]), trusted=bool(message["trusted"]),
            )
        )  # fmt: skip
        self.urgent = True

    def _on_endpoint(self, rank: RankRecord, message: dict[str, Any], now: float) -> None:
        self._sign(now)
        fresh = self.endpoint is None
        healthy = self.endpoint is None or self.endpoint.healthy
        self.endpoint = Endpoint.model_validate(message)
        self.endpoint_at = now
        self.running = True
        self.goodput.working(now)
        self.urgent = self.urgent or fresh or self.endpoint.healthy is not healthy

    def _on_failure(self, rank: RankRecord, message: dict[str, Any], now: float) -> None:
        self.fail(
            RankFailure(
                rank.placement.rank, float(message["at"]), message["blame"],
                str(message["message"]), str(message["traceback"]), explained=True,
                reason=str(message.get("reason", "")),
            )
        )  # fmt: skip

    def _on_exit(self, rank: RankRecord, message: dict[str, Any], now: float) -> None:
        rank.exited, rank.exit_code = True, message.get("code")
        rank.phase = "succeeded" if rank.exit_code == 0 else "failed"
        rank.stopped = self.stopping
        self.urgent = True
        failure = exit_failure(
            self.kind, rank.placement.rank, float(message["at"]), code=message.get("code"),
            number=message.get("signal"), oom=bool(message.get("oom")), tail=rank.tail,
            port=self.ports.get(rank.placement.rank), filled=str(message.get("filled", "")),
        )  # fmt: skip
        if failure is None or (self.stopping and self.kind == "command"):
            return
        self.fail(failure)

    def _on_gone(self, rank: RankRecord, message: dict[str, Any], now: float) -> None:
        rank.gone = True
        if not rank.exited and not self.killing:
            self.fail(
                exit_failure(
                    self.kind, rank.placement.rank, float(message["at"]), code=None, number=None,
                    oom=False, tail=rank.tail,
                )
            )  # fmt: skip
        rank.exited = True
        if not message.get("clean", True):
            self.event(
                "rank.processes_left", f"rank {rank.placement.rank} left processes that could "
                "not be ended", datetime.now(UTC), rank=rank.placement.rank,
            )  # fmt: skip

    def fail(self, failure: RankFailure | None) -> None:
        """Note a failure, unless the gang is being ended already."""
        if failure is not None and not self.killing:
            self.failures.append(failure)
            self.urgent = True

    def event(self, type_: str, message: str, at: datetime, **data: Any) -> None:
        """A fact for the owner's events."""
        self.spool.add_event(RunEvent(type=type_, message=message, at=at, data=data))

    def _sign(self, now: float) -> None:
        self.last_sign = now

    # --- telling ---------------------------------------------------------------------------

    @property
    def all_gone(self) -> bool:
        """No process of the gang is left."""
        return all(rank.gone for rank in self.ranks.values())

    @property
    def complete(self) -> bool:
        """The work is done, whatever was asked of it meanwhile."""
        if any(rank.exit_code != 0 for rank in self.ranks.values()):
            return False
        if not any(rank.stopped for rank in self.ranks.values()):
            return True
        if self.kind == "command":
            return False
        steps_done = self.steps_total is not None and self.step == self.steps_total
        return self.published or bool(steps_done)

    def progress(self) -> Progress:
        """For the watchdog."""
        return Progress(self.started, self.last_sign, self.stepped)

    def company(self) -> list[Company]:
        """For the watchdog too: how the ranks stand beside each other."""
        return [
            Company(
                rank, record.placement.role, record.exited and record.exit_code == 0,
                max(record.heard, self.started),
            )
            for rank, record in self.ranks.items()
        ]  # fmt: skip

    def phase(self, now: float) -> RunPhase:
        """The phase of a run that has not ended."""
        if self.kind == "service":
            return self._replica_phase(now)
        if self.stopping:
            return "stopping"
        return "running" if self.running else "starting"

    def _replica_phase(self, now: float) -> RunPhase:
        if self.stopping:
            return "draining"
        if self.endpoint is None or not self.endpoint.probed:
            started = any(rank.pid for rank in self.ranks.values())
            return "loading" if started else "starting"
        fresh = now - self.endpoint_at <= ENDPOINT_FRESH_SECONDS
        return "ready" if fresh and self.endpoint.healthy else "unhealthy"

    def close(self, phase: RunPhase) -> None:
        """The run ended as `phase`: what no checkpoint has is kept only by a success, and what a
        replica answered."""
        if self.released is not None:
            kept = phase == "succeeded" or self.kind == "service"
            self.goodput.end(self.released, kept=kept)

    def status(self, phase: RunPhase, now: float) -> dict[str, Any]:
        """The fields of a beat that tell the present state."""
        moment = self.released if self.released is not None else now
        accounts = self.goodput.accounts(moment)
        return {
            "reported_phase": phase,
            "message": self.message,
            "step": self.step,
            "steps_total": self.steps_total,
            "eta_seconds": self.eta_seconds,
            "productive_seconds": accounts.productive,
            "held_seconds": accounts.held,
            "accounts": accounts,
            "unsaved_seconds": self.goodput.unsaved_seconds(moment),
            "lost_seconds": self.goodput.lost_seconds,
            "ranks": [self.ranks[rank].state() for rank in sorted(self.ranks)],
            "endpoint": self.endpoint,
        }


def _time(message: dict[str, Any]) -> datetime:
    return datetime.fromtimestamp(float(message["at"]), tz=UTC)
