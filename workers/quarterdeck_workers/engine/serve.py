"""A replica of a service: start its engine, say how far it is, show that it answers, watch it,
drain it when told to stop."""

from __future__ import annotations

import math
import socket
import sys
import threading
import time
import traceback
from typing import Any

from quarterdeck_workers.engine.adapters import ADAPTERS
from quarterdeck_workers.engine.engine_failures import EngineFailed, why_raised
from quarterdeck_workers.engine.liveness import (
    PROBE_EVERY,
    PROBE_TIMEOUT,
    Liveness,
    ProbeOutcome,
)
from quarterdeck_workers.engine.metric_names import EngineLoad
from quarterdeck_workers.engine.model_files import local_folder
from quarterdeck_workers.engine.probing import EngineClient, HealthWatch
from quarterdeck_workers.engine.replicas import BuiltinReplica, ProgramReplica, Replica
from quarterdeck_workers.engine.start_progress import StartProgress
from quarterdeck_workers.engine.start_record import keep_start, last_start, record_of
from quarterdeck_workers.rank.context import RankContext, StopRequest
from quarterdeck_workers.rank.errors import blame_of

_REPORT_EVERY = 2.0
_POLL_EVERY = 0.1
_FIRST_ANSWER = 120.0
_WRONG_ANSWERS = 3
_LAST_ANSWERS = 1.0  # seconds of the deadline kept for closing connections


def main(
    context: RankContext, probe_every: float = PROBE_EVERY, probe_timeout: float = PROBE_TIMEOUT
) -> None:
    """Serve `order.inputs['model'][0]` under the service's name until told to stop.

    A failure is reported with its typed reason, then the process leaves with code 1. Times are
    seconds.
    """
    try:
        _serve(context, probe_every, probe_timeout)
    except Exception as error:
        text = traceback.format_exc()
        sys.stderr.write(text)
        failed = why_raised(error, text)
        blame = failed.blame if failed.blame != "unknown" else blame_of(error)
        context.failure(str(failed), failed.output or text, blame, reason=failed.reason)
        raise SystemExit(1) from error


def _serve(context: RankContext, probe_every: float, probe_timeout: float) -> None:
    order, spec = context.order, context.order.spec
    models = order.inputs.get("model") or []
    if not models:
        raise ValueError("inputs.model: the order names no model version to serve")
    nodes = {place.node_id for place in order.placements}
    if len(nodes) > 1:
        raise EngineFailed(
            "BadArguments",
            f"parallelism: the ranks of this replica lie on {len(nodes)} machines; an engine "
            "spans one: take smaller degrees, or machines with more accelerators",
        )
    if context.rank != 0:
        _stand_by(context)
        return
    engine = str(spec.get("engine") or "builtin")
    adapter = ADAPTERS[engine]
    record = record_of(
        context.workdir.parent.parent, models[0].digest, models[0].uri, engine,
        *(repr(spec.get(field)) for field in ("engine_args", "command", "parallelism")),
    )  # fmt: skip
    progress = StartProgress(context.phase, time.monotonic, last_start(record))
    address = _address(context.master_address)
    replica: Replica
    if adapter.command_line is None:
        replica = BuiltinReplica(order.owner_name, spec, address, progress)
    else:
        replica = ProgramReplica(order.owner_name, spec, address, progress, adapter)
    try:
        replica.open()
        folder = local_folder(models[0], order.artifacts_options, context.workdir, progress)
        if not replica.start(folder, lambda: context.stop_requested is not None, context.heartbeat):
            return
        context.heartbeat()
        client = EngineClient(
            replica.url, order.owner_name, str(spec.get("probe") or "completion"),
            str(spec.get("ready_path") or adapter.ready_path), adapter.metrics,
        )  # fmt: skip
        progress.enter("probe")
        _first_answer(replica, client, context)
        progress.done()
        keep_start(record, progress.seconds)
        _tell_start(context, progress)
        context.phase(f"serving on {replica.url}", running=True)
        stop = _Watched(context, replica, client).until_stop(probe_every, probe_timeout)
        _drain(context, replica, client, stop)
    finally:
        replica.close()


