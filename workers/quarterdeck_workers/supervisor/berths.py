"""One rank's place in its gang, and what its process is started with there."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

from quarterdeck.specs.protocol import RunOrder, TunnelToOpen
from quarterdeck_workers.rank.code import start_folder
from quarterdeck_workers.rank.context import RankContext, environment_for
from quarterdeck_workers.rank.entry import STACKS_FILE
from quarterdeck_workers.rank.folders import RESUME_DIR, RESUME_STEP
from quarterdeck_workers.rank.inputs import input_variables
from quarterdeck_workers.rank.kept import kept_folder
from quarterdeck_workers.rank.launch import Launch, scrubbed
from quarterdeck_workers.rank.parent import ENVIRONMENT
from quarterdeck_workers.rank.process import REPORT_PATH
from quarterdeck_workers.rank.reporting import REPORT_SOCKET, STACKS
from quarterdeck_workers.rank.setup import environment_folder, with_environment
from quarterdeck_workers.rank.tracking import tracking_variables
from quarterdeck_workers.rank.tunnel import SETTINGS as TUNNEL_SETTINGS
from quarterdeck_workers.supervisor.worlds import Berth

NODE_HOME = "QUARTERDECK_NODE_HOME"
"""Variable of Ray's processes on a node: the folder of this node's part of the platform."""
NODE_TEMP = "QUARTERDECK_NODE_TEMP"
"""The same, with a path short enough for unix sockets."""
PARENT_SOCKET = "parent.sock"
ACCELERATOR_SHARE = "QUARTERDECK_ACCELERATOR_SHARE"
RESUME_FOLDER = "resume"
_MEMORY_FOLDER = Path("/dev/shm")


def private_folder() -> Path:
    """A new folder that only this user reads, in memory where the node allows it."""
    base = _MEMORY_FOLDER if os.access(_MEMORY_FOLDER, os.W_OK) else Path(os.environ[NODE_TEMP])
    folder = base / f"quarterdeck-{secrets.token_hex(6)}"
    folder.mkdir(mode=0o700)
    return folder


def workdir_of(order: RunOrder) -> Path:
    """The run's own folder on this node."""
    return Path(os.environ[NODE_HOME], "work", f"{order.run_id}-{order.epoch}")


def launch_for(order: RunOrder, berth: Berth, private: Path) -> Launch:
    """What the process at `berth` is started with; its secrets lie in `private`."""
    workdir = workdir_of(order)
    visible = order.model_copy(update={"run_key": "", "api_url": "", "secrets": {}})
    context = RankContext(
        order=visible, rank=berth.world_rank, world_size=berth.world_size,
        local_rank=berth.local_rank, node_rank=berth.node_rank,
        master_address=berth.master_address, master_port=berth.master_port, workdir=workdir,
    )  # fmt: skip
    own = {"OMP_NUM_THREADS": "1"} if order.kind == "command" else ENVIRONMENT
    environment = {**scrubbed(os.environ), **own}
    environment["CUDA_VISIBLE_DEVICES"] = ",".join(berth.devices)
    environment.update(tracking_variables(order, workdir))
    environment.update({str(name): str(value) for name, value in _env(order).items()})
    environment.update({name: order.secrets[name] for name in order.env_secrets})
    environment = environment_for(context, berth.local_world_size, environment)
    environment.update(berth.variables or {})
    environment.update(
        QUARTERDECK_SECRETS_DIR=str(private / "secrets"),
        QUARTERDECK_WORKDIR=str(workdir),
        QUARTERDECK_OWNER=order.owner_name,
        QUARTERDECK_ATTEMPT=str(order.attempt),
        **{REPORT_SOCKET: str(private / REPORT_PATH), STACKS: str(private / STACKS_FILE)},
    )
    if (part := (order.spec.get("resources") or {}).get("accelerator_share")) is not None:
        environment[ACCELERATOR_SHARE] = f"{part:g}"
    if order.kind == "command":
        environment.update(input_variables(order, workdir))
    if order.kind == "command" and order.resume is not None:
        environment[RESUME_DIR] = str(kept_folder(order, workdir) or workdir / RESUME_FOLDER)
        environment[RESUME_STEP] = str(order.resume.step)
    if (made := environment_folder(order, Path(os.environ[NODE_HOME]))) is not None:
        environment = with_environment(environment, made)
    return Launch(
        order=visible.model_dump(mode="json"), rank=berth.rank, world_size=berth.world_size,
        local_rank=berth.local_rank, local_world_size=berth.local_world_size,
        node_rank=berth.node_rank, master_address=berth.master_address,
        master_port=berth.master_port, workdir=str(workdir),
        cwd=str(start_folder(order, workdir)), private=str(private),
        environment=environment, command=berth.command,
    )  # fmt: skip


def _env(order: RunOrder) -> dict[str, Any]:
    return dict(order.spec.get("env") or {})


def tunnel_launch(
    beside: Launch, private: Path, request: TunnelToOpen, api_url: str, cluster: str, output: str
) -> Launch:
    """What a tunnel's process is started with: the rank's own environment and folder."""
    settings = private / "tunnel.json"
    settings.touch(mode=0o600)
    settings.write_text(
        json.dumps(
            {**request.model_dump(), "api_url": api_url, "cluster": cluster, "output": output}
        ),
        encoding="utf-8",
    )
    environment = {**beside.environment, TUNNEL_SETTINGS: str(settings)}
    entry = "quarterdeck_workers.rank.tunnel:main"
    return replace(beside, private=str(private), environment=environment, command=None, entry=entry)
