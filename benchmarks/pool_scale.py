"""What a pool of a thousand machines asks of its controller, and of Kubernetes' API server.

A real API server with its scheduler, KubeRay's operator and kwok's nodes; a real api and a real
controller, which finds an empty pool. Then 500 gangs of 16 ranks are submitted: they bring 1,000
machines of 8 accelerators, and all start. kwok runs no containers: this program speaks for the
agent, over HTTP, and reports each pod that runs as a machine. Nodes are as large as a kubelet's,
with the names of the images that lie there.

    python -m benchmarks.pool_scale --quick     # 100 machines, 50 gangs
    QUARTERDECK_KUBERNETES names the folder with start-apiserver.sh, tools and CRDs
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import text

from benchmarks.harness import free_port, report
from benchmarks.installation import Installation, Shape, installation
from quarterdeck.client import QuarterdeckError
from quarterdeck.client.agents import AgentClient
from quarterdeck.client.config import read_key
from quarterdeck.cluster.kubernetes_client import Kubernetes, connect
from quarterdeck.processes.records import alive, read_record
from quarterdeck.store.sessions import Database
from tests.kubernetes.kuberay_server import KubeRayServer, machine
from tests.kubernetes.pools import PodAgent, pool_of_machines

NAME = "scale"
IMAGES = 50
"""In a node's status: as many as a kubelet tells of."""
PLACED_SECONDS = 1200.0
STEADY_SECONDS = 30.0
BEAT_SECONDS = 2.0
USER = "admin-token"
"""The controller's; nobody else's."""


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    machines: int = 1_000
    gangs: int = 500
    ranks: int = 16


@dataclass(frozen=True)
class Asked:
    """What the controller has done so far: requests to the API server by what they are, and the
    seconds of its loops' turns."""

    looks: int
    requests: int
    node_lists: int
    seconds: dict[str, float]
    turns: dict[str, float]
    at: float


