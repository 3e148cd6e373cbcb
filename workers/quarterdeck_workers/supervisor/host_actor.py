"""The Ray actor of one node in a gang: holds its slots, watches over its ranks' processes.

One actor for all of a run's ranks on a node, not one each: an idle Ray worker costs 1 % of a core
and 100 MB, and seconds to start (docs/decisions).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import ray

from quarterdeck.artifacts import ArtifactError
from quarterdeck.specs.beats import Blame, CheckpointManifest, OutputAsset
from quarterdeck.specs.protocol import RunOrder, TunnelToOpen
from quarterdeck_workers.rank.code import fetch_code
from quarterdeck_workers.rank.errors import DataError, blame_of
from quarterdeck_workers.rank.folders import restore_folder
from quarterdeck_workers.rank.inputs import publish_outputs, stage_inputs
from quarterdeck_workers.rank.kept import EVERY_SECONDS, KeptFolder, kept_folder, restore_kept
from quarterdeck_workers.rank.launch import write_secrets
from quarterdeck_workers.rank.masking import Masker
from quarterdeck_workers.rank.process import RankNews, RankProcess
from quarterdeck_workers.rank.setup import NodeSetup, environment_folder
from quarterdeck_workers.rank.tracking import Tracking, restore_tracking
from quarterdeck_workers.rank.workdir import hold, release
from quarterdeck_workers.supervisor.berths import (
    NODE_HOME,
    NODE_TEMP,
    PARENT_SOCKET,
    RESUME_FOLDER,
    launch_for,
    private_folder,
    tunnel_launch,
    workdir_of,
)
from quarterdeck_workers.supervisor.ports import HeldPorts
from quarterdeck_workers.supervisor.presence import announce
from quarterdeck_workers.supervisor.worlds import Berth, HostFacts

LEASE_SECONDS = 30.0
"""A host whose supervisor asked for nothing so long ends its ranks: it may be cut off, and its job
may be started again elsewhere."""
_LEASE_CHECK_SECONDS = 2.0
_STARTS_AT_ONCE = 16
_GONE_SECONDS = 30.0


@dataclass(frozen=True)
class NotStarted:
    """Why a rank's process could not be started."""

    rank: int
    blame: Blame
    message: str