def _stand_by(context: RankContext) -> None:
    """A further rank holds accelerators that rank 0's engine uses."""
    while context.stop_requested is None:
        context.heartbeat()
        time.sleep(_REPORT_EVERY)


def _first_answer(replica: Replica, client: EngineClient, context: RankContext) -> None:
    """Wait for a really answered request of the service's kind. Raises EngineFailed."""
    deadline = time.monotonic() + _FIRST_ANSWER
    wrong = 0
    while context.stop_requested is None:
        outcome = client.probe(max(PROBE_TIMEOUT, deadline - time.monotonic()))
        if outcome.ok:
            return
        replica.check()
        wrong += not outcome.busy
        if wrong >= _WRONG_ANSWERS or time.monotonic() > deadline:
            raise EngineFailed(
                "Unanswered",
                f"the engine is up but did not answer a real request: {outcome.why}. The spec's "
                "`probe` names its kind: completion, chat, embedding, rerank or search",
            )
        context.heartbeat()
        time.sleep(1.0)


def _tell_start(context: RankContext, progress: StartProgress) -> None:
    total = sum(progress.seconds.values())
    parts = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in progress.seconds.items())
    context.event(
        "replica.started", f"ready after {total:.1f} s: {parts}",
        seconds={phase: round(seconds, 3) for phase, seconds in progress.seconds.items()},
        weights_bytes=progress.bytes_done,
    )  # fmt: skip


class _Watched:
    """A replica that serves: probed on one thread, reported by another."""

    def __init__(self, context: RankContext, replica: Replica, client: EngineClient) -> None:
        self._context, self._replica, self._client = context, replica, client
        self._lock = threading.Lock()
        self._load = client.load()
        self._liveness = Liveness(self._load.progress)

    def until_stop(self, every: float, timeout: float) -> StopRequest:
        """Report until the control plane wants it to stop; raises EngineFailed when it ended."""
        watch = HealthWatch(self._client, every, timeout, self._hear)
        watch.start()
        reported = -math.inf
        healthy = True
        try:
            while (stop := self._context.stop_requested) is None:
                self._replica.check()
                if time.monotonic() - reported >= _REPORT_EVERY:
                    reported = time.monotonic()
                    if healthy:  # one that hangs would hold this thread too
                        self._load = self._client.load()
                    self._report()
                with self._lock:
                    why = self._liveness.why
                if healthy is bool(why):
                    healthy = not why
                    self._context.phase(
                        f"unhealthy: {why}" if why else f"serving on {self._replica.url}"
                    )
                    self._report()
                time.sleep(_POLL_EVERY)
        finally:
            watch.stop()
        return stop

    def _hear(self, outcome: ProbeOutcome, load: EngineLoad) -> None:
        with self._lock:
            self._liveness.probed(outcome, load.progress)

    def _report(self) -> None:
        load = self._load
        with self._lock:
            healthy = self._liveness.healthy
        numbers: dict[str, Any] = {
            "running": load.running, "waiting": load.waiting, "kv_usage": load.kv_usage,
            "generated_tokens": load.generated_tokens,
        }  # fmt: skip
        self._context.endpoint(
            self._replica.url, probed=True, models=[self._context.order.owner_name],
            in_flight=self._replica.in_flight(load), healthy=healthy, **numbers,
        )  # fmt: skip
        self._context.heartbeat()


def _drain(context: RankContext, replica: Replica, client: EngineClient, stop: StopRequest) -> None:
    context.phase(f"draining {replica.in_flight(client.load())} requests")
    now = time.monotonic()
    left = replica.drain(now + max(0.0, stop.deadline - now - _LAST_ANSWERS), client)
    if left:
        context.event(
            "replica.drain_incomplete",
            f"{left} requests were still running at the deadline",
            in_flight=left,
        )


def _address(master: str) -> str:
    """An address of this node that others reach: the rendezvous address where it is ours, else
    the one that routes towards it."""
    try:
        with socket.create_server((master, 0)):
            return master
    except OSError:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((master, 9))  # a datagram socket: nothing is sent
            return str(probe.getsockname()[0])
