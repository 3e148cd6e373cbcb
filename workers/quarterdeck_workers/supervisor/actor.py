"""The supervisor: the life of one run, from its order to its acknowledged end.

A detached Ray actor, so that it outlives its agent. It owns the placement group and the rank
actors: killing it ends them, and the watchers of their processes end those.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import ray
from ray.exceptions import RayError

from quarterdeck.specs.beats import BeatReply, RunPhase
from quarterdeck.specs.protocol import RunOrder, SupervisorReport, TunnelToOpen
from quarterdeck_workers.rank.process import RankNews
from quarterdeck_workers.supervisor.beats import Beats, client_for
from quarterdeck_workers.supervisor.failures import (
    SETTLE_SECONDS,
    RankFailure,
    first_failure,
)
from quarterdeck_workers.supervisor.gang import Gang, GangFailed, Lost
from quarterdeck_workers.supervisor.ledger import Ledger
from quarterdeck_workers.supervisor.presence import present
from quarterdeck_workers.supervisor.spool import Spool
from quarterdeck_workers.supervisor.watchdog import left_waiting, odd_one_out, stalled

NAMESPACE = "quarterdeck"
FINAL_GRACE_SECONDS = 3600.0
"""How long the end of a run waits for an api that is away."""
ORDER_SECONDS = 60.0
EXIT_GRACE = 600.0
_TICK_SECONDS = 0.25
_KILL_MARGIN_SECONDS = 3.0
log = logging.getLogger(__name__)


def actor_name(run_id: str, epoch: int) -> str:
    """The supervisor's name in Ray: one per run and epoch."""
    name = run_id if run_id.startswith("run-") else f"run-{run_id}"
    return f"{name}-{epoch}"


def run_of(name: str) -> tuple[str, int] | None:
    """The run and epoch of a supervisor's name in Ray; None: the name is of something else."""
    run_id, _, epoch = name.rpartition("-")
    return (run_id, int(epoch)) if run_id.startswith("run-") and epoch.isdigit() else None


def report_of(order: RunOrder, started_at: datetime) -> SupervisorReport:
    """An order without its credentials, and with the digest of the run's key."""
    known = order.model_dump(mode="json", exclude={"secrets", "env_secrets", "artifacts_options"})
    return SupervisorReport.model_validate(
        {
            **known,
            "resume_checkpoint": order.resume.checkpoint_id if order.resume else None,
            "resumed_from_step": order.resume.step if order.resume else None,
            "key_sha256": hashlib.sha256(order.run_key.encode()).hexdigest(),
            "started_at": started_at,
        }
    )


