"""`quarterdeck agent`: make this machine part of a cluster; its first machine serves it too."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Mapping
from pathlib import Path

from quarterdeck.client.agents import AgentClient
from quarterdeck.client.config import read_key
from quarterdeck.client.errors import NotFound, ServerFailure, Unreachable
from quarterdeck.specs.protocol import JoinRequest, JoinTicket
from quarterdeck.specs.versions import apart
from quarterdeck_workers.agent.ray_process import (
    TOKEN_FILE,
    RayFailed,
    RayNode,
    RayOptions,
    ray_folder,
    running,
    start_ray,
    starting,
    stop_ray,
)
from quarterdeck_workers.agent.settings import AgentSettings
from quarterdeck_workers.agent.versions import labels_of, own_versions

_LOOK_SECONDS = 2.0
log = logging.getLogger(__name__)


def main(settings: AgentSettings) -> int:
    """Run until SIGTERM or SIGINT; answers the exit code.

    Ray, and all that runs on it, stays when the agent ends (unless `stop_ray` is set): the next
    agent of the same home serves it on. Raises RayFailed when Ray does not start, and
    QuarterdeckError when a cluster cannot be joined.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    key = read_key(settings.key_path)
    with AgentClient(settings.url, key) as client:
        try:
            with starting(settings.home):
                node = running(settings.home) or _start(settings, client, stopped)
            if node is None:
                return 0
            log.info("Ray at %s, this machine is %s", node.address, node.node_ip)
            if node.head:
                return _serve(settings, client, node, stopped)
            return _belong(settings, stopped)
        finally:
            if settings.stop_ray:
                stop_ray(settings.home)


def _start(
    settings: AgentSettings, client: AgentClient, stopped: threading.Event
) -> RayNode | None:
    """This machine's Ray; None when the agent was stopped before there was a head to join."""
    mine = own_versions()
    if settings.only_join:
        ticket = _awaited(settings, client, mine, stopped)
        if ticket is None:
            return None
    else:
        ticket = _ticket(settings, client, mine) if settings.join else None
        if ticket is not None and (refusal := _refusal(settings.cluster, mine, ticket)):
            raise RayFailed(refusal)
    given = settings.ray_token_path
    token = ticket.ray_token if ticket else read_key(given) if given else None
    gpus = _gpu_count()
    options = RayOptions(
        node_ip=settings.node_ip,
        slots=settings.slots if settings.slots is not None else gpus or os.cpu_count() or 1,
        labels={
            **settings.labels,
            "quarterdeck/accelerator": settings.accelerator,
            **labels_of(mine),
        },
        object_store_bytes=settings.object_store_bytes,
        gpus=gpus,
        address=ticket.address if ticket else None,
        token=token,
        port=settings.ray_port,
    )
    return start_ray(settings.home, options)


def _awaited(
    settings: AgentSettings, client: AgentClient, mine: Mapping[str, str], stopped: threading.Event
) -> JoinTicket | None:
    """The ticket, once there is a head that takes this machine: one of other versions may be about
    to be replaced. An api that is away is waited for too, since whatever starts the machine again
    would wait longer each time. None when the agent was stopped before."""
    told = ""
    while True:
        level, why = logging.INFO, f"waiting for a head of cluster {settings.cluster}"
        try:
            ticket = _ticket(settings, client, mine)
        except (Unreachable, ServerFailure) as error:
            ticket, why = None, f"waiting for the api: {error}"
        if ticket is not None and ticket.silent:
            why = f"{why}: that of {ticket.address} is silent"
        elif ticket is not None:
            level, why = logging.WARNING, _refusal(settings.cluster, mine, ticket)
            if not why:
                return ticket
        if why != told:
            log.log(level, "%s", why)
            told = why
        if stopped.wait(_LOOK_SECONDS):
            return None


def _refusal(cluster: str, mine: Mapping[str, str], ticket: JoinTicket) -> str:
    """Why Ray would not take this machine, and what to do; empty: it would."""
    found = apart(mine, ticket.versions)
    if not found:
        return ""
    return (
        f"cluster {cluster} does not take this machine, which has {' and '.join(found)}: give it "
        f"what the head has (Ray {ticket.versions.get('ray')}, Python "
        f"{ticket.versions.get('python')}: the same image or environment), or upgrade the head"
    )


def _ticket(
    settings: AgentSettings, client: AgentClient, mine: Mapping[str, str]
) -> JoinTicket | None:
    """Address and token of the cluster's head; None when there is no such cluster yet."""
    said = JoinRequest(
        host=socket.gethostname() or "unknown", address=settings.node_ip, versions=dict(mine)
    )
    try:
        ticket = client.join(settings.cluster, said)
    except NotFound:
        return None
    return ticket if ticket.address else None


def _serve(
    settings: AgentSettings, client: AgentClient, node: RayNode, stopped: threading.Event
) -> int:
    # Ray reads its variables when it is imported.
    from quarterdeck_workers.agent.ray_process import client_environment

    os.environ.update(client_environment(settings.home))
    from quarterdeck_workers.agent.agent import Agent, Superseded
    from quarterdeck_workers.agent.node_parent import start_parent
    from quarterdeck_workers.agent.ray_cluster import RayCluster, RayDiffers, RaySilent

    try:
        cluster = RayCluster(settings.home, node)
    except RaySilent as error:
        log.error("%s: start the agent again", error)
        return 1
    except RayDiffers as error:
        log.error(
            "%s Start the agent from the environment of before; or end this machine's Ray, with "
            "what runs on it, by `quarterdeck down`, and start the agent again",
            error,
        )
        return 1
    token = Path(ray_folder(settings.home), TOKEN_FILE).read_text(encoding="ascii").strip()
    agent = Agent(
        settings,
        client,
        cluster,
        agent_id=secrets.token_hex(8),
        address=node.address,
        token=token,
        on_node=lambda node_id: start_parent(node_id, replace=True),
        ray_alive=lambda: running(settings.home) is not None,
    )

    def stop_agent() -> None:
        stopped.wait()
        agent.stop()

    threading.Thread(target=stop_agent, daemon=True).start()
    try:
        agent.run()
    except Superseded as error:
        log.error("another agent serves cluster %s: %s", settings.cluster, error)
        return 1
    except RaySilent as error:
        log.error("%s: start the agent again", error)
        return 1
    finally:
        cluster.close()
    return 0


def _belong(settings: AgentSettings, stopped: threading.Event) -> int:
    """A machine that joined has nothing to serve: it only notices when its Ray dies."""
    while not stopped.wait(_LOOK_SECONDS):
        if running(settings.home) is None:
            log.error("this machine's Ray has died: start the agent again")
            return 1
        settings.at_work()
    return 0


def _gpu_count() -> int:
    folder = Path("/proc/driver/nvidia/gpus")
    return len(list(folder.iterdir())) if folder.is_dir() else 0
