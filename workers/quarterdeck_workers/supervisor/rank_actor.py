"""The Ray actor of one rank: holds its slots, watches over its process."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from quarterdeck.specs.protocol import RunOrder
from quarterdeck_workers.rank.context import RankContext, environment_for
from quarterdeck_workers.rank.entry import STACKS_FILE
from quarterdeck_workers.rank.folders import RESUME_DIR, RESUME_STEP, restore_folder
from quarterdeck_workers.rank.launch import Launch, scrubbed, write_secrets
from quarterdeck_workers.rank.parent import ENVIRONMENT
from quarterdeck_workers.rank.process import REPORT_PATH, RankNews, RankProcess
from quarterdeck_workers.rank.reporting import REPORT_SOCKET, STACKS
from quarterdeck_workers.rank.workdir import hold, release

NODE_HOME = "QUARTERDECK_NODE_HOME"
"""Variable of Ray's processes on a node: the folder of this node's part of the platform."""
NODE_TEMP = "QUARTERDECK_NODE_TEMP"
"""The same, with a path short enough for unix sockets."""
PARENT_SOCKET = "parent.sock"
RESUME_FOLDER = "resume"
_MEMORY_FOLDER = Path("/dev/shm")


@dataclass(frozen=True)
class Berth:
    """One rank's place in its gang."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    node_rank: int
    master_address: str
    master_port: int
    devices: tuple[str, ...] = ()
    """Device numbers of all of the run's ranks on this node, by local rank."""


class Rank:
    """The body of the actor (see `RankActor`)."""

    def __init__(self) -> None:
        self._process: RankProcess | None = None
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._held: tuple[Path, int] | None = None

    async def prepare(self, order: RunOrder, first: bool) -> dict[str, Any]:
        """Where this rank is: its node's address, a free port there, its devices.

        Holds the run's folder, so that it lasts until all ranks have ended; the node's `first`
        rank fetches what a user's program left at its last checkpoint.
        """
        workdir = _workdir(order)
        self._held = workdir, hold(workdir)
        if first and order.kind == "command" and order.resume is not None:
            await asyncio.to_thread(restore_folder, order, order.resume, workdir / RESUME_FOLDER)
        address = str(ray.util.get_node_ip_address())  # type: ignore[no-untyped-call]
        with socket.socket() as probe:
            probe.bind((address, 0))
            port = probe.getsockname()[1]
        accelerators = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
        return {"address": address, "port": port, "devices": list(accelerators)}

    async def start(self, order: RunOrder, berth: Berth) -> None:
        """Start the process; raises LaunchFailed, OSError or ValueError."""
        await asyncio.to_thread(self._start, order, berth)

    def _start(self, order: RunOrder, berth: Berth) -> None:
        private = _private_folder()
        try:
            write_secrets(private / "secrets", order.secrets)
            launch = _launch(order, berth, private)
            preloaded = Path(os.environ[NODE_TEMP], PARENT_SOCKET)
            process = RankProcess(launch, self._on_news)
            process.start(None if launch.command is not None else preloaded)
        except BaseException:
            shutil.rmtree(private, ignore_errors=True)
            raise
        self._process = process

    def _on_news(self) -> None:
        self._loop.call_soon_threadsafe(self._news.set)

    async def poll(self, wait: float) -> RankNews:
        """What is new; answers at once when something urgent came, else after `wait` seconds."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), wait)
        self._news.clear()
        return self._process.take() if self._process is not None else RankNews()

    async def stop(self, checkpoint: bool, deadline_seconds: float, reason: str) -> None:
        """Ask the process to stop."""
        if self._process is not None:
            self._process.stop(
                checkpoint=checkpoint, deadline_seconds=deadline_seconds, reason=reason
            )

    async def kill(self) -> None:
        """End the process and all below it, and wait until nothing is left."""
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.gone.wait, 30.0)
        if self._held is not None:
            release(*self._held)
            self._held = None

    async def stacks(self) -> str:
        """Stacks of the process's threads."""
        if self._process is None:
            return ""
        return await asyncio.to_thread(self._process.stacks)


RankActor = ray.remote(Rank)


def _private_folder() -> Path:
    base = _MEMORY_FOLDER if os.access(_MEMORY_FOLDER, os.W_OK) else Path(os.environ[NODE_TEMP])
    folder = base / f"quarterdeck-{secrets.token_hex(6)}"
    folder.mkdir(mode=0o700)
    return folder


def _workdir(order: RunOrder) -> Path:
    return Path(os.environ[NODE_HOME], "work", f"{order.run_id}-{order.epoch}")


def _launch(order: RunOrder, berth: Berth, private: Path) -> Launch:
    workdir = _workdir(order)
    visible = order.model_copy(update={"run_key": "", "api_url": "", "secrets": {}})
    context = RankContext(
        order=visible, rank=berth.rank, world_size=berth.world_size, local_rank=berth.local_rank,
        node_rank=berth.node_rank, master_address=berth.master_address,
        master_port=berth.master_port, workdir=workdir,
    )  # fmt: skip
    own = {"OMP_NUM_THREADS": "1"} if order.kind == "command" else ENVIRONMENT
    environment = {**scrubbed(os.environ), **own}
    environment["CUDA_VISIBLE_DEVICES"] = ",".join(berth.devices)
    environment.update({str(name): str(value) for name, value in _env(order).items()})
    environment.update({name: order.secrets[name] for name in order.env_secrets})
    environment = environment_for(context, berth.local_world_size, environment)
    environment.update(
        QUARTERDECK_SECRETS_DIR=str(private / "secrets"),
        QUARTERDECK_WORKDIR=str(workdir),
        QUARTERDECK_OWNER=order.owner_name,
        QUARTERDECK_ATTEMPT=str(order.attempt),
        **{REPORT_SOCKET: str(private / REPORT_PATH), STACKS: str(private / STACKS_FILE)},
    )
    if order.kind == "command" and order.resume is not None:
        environment[RESUME_DIR] = str(workdir / RESUME_FOLDER)
        environment[RESUME_STEP] = str(order.resume.step)
    command = str(order.spec["command"]) if order.kind == "command" else None
    return Launch(
        order=visible.model_dump(mode="json"), rank=berth.rank, world_size=berth.world_size,
        local_rank=berth.local_rank, local_world_size=berth.local_world_size,
        node_rank=berth.node_rank, master_address=berth.master_address,
        master_port=berth.master_port, workdir=str(workdir),
        cwd=str(order.spec.get("workdir") or workdir), private=str(private),
        environment=environment, command=command,
    )  # fmt: skip


def _env(order: RunOrder) -> dict[str, Any]:
    return dict(order.spec.get("env") or {})