class Host:
    """The body of the actor (see `HostActor`)."""

    def __init__(self) -> None:
        self._processes: dict[int, RankProcess] = {}
        self._tunnels: list[RankProcess] = []
        self._news = asyncio.Event()
        self._copying = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self._held: tuple[Path, int] | None = None
        self._kept: KeptFolder | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._setup: NodeSetup | None = None
        self._tracking: Tracking | None = None
        self._setup_rank = 0
        self._heard = self._loop.time()
        self._lease: asyncio.Task[None] | None = None
        self._ports: HeldPorts | None = None

    async def prepare(self, order: RunOrder, roles: list[str]) -> HostFacts:
        """Where this host is: its node's address, a free port for each of `roles`, its devices.

        Holds the run's folder, so that it lasts until the ranks have ended, and fetches what a
        user's program left at its last checkpoint, and what it reads.
        """
        announce("host", order)
        workdir = workdir_of(order)
        self._held = workdir, hold(workdir)
        if order.kind == "command":
            await asyncio.to_thread(fetch_code, order, workdir)
        folder = kept_folder(order, workdir)
        if folder is not None:
            await asyncio.to_thread(restore_kept, order, workdir)
            if _has_rank_0(order):
                self._kept = KeptFolder(order, folder)
                self._keeping = asyncio.create_task(self._keep_often())
        elif order.kind == "command" and order.resume is not None:
            await asyncio.to_thread(restore_folder, order, order.resume, workdir / RESUME_FOLDER)
        if order.kind == "command":
            await asyncio.to_thread(stage_inputs, order, workdir)
        if order.spec.get("tracking") and order.owner_type == "job" and _has_rank_0(order):
            await asyncio.to_thread(restore_tracking, order, workdir)
            self._tracking = Tracking(order, workdir)
        address = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        self._ports = HeldPorts(roles)
        accelerators = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
        return HostFacts(address, self._ports.by_name, [str(each) for each in accelerators])

    async def set_up(self, order: RunOrder, berth: Berth) -> None:
        """Have what `setup` makes on this node, for all ranks here. Raises SetupFailed."""
        environment = environment_folder(order, Path(os.environ[NODE_HOME]))
        if environment is None:
            return
        private = private_folder()
        try:
            write_secrets(private / "secrets", order.secrets)
            launch = launch_for(order, berth, private)
            self._setup = NodeSetup(launch, environment, Masker(order.secrets.values()))
            self._setup_rank = berth.rank
            await asyncio.to_thread(self._setup.run, socket.gethostname())
        finally:
            shutil.rmtree(private, ignore_errors=True)

    async def start(self, order: RunOrder, berths: list[Berth]) -> list[NotStarted]:
        """Start the processes, all at once; answers those that failed."""
        self._heard = self._loop.time()
        self._lease = self._lease or self._loop.create_task(self._keep_lease())
        with ThreadPoolExecutor(_STARTS_AT_ONCE, "start") as threads:
            starts = [
                self._loop.run_in_executor(threads, self._start, order, berth) for berth in berths
            ]
            outcomes = await asyncio.gather(*starts, return_exceptions=True)
        return [
            NotStarted(berth.rank, start_blame(outcome), str(outcome))
            for berth, outcome in zip(berths, outcomes, strict=True)
            if isinstance(outcome, BaseException)
        ]

    def _start(self, order: RunOrder, berth: Berth) -> None:
        private = private_folder()
        try:
            write_secrets(private / "secrets", order.secrets)
            launch = launch_for(order, berth, private)
            preloaded = Path(os.environ[NODE_TEMP], PARENT_SOCKET)
            process = RankProcess(launch, self._on_news, Masker(order.secrets.values()))
            process.start(None if launch.command is not None else preloaded)
        except BaseException:
            shutil.rmtree(private, ignore_errors=True)
            raise
        self._processes[berth.rank] = process

    def _on_news(self) -> None:
        self._loop.call_soon_threadsafe(self._news.set)

    async def clock(self) -> float:
        """This machine's time, Unix seconds."""
        return time.time()

    async def poll(self, wait: float) -> dict[int, RankNews]:
        """What is new by rank; at once when something urgent came, else after `wait` seconds.

        Being asked is what keeps the ranks alive.
        """
        self._heard = self._loop.time()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), wait)
        self._news.clear()
        self._heard = self._loop.time()
        # A copy: threads that start ranks add to it meanwhile.
        news = {rank: process.take() for rank, process in list(self._processes.items())}
        if self._tracking is not None:
            self._tracking.hear(message for one in news.values() for message in one.messages)
        if self._setup is not None and (lines := self._setup.take()):
            news.setdefault(self._setup_rank, RankNews()).setup_lines = lines
        return news

    async def _keep_often(self) -> None:
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            try:
                manifest = await self.keep_folder()
            except (OSError, ArtifactError) as error:
                process = self._processes[0]
                process.note("checkpoint.failed", f"its folder was not kept: {error}")
                continue
            if manifest is not None:
                self._processes[0].register(manifest)

    async def keep_folder(self) -> CheckpointManifest | None:
        """Copy the folder that attempts hand on; None where nothing is new."""
        if self._kept is None:
            return None
        async with self._copying:
            return await asyncio.to_thread(self._kept.keep)

    async def _keep_lease(self) -> None:
        """End the ranks once the supervisor has been silent for LEASE_SECONDS."""
        silent = 0
        while silent < 2:  # seen twice: after a stop of this very process polls come first
            await asyncio.sleep(_LEASE_CHECK_SECONDS)
            silent = silent + 1 if self._loop.time() - self._heard > LEASE_SECONDS else 0
        why = f"the supervisor was silent for {LEASE_SECONDS:g} s: this host may be cut off"
        for process in self._processes.values():
            if not process.gone.is_set():
                process.fail(why, "network")
                process.kill()

    async def publish(self, order: RunOrder) -> list[OutputAsset]:
        """Keep the folders that rank 0's program, which has succeeded, hands on."""
        cwd = Path(self._processes[0].launch.cwd)
        return await asyncio.to_thread(publish_outputs, order, cwd)

    async def stop(self, checkpoint: bool, deadline_seconds: float, reason: str) -> None:
        """Ask the processes to stop."""
        for process in self._processes.values():
            process.stop(checkpoint=checkpoint, deadline_seconds=deadline_seconds, reason=reason)

    async def keep(self, order: RunOrder) -> None:
        """End the ranks' processes; their folders, environment and secrets stay for `exec`."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            await asyncio.to_thread(process.gone.wait, _GONE_SECONDS)
            private = Path(process.launch.private)
            private.mkdir(mode=0o700, exist_ok=True)
            shutil.rmtree(private / "secrets", ignore_errors=True)
            write_secrets(private / "secrets", order.secrets)

    async def kill(self) -> None:
        """End the processes and all below them, and wait until nothing is left."""
        if self._keeping is not None:
            self._keeping.cancel()
        if self._setup is not None:
            self._setup.cancel()
        processes = [*self._processes.values(), *self._tunnels]
        for process in processes:
            process.kill()
        for process in processes:
            await asyncio.to_thread(process.gone.wait, _GONE_SECONDS)
            shutil.rmtree(process.launch.private, ignore_errors=True)
        if self._setup is not None:
            await asyncio.to_thread(self._setup.ended.wait, _GONE_SECONDS)
            self._setup.release()
        if self._tracking is not None:
            tracking, self._tracking = self._tracking, None
            await asyncio.to_thread(tracking.end)
        if self._held is not None:
            release(*self._held)
            self._held = None
        if self._ports is not None:
            self._ports.release()

    async def open_tunnel(self, request: TunnelToOpen, api_url: str, cluster: str) -> None:
        """Start the process that opens a tunnel beside one of the ranks here.

        Raises KeyError for a rank that is not here, LaunchFailed, OSError.
        """
        process = self._processes[request.rank]
        await asyncio.to_thread(self._open_tunnel, process, request, api_url, cluster)

    def _open_tunnel(
        self, process: RankProcess, request: TunnelToOpen, api_url: str, cluster: str
    ) -> None:
        self._tunnels = [tunnel for tunnel in self._tunnels if not tunnel.gone.is_set()]
        output = process.taps.open() if request.kind == "attach" else ""
        private = private_folder()
        tunnel = RankProcess(
            tunnel_launch(process.launch, private, request, api_url, cluster, output)
        )
        try:
            tunnel.start(Path(os.environ[NODE_TEMP], PARENT_SOCKET))
        except BaseException:
            shutil.rmtree(private, ignore_errors=True)
            raise
        self._tunnels.append(tunnel)

    async def stacks(self) -> dict[int, str]:
        """Stacks of the processes' threads, by rank."""
        ranks = list(self._processes)
        stacks = await asyncio.gather(
            *(asyncio.to_thread(self._processes[rank].stacks) for rank in ranks)
        )
        return dict(zip(ranks, stacks, strict=True))


HostActor = ray.remote(Host)


def _has_rank_0(order: RunOrder) -> bool:
    """Whether this node is rank 0's."""
    here = ray.get_runtime_context().get_node_id()
    return any(place.rank == 0 and place.node_id == here for place in order.placements)


def start_blame(error: BaseException) -> Blame:
    """What says whom it blames, and a full disk or a missing folder, has its own blame; else the
    node could not do it."""
    declared = isinstance(error, DataError) or hasattr(error, "blame")
    if declared or (isinstance(error, OSError) and error.errno is not None):
        blame = blame_of(error)
        return blame if blame != "unknown" else "node"
    return "node"
