"""What does it cost when a machine loses its power in the middle of training and serving?

The chart on two real Kubernetes nodes, its database beside them. Clients ask a service of two
replicas all the time, each request at one of the gateways that Kubernetes calls ready, as an
ingress controller would send it, with one retry at another. Then a node is cut off: all its
processes end without a word, and nothing there answers any more, not even with a refusal.

First the node of a machine that had joined: the training must go on from its last checkpoint on
half its ranks, and on all of them when the node is back. Then the node of Ray's head, with a second
cluster on the other node for what must not feel it: the head must come up again elsewhere.

    QUARTERDECK_KUBERNETES=FOLDER python -m benchmarks.node_loss --quick     # the first alone
    QUARTERDECK_KUBERNETES=FOLDER python -m benchmarks.node_loss             # 10 minutes, root

Seconds count from the cut: until the platform knows, and until a new attempt has done a step.
Kubernetes itself notices after 16 s here (its default is 40 to 50 s). Exit code 1 when a request
failed twice.
"""

from __future__ import annotations

import argparse
import sys
import time

from benchmarks.harness import report
from benchmarks.kubernetes_site import (
    NODES,
    Site,
    asking,
    installed,
    serving,
    training,
    until,
    works,
)
from quarterdeck.client import Client
from tests.kubernetes.asking import Completions
from tests.kubernetes.chart import NAMESPACE
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.release import ended, hosts_of, node_of

SECOND = "two"
"""The cluster that must not feel the loss of the other's head."""


def lose_machine(site: Site) -> dict[str, float]:
    """The node of a machine that had joined; half the training's ranks and a replica run there."""
    pod, lost = site.machine("join")
    stays = NODES[1 - NODES.index(lost)]
    with site.client(stays) as client:
        client.apply([
            training("elastic", parallelism={"data": 2, "pipeline": 2},
                     elastic={"min_ranks": 2, "regrow_after": "1s"}),
        ])  # fmt: skip
        first = until(
            lambda: works(client, "elastic", 0, 4), 240, "four ranks train"
        )  # fmt: skip
        assert pod in hosts_of(client, first)
        serving(client)
        with asking(site) as clients:
            time.sleep(5)
            cut = time.monotonic()
            site.cluster.power_off(lost)
            until(lambda: _gone(client, pod), 180, "the machine is known to be gone")
            noticed = time.monotonic() - cut
            small = until(lambda: works(client, "elastic", first.epoch, 2), 240, "half the ranks")
            resumed = time.monotonic() - cut
            assert small.resumed_from_step
            print(f"resumed from step {small.resumed_from_step}, it had done {first.step} and more")
            time.sleep(10)
            back = time.monotonic()
            site.cluster.power_on(lost)
            full = until(
                lambda: works(client, "elastic", small.epoch, 4), 300, "all ranks train again"
            )
            nodes = {node_of(site.cluster, host) for host in hosts_of(client, full)}
            assert nodes == set(NODES), nodes
            print(f"node back: all ranks trained on it after {time.monotonic() - back:.1f} s")
            until(lambda: client.services.get("writer").ready_replicas == 2, 180, "two replicas")
            time.sleep(5)
        client.jobs.cancel("elastic")
        ended(client, "elastic")
        client.services.delete("writer")
    return _figures(noticed, resumed, clients)


def lose_head(site: Site) -> dict[str, float]:
    """The node of Ray's head, with a training; a second cluster on the other node."""
    site.install(1, {})
    pod, lost = site.machine("head")
    stays = NODES[1 - NODES.index(lost)]
    add_second_cluster(site.cluster, stays)
    with site.client(stays) as client:
        until(
            lambda: {node.cluster for node in client.nodes.list() if node.phase == "alive"}
            == {"static", SECOND}, 180, "the second cluster",
        )  # fmt: skip
        client.apply([training("steady", parallelism={"data": 2}, cluster="static")])
        first = until(
            lambda: works(client, "steady", 0), 240, "it trains"
        )  # fmt: skip
        serving(client)
        with asking(site) as clients:
            time.sleep(5)
            cut = time.monotonic()
            site.cluster.power_off(lost)
            until(lambda: _gone(client, pod), 180, "the head is known to be gone")
            noticed = time.monotonic() - cut
            again = until(lambda: works(client, "steady", first.epoch), 300, "it trains again")
            resumed = time.monotonic() - cut
            assert again.resumed_from_step
            print(f"resumed from step {again.resumed_from_step}, it had done {first.step} and more")
            until(lambda: client.services.get("writer").ready_replicas == 2, 180, "two replicas")
            back = time.monotonic()
            site.cluster.power_on(lost)
            until(lambda: len(site.gateways()) == 2, 180, "the gateway there is ready")
            print(f"node back: its gateway was ready after {time.monotonic() - back:.1f} s")
            time.sleep(5)
        client.jobs.cancel("steady")
        ended(client, "steady")
    return {f"{name}_head": value for name, value in _figures(noticed, resumed, clients).items()}


def add_second_cluster(cluster: Cluster, node: str) -> None:
    """Another Ray cluster of one machine, on this node."""
    head = cluster.get(
        "deployment", "qd-quarterdeck-workers-head", "-n", NAMESPACE
    )["spec"]  # fmt: skip
    labels = {"quarterdeck.io/cluster": SECOND}
    head["selector"] = {"matchLabels": labels}
    head["template"]["metadata"] = {"labels": labels}
    pod = head["template"]["spec"]
    pod["nodeSelector"] = {"kubernetes.io/hostname": node}
    pod.pop("topologySpreadConstraints", None)
    arguments = pod["containers"][0]["args"]
    arguments[arguments.index("static")] = SECOND
    cluster.apply(
        {"apiVersion": "apps/v1", "kind": "Deployment", "spec": head,
         "metadata": {"name": SECOND, "namespace": NAMESPACE}}
    )  # fmt: skip


def _gone(client: Client, pod: str) -> bool:
    return all(node.phase != "alive" for node in client.nodes.list() if node.host == pod)


def _figures(noticed: float, resumed: float, clients: Completions) -> dict[str, float]:
    figures = {
        "seconds_to_notice": noticed,
        "seconds_to_resume": resumed,
        "requests_lost": len(clients.failures),
    }
    print(figures, flush=True)
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="only a machine that had joined")
    options = parser.parse_args()
    with installed() as site:
        figures = lose_machine(site)
        if not options.quick:
            figures |= lose_head(site)
    report("node_loss", figures)
    return int(any(value for name, value in figures.items() if name.startswith("requests_lost")))


if __name__ == "__main__":
    sys.exit(main())