class Supervisor:
    """The body of the actor. `run` is called once; `ping` tells that the actor lives."""

    def __init__(self) -> None:
        self._wake = asyncio.Event()
        self._order: BeatReply | None = None
        self._stop_order = ""
        self._stop_deadline: float | None = None
        self._die = False
        self._stacks: dict[int, str] = {}
        self._phase: RunPhase | None = None
        self._failure: RankFailure | None = None
        self._report: SupervisorReport | None = None
        self._called = asyncio.Event()
        self._waiting = asyncio.get_running_loop().create_task(self._leave_without_order())

    async def _leave_without_order(self) -> None:
        """An agent that died between creation and order leaves an actor that nobody needs."""
        try:
            await asyncio.wait_for(self._called.wait(), ORDER_SECONDS)
        except TimeoutError:
            log.error("no order came within %g s: leaving", ORDER_SECONDS)
            os._exit(1)

    async def ping(self) -> bool:
        """A sign of life."""
        return True

    async def open_tunnel(self, request: TunnelToOpen) -> None:
        """Open a user's tunnel beside a rank; a failure shows as a tunnel that never opens."""
        try:
            await self._gang.open_tunnel(request, self._run.api_url, self._run.cluster)
        except (KeyError, StopIteration, TimeoutError, RayError) as error:
            log.warning("tunnel to rank %d was not opened: %s", request.rank, error)

    async def describe(self) -> SupervisorReport:
        """What it works on, for a control plane that has forgotten it. Waits for the order."""
        await self._called.wait()
        assert self._report is not None
        return self._report

    async def run(self, order: RunOrder) -> None:
        """Carry the run to its end, then leave the actor."""
        self._report = report_of(order, datetime.now(UTC))
        self._called.set()
        logging.basicConfig(level=logging.INFO)
        with present("supervisor", order):
            await self._carry(order)
        ray.actor.exit_actor()  # type: ignore[no-untyped-call]

    async def _carry(self, order: RunOrder) -> None:
        self._run = order
        self._spool = Spool()
        self._gang = Gang(order)
        self._ledger = Ledger(
            order.kind, order.placements, self._spool, time.monotonic(),
            resumed=order.owner_type == "job" and order.attempt > 1, ports=self._gang.ports,
        )  # fmt: skip
        client = client_for(order.api_url, order.run_key)
        self._beats = Beats(client, order.run_id, self._spool, self._status, self._on_reply)
        beating = asyncio.create_task(self._beats.run())
        try:
            await self._work()
        except Exception as error:
            log.exception("the supervisor itself failed")
            message = f"the supervisor failed: {type(error).__name__}: {error}"
            self._ledger.failures.append(RankFailure(None, time.time(), "unknown", message))
        self._ledger.killing = True
        await self._gang.end()
        self._ledger.released = time.monotonic()
        await self._finish(beating)
        client.close()

    # --- working ---------------------------------------------------------------------------

    async def _work(self) -> None:
        try:
            await self._gang.create()
        except GangFailed as error:
            self._fail(error)
            return
        followers = [asyncio.create_task(self._follow(node_id)) for node_id in self._gang.hosts]
        try:
            if await self._started():
                await self._until_over()
                await self._publish()
                await self._keep_folder()
                await self._hold()
        finally:
            self._ledger.killing = True
            await self._gang.kill()
            _, late = await asyncio.wait(followers, timeout=_KILL_MARGIN_SECONDS)
            for follower in late:
                follower.cancel()

    async def _started(self) -> bool:
        """Start the gang; False when it could not start, or was told to stop before it had.

        Only a `setup` may take long: without one an order to stop waits for the ranks.
        """
        if self._run.spec.get("setup"):
            self._ledger.message = "setting up"
        starting = asyncio.create_task(self._gang.start())
        while not starting.done() and not self._die:
            if self._run.spec.get("setup") and self._order is not None:
                await self._obey()
                break
            await asyncio.wait([starting], timeout=_TICK_SECONDS)
        if not starting.done():
            starting.cancel()
            self._gang.give_up()
            return False
        try:
            starting.result()
        except GangFailed as error:
            self._fail(error)
            self._gang.give_up()
            return False
        return not self._die

    def _fail(self, error: GangFailed) -> None:
        self._ledger.fail(
            RankFailure(error.rank, time.time(), error.blame, str(error), traceback=error.tail)
        )

    async def _follow(self, node_id: str) -> None:
        try:
            lost = await self._gang.follow(node_id, self._hear)
        except Exception as error:
            log.exception("host %s cannot be followed", node_id)
            lost = Lost("unknown", f"host {node_id} cannot be followed: {type(error).__name__}")
        if lost is not None:
            ranks = [place.rank for place in self._gang.hosts[node_id]]
            self._ledger.fail(RankFailure(ranks[0], time.time(), lost.blame, lost.message))
            for rank in ranks:
                record = self._ledger.ranks[rank]
                record.gone = record.exited = True
                record.phase = "lost"
        self._wake.set()

    def _hear(self, rank: int, news: RankNews) -> None:
        now = time.monotonic()
        self._spool.add_lines(rank, news.setup_lines, "setup")
        self._spool.add_lines(rank, news.lines)
        self._spool.add_dropped(news.dropped)
        record = self._ledger.ranks[rank]
        record.memory = news.memory
        if news.lines or news.messages:
            record.heard = now
        record.tail = news.tail or record.tail
        for message in news.messages:
            try:
                self._ledger.apply(rank, message, now)
            except (KeyError, ValueError, TypeError) as error:
                log.warning("rank %d said something unreadable: %s", rank, error)
        if self._ledger.urgent:
            self._ledger.urgent = False
            self._wake.set()
            self._beats.hurry()

    async def _until_over(self) -> None:
        """Return when every rank has ended, or the gang must be ended."""
        ledger = self._ledger
        failed_at: float | None = None
        while not ledger.all_gone:
            now = time.monotonic()
            if self._die:
                return
            if ledger.failures:
                failed_at = failed_at if failed_at is not None else now
                if now - failed_at > SETTLE_SECONDS:
                    return
            if self._stop_deadline is not None and now > self._stop_deadline:
                self._tell("run.stop_overdue", "it did not stop in time and was ended")
                return
            await self._obey()
            await self._watch(now)
            self._wake.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _TICK_SECONDS)

    async def _publish(self) -> None:
        """Keep what a succeeded command hands on; an order to die ends that too."""
        if self._die or not self._run.spec.get("outputs") or not self._ledger.complete:
            return
        self._ledger.message = "keeping its outputs"
        keeping = asyncio.create_task(self._gang.publish())
        while not keeping.done() and not self._die:
            await asyncio.wait([keeping], timeout=_TICK_SECONDS)
        if not keeping.done():
            keeping.cancel()
            return
        try:
            for asset in keeping.result():
                self._spool.add_output(asset)
        except GangFailed as error:
            self._fail(error)

    async def _keep_folder(self) -> None:
        """Register the last state of the folder that attempts hand on, whatever the end was."""
        policy = self._run.spec.get("checkpoints")
        if self._die or self._run.kind != "command" or not policy or not policy.get("path"):
            return
        self._ledger.killing = True
        await self._gang.keep()  # so that nothing writes any more
        self._ledger.message = "keeping its folder"
        keeping = asyncio.create_task(self._gang.keep_folder())
        while not keeping.done() and not self._die:
            await asyncio.wait([keeping], timeout=_TICK_SECONDS)
        if not keeping.done():
            keeping.cancel()
            return
        try:
            if (manifest := keeping.result()) is not None:
                self._spool.add_checkpoint(manifest)
        except GangFailed as error:
            self._tell("checkpoint.failed", str(error))

    async def _hold(self) -> None:
        """After a failure keep what the ranks had for people to look at, until the time is over
        or an order comes."""
        seconds = float(self._run.spec.get("hold_on_failure") or 0)
        failure = first_failure(self._ledger.failures)
        if not seconds or failure is None or self._die or self._ledger.stopping:
            return
        self._ledger.killing = True
        await self._gang.keep()
        until = datetime.now(UTC) + timedelta(seconds=seconds)
        self._ledger.message = f"held until {until:%Y-%m-%d %H:%M:%S}Z: {failure.message}"
        self._tell("run.held", self._ledger.message)
        self._beats.hurry()
        while datetime.now(UTC) < until and not self._die and self._order is None:
            await asyncio.sleep(_TICK_SECONDS)

    async def _obey(self) -> None:
        order, self._order = self._order, None
        if order is None or self._ledger.stopping:
            return
        self._ledger.stopping = True
        self._stop_order = order.order
        self._ledger.message = f"stopping: {order.reason}" if order.reason else "stopping"
        self._stop_deadline = time.monotonic() + order.deadline_seconds
        self._beats.hurry()
        await self._gang.stop(
            checkpoint=order.order == "checkpoint_and_stop",
            deadline_seconds=order.deadline_seconds,
            reason=order.reason,
        )

    async def _watch(self, now: float) -> None:
        if self._ledger.stopping or self._ledger.failures:
            return
        if self._run.kind == "command":
            grace = float(self._run.spec.get("exit_grace") or EXIT_GRACE)
            left = left_waiting(self._ledger.company(), now, grace)
            if left is not None:
                self._ledger.fail(RankFailure(left[0], time.time(), "user_code", left[1]))
                return
        why = stalled(
            self._ledger.progress(), now, stall_after=self._run.stall_after,
            stall_after_first=self._run.stall_after_first,
            must_report=self._run.kind != "command",
        )  # fmt: skip
        if why is None:
            return
        self._ledger.goodput.stall(now)
        self._stacks = await self._gang.stacks()
        rank = odd_one_out(self._stacks)
        which = "" if rank is None else f"; rank {rank} hangs while the others wait for it"
        self._ledger.fail(RankFailure(rank, time.time(), "unknown", f"stalled: {why}{which}"))

    # --- telling ---------------------------------------------------------------------------

    def _on_reply(self, reply: BeatReply) -> None:
        if reply.order == "die":
            log.warning("told to die: %s", reply.reason)
            self._die = True
        elif reply.order != "continue":
            if self._stop_deadline is not None:
                # A later order may hurry, never prolong.
                hurried = time.monotonic() + reply.deadline_seconds
                self._stop_deadline = min(self._stop_deadline, hurried)
            else:
                self._order = reply
        if reply.order != "continue":
            self._wake.set()

    def _status(self) -> dict[str, Any]:
        now = time.monotonic()
        # The end is told with the last lines: who follows the log stops reading at the end.
        end = None if self._spool.backlog else self._phase
        status = self._ledger.status(end or self._ledger.phase(now), now)
        status["epoch"] = self._run.epoch
        if end is not None and self._failure is not None:
            status["failure"] = self._failure.report(self._stacks)
        return status

    def _tell(self, type_: str, message: str) -> None:
        self._ledger.event(type_, message, datetime.now(UTC))

    async def _finish(self, beating: asyncio.Task[None]) -> None:
        """Tell the end until it is acknowledged."""
        ledger = self._ledger
        if not self._die:
            self._failure = first_failure(ledger.failures)
            self._phase = self._end()
            ledger.close(self._phase)
            ledger.message = self._failure.message if self._failure else self._phase
        # An answer that is on its way may hold the acknowledgement: let the send finish.
        beating.cancel()
        await asyncio.wait([beating])
        if self._die:
            return
        if not await self._beats.drain(FINAL_GRACE_SECONDS, lambda: self._die):
            log.error("the end of the run was never acknowledged: giving up")

    def _end(self) -> RunPhase:
        ledger = self._ledger
        if self._failure is not None:
            return "failed"
        if ledger.complete:
            return "succeeded"
        return "preempted" if self._stop_order == "checkpoint_and_stop" else "cancelled"


SupervisorActor = ray.remote(Supervisor)