class Controller:
    """The controller under test, from outside."""

    def __init__(self, platform: Installation, audit: Path, health_port: int) -> None:
        record = read_record(platform.home)
        process = alive(record.named("controller")) if record else None
        assert process is not None
        self._pid, self._audit, self._port = process.pid, audit, health_port

    def most_memory(self) -> float:
        """Its largest resident memory until now, in MiB, as the kernel counts it."""
        status = Path(f"/proc/{self._pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**10

    def asked(self) -> Asked:
        """From the API server's audit log and the controller's own metrics."""
        lines = self._audit.read_text().splitlines(keepends=True) if self._audit.exists() else []
        paths = [json.loads(line)["requestURI"] for line in lines if line.endswith("\n")]
        first = [path for path in paths if "continue=" not in path]
        scraped = httpx.get(
            f"http://127.0.0.1:{self._port}/metrics", timeout=10, trust_env=False
        ).text
        return Asked(
            looks=sum("/pods?" in path for path in first),
            requests=len(paths),
            node_lists=sum(path.startswith("/api/v1/nodes?") for path in first),
            seconds=_metric(scraped, "quarterdeck_controller_turn_seconds_total"),
            turns=_metric(scraped, "quarterdeck_controller_turns_total"),
            at=time.monotonic(),
        )


def _metric(scraped: str, name: str) -> dict[str, float]:
    """A metric's values by the label `loop`."""
    found: dict[str, float] = {}
    for line in scraped.splitlines():
        if line.startswith(f"{name}{{"):
            loop = line.partition('loop="')[2].partition('"')[0]
            found[loop] = found.get(loop, 0.0) + float(line.rpartition(" ")[2])
    return found


# --- the world around it -----------------------------------------------------------------------


@contextmanager
def kubernetes(scripts: Path) -> Iterator[tuple[KubeRayServer, Path]]:
    """A server that writes down what the controller asks it, and that file."""
    folder = Path(tempfile.mkdtemp(prefix="qd-scale-", dir="/tmp"))  # paths of sockets are short
    given = Path(tempfile.mkdtemp(prefix="qd-audit-", dir="/tmp"))
    policy, log = given / "policy.yaml", given / "audit.log"
    rules = [
        {"level": "Metadata", "users": [USER], "omitStages": ["RequestReceived"]},
        {"level": "None"},
    ]
    policy.write_text(
        json.dumps({"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "rules": rules})
    )
    flags = f"--audit-policy-file={policy} --audit-log-path={log} --audit-log-mode=blocking"
    server = KubeRayServer(scripts, folder, flags)
    try:
        server.start()
        yield server, log
    finally:
        server.stop()
        shutil.rmtree(given, ignore_errors=True)


def add_machines(api: Kubernetes, count: int) -> None:
    """Nodes for the pool, as large as real ones."""
    images = [
        {"names": [f"registry.example/team/image-{i}@sha256:{i:064x}",
                   f"registry.example/team/image-{i}:2026.11.{i}"], "sizeBytes": i << 28}
        for i in range(IMAGES)
    ]  # fmt: skip

    def add(number: int) -> None:
        node = machine(f"machine-{number:04}", NAME)
        node["status"]["images"] = images
        api.create("/api/v1/nodes", node)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, range(count)))


@contextmanager
def beating(agent: PodAgent) -> Iterator[None]:
    """The agent beats on a thread of its own."""
    stopped = threading.Event()

    def beat() -> None:
        while not stopped.wait(BEAT_SECONDS):
            with suppress(QuarterdeckError):
                agent.beat()

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def submit(platform: Installation, size: Size) -> None:
    """All gangs, by eight at once."""
    with platform.connect() as client, ThreadPoolExecutor(8) as threads:

        def one(number: int) -> None:
            client.jobs.submit(
                {"kind": "command", "name": f"gang-{number}", "command": "true",
                 "ranks": size.ranks, "cluster": NAME, "resources": {"accelerator": "H100"}}
            )  # fmt: skip

        list(threads.map(one, range(size.gangs)))


# --- measuring ---------------------------------------------------------------------------------


def measure(
    platform: Installation, controller: Controller, url: str, size: Size
) -> dict[str, float]:
    """All figures."""
    database = Database.open(url)

    def count(table: str, condition: str) -> int:
        with database.read() as session:
            query = text(f"SELECT count(*) FROM {table} WHERE {condition}")
            return int(session.execute(query).scalar_one())

    try:
        before, start = controller.asked(), time.monotonic()
        submit(platform, size)
        submitted = time.monotonic() - start
        _tell(f"{size.gangs} gangs submitted in {submitted:.1f} s")
        ordered = f"type = 'pool.resized' AND message LIKE '%→ {size.machines} machines%'"
        _until(lambda: count("events", ordered) > 0, "all machines are ordered")
        seconds_ordered = time.monotonic() - start
        _tell(f"all machines ordered after {seconds_ordered:.1f} s")
        _until(lambda: count("nodes", "phase = 'alive'") >= size.machines, "they are there")
        there = time.monotonic() - start
        _tell(f"all machines there after {there:.1f} s")
        _until(lambda: count("runs", "owner_type = 'job'") >= size.gangs, "all gangs are placed")
        placed, after = time.monotonic() - start, controller.asked()
        _tell(f"all placed after {placed:.1f} s; {controller.most_memory():.0f} MB")
        time.sleep(STEADY_SECONDS)
        steady = controller.asked()
    finally:
        database.close()
    growing, still = _between(before, after), _between(after, steady)
    return {
        "controller_rss_mb": controller.most_memory(),
        "placed_seconds": placed,
        "submitted_seconds": submitted,
        "ordered_seconds": seconds_ordered,
        "machines_there_seconds": there,
        **growing,
        **{f"{name}_steady": value for name, value in still.items()},
    }


def _between(before: Asked, after: Asked) -> dict[str, float]:
    def seconds(loop: str) -> float:
        return after.seconds.get(loop, 0.0) - before.seconds.get(loop, 0.0)

    rounds = max(1, after.looks - before.looks)
    lists, turns = after.node_lists - before.node_lists, after.turns["admission"]
    return {
        "rounds": after.looks - before.looks,
        "round_seconds": seconds("capacity") / rounds,
        "requests_per_round": (after.requests - before.requests) / rounds,
        "node_lists_per_minute": 60 * lists / (after.at - before.at),
        "admission_turn_seconds": seconds("admission")
        / max(1.0, turns - before.turns.get("admission", 0.0)),
    }


def _until(condition: Callable[[], Any], what: str) -> None:
    end = time.monotonic() + PLACED_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"not within {PLACED_SECONDS:g} s: {what}")
        time.sleep(0.25)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="100 machines, 50 gangs")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="postgresql")
    options = parser.parse_args()
    scripts = os.environ.get("QUARTERDECK_KUBERNETES")
    if not scripts:
        raise SystemExit("QUARTERDECK_KUBERNETES names no folder with start-apiserver.sh")
    size = Size(100, 50) if options.quick else Size()
    pool = pool_of_machines(NAME, max_replicas=size.machines, idle_after=3600)
    with kubernetes(Path(scripts)) as (server, audit):
        api = connect(server.kubeconfig)
        add_machines(api, size.machines)
        api.create("/api/v1/namespaces", {"metadata": {"name": NAME}})
        _tell(f"{size.machines} machines")
        file, port = audit.with_name("pools.yaml"), free_port()
        file.write_text(json.dumps({"pools": [pool.model_dump(mode="json")]}))
        variables = {"QUARTERDECK_POOLS": str(file), "KUBECONFIG": str(server.token_kubeconfig)}
        shape = Shape(agents=0, environment=variables, health_port=port)
        with installation(shape, database=options.database) as platform:
            url = os.environ.get("QUARTERDECK_DATABASE_URL") or platform.home.database_url
            key = read_key(platform.home.agent_key)
            with AgentClient(platform.options.api_url, key, timeout=60) as client:
                with beating(PodAgent(api, pool, client)):
                    controller = Controller(platform, audit, port)
                    figures = measure(platform, controller, url, size)
        api.close()
    report("pool_scale", figures)
    return 0


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
