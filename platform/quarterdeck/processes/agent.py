"""The agent process: one per Ray cluster, or a machine that only joins one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from quarterdeck.processes.failures import ProcessFailed, require_workers, workers_installed
from quarterdeck.processes.home import Home, prepare


@dataclass(frozen=True)
class AgentOptions:
    """What `quarterdeck agent` was asked for. `slots` None: the machine's GPUs, else its cores."""

    url: str
    cluster: str
    key_file: Path
    join: bool = False
    only_join: bool = False
    slots: int | None = None
    node_ip: str = "127.0.0.2"
    accelerator: str = "cpu"
    endpoints_reachable: bool = True
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
    settings = AgentSettings(
        url=options.url,
        cluster=options.cluster,
        key_path=options.key_file,
        home=home.folder,
        slots=options.slots,
        node_ip=options.node_ip,
        accelerator=options.accelerator,
        join=options.join,
        only_join=options.only_join,
        endpoints_reachable=options.endpoints_reachable,
        labels=dict(options.labels),
        stop_ray=options.stop_ray,
        ray_port=options.ray_port,
        ray_token_path=options.ray_token_file,
    )
    try:
        return int(main(settings))
    except RayFailed as error:
        raise ProcessFailed(str(error)) from error


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
