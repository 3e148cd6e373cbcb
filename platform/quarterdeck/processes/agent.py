"""The agent process: one per Ray cluster, or a machine that only joins one."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from quarterdeck.processes.failures import ProcessFailed, require_workers, workers_installed
from quarterdeck.processes.health import Pulse, pulse_file
from quarterdeck.processes.home import Home, prepare

OWN_ADDRESS = "auto"


@dataclass(frozen=True)
class AgentOptions:
    """What `quarterdeck agent` was asked for. `slots` None: the machine's GPUs, else its cores.
    `node_ip` "auto": the address from which this machine reaches the api."""

    url: str
    cluster: str
    key_file: Path
    join: bool = False
    only_join: bool = False
    slots: int | None = None
    node_ip: str = "127.0.0.2"
    accelerator: str = "cpu"
    endpoints_reachable: bool = True
    project: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_ray: bool = False
    ray_port: int | None = None
    ray_token_file: Path | None = None


def run_agent(home: Home, options: AgentOptions) -> int:
    """Run until SIGINT or SIGTERM; the exit code. Raises WorkersMissing without the extra, and
    ProcessFailed when Ray does not start."""
    require_workers()
    from quarterdeck_workers.agent import AgentSettings, RayFailed, main

    prepare(home)
    node_ip = options.node_ip
    if node_ip == OWN_ADDRESS:
        node_ip = own_address(options.url)
    settings = AgentSettings(
        url=options.url,
        cluster=options.cluster,
        key_path=options.key_file,
        home=home.folder,
        slots=options.slots,
        node_ip=node_ip,
        accelerator=options.accelerator,
        join=options.join,
        only_join=options.only_join,
        endpoints_reachable=options.endpoints_reachable,
        project=options.project,
        labels=dict(options.labels),
        stop_ray=options.stop_ray,
        ray_port=options.ray_port,
        ray_token_path=options.ray_token_file,
        at_work=Pulse(pulse_file(home.folder, "agent")),
    )
    try:
        return int(main(settings))
    except RayFailed as error:
        raise ProcessFailed(str(error)) from error


def own_address(url: str) -> str:
    """This machine's IPv4 address on the way to the api at `url`; nothing is sent. Raises
    ProcessFailed when the api's name is not known or there is no way."""
    parts = urlsplit(url)
    try:
        if not parts.hostname:
            raise ValueError("it names no host")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((parts.hostname, parts.port or 80))
            return str(probe.getsockname()[0])
    except (OSError, ValueError) as error:
        raise ProcessFailed(
            f"--node-ip auto: no way from here to {url} ({error}): give this machine's address"
        ) from error


def end_ray(home: Home) -> None:
    """End this home's Ray with all that runs on it; nothing where it never ran. Raises
    ProcessFailed when something of it survives."""
    if not (home.ray / "ray.json").exists() or not workers_installed():
        return
    from quarterdeck_workers.agent import RayFailed, stop_ray

    try:
        stop_ray(home.folder)
    except RayFailed as error:
        raise ProcessFailed(str(error)) from error
