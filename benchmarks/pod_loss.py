"""What does it cost when a pod of the control plane is deleted, and when the database crashes?

The chart on two real Kubernetes nodes with two copies of api, controller and gateway. A training
runs, clients ask a service of two replicas, each request at a gateway that Kubernetes calls ready,
with one retry at another; somebody reads and writes through the api's Service with the SDK's own
retries. Then every pod of the three is deleted in turn, in odd rounds by force, which takes its
address away at once, in even ones gracefully, each when its like is ready; and the database is
restarted as after a crash.

    QUARTERDECK_KUBERNETES=FOLDER python -m benchmarks.pod_loss --quick     # each pod once
    QUARTERDECK_KUBERNETES=FOLDER python -m benchmarks.pod_loss --rounds 2  # 8 minutes, root

Exit code 1 when a request failed twice, a call to the api was not answered within 30 s, or the
training was begun again.
"""

from __future__ import annotations

import argparse
import random
import sys
import threading
import time
from dataclasses import dataclass, field
from functools import partial

from benchmarks.harness import report
from benchmarks.kubernetes_site import (
    Site,
    asking,
    installed,
    newest,
    serving,
    training,
    until,
    works,
)
from quarterdeck.client import Client
from tests.kubernetes.chart import NAMESPACE
from tests.kubernetes.release import ADMIN_KEY, address, ended, pods_of

COMPONENTS = ("api", "controller", "gateway")
PATIENCE = 30.0
"""Seconds within which the SDK's retries must have brought an answer."""


@dataclass
class Calls:
    """Somebody who reads the service and scales it to what it is, all the time."""

    url: str
    longest: float = 0.0
    made: int = 0
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Calls:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(2 * PATIENCE)

    def _work(self) -> None:
        with Client(self.url, ADMIN_KEY, retry_seconds=PATIENCE) as client:
            while not self._over.wait(0.2):
                begun = time.monotonic()
                try:
                    if self.made % 2:
                        client.services.get("writer")
                    else:
                        client.services.scale("writer", 2)
                except Exception as error:  # a thread that ended would count as no failure
                    self.failures.append(f"{time.strftime('%H:%M:%S')} {error!r}")
                self.made += 1
                self.longest = max(self.longest, time.monotonic() - begun)


def living(site: Site, component: str) -> list[str]:
    """Names of a component's pods that are ready and stay."""
    return sorted(
        pod["metadata"]["name"]
        for pod in pods_of(site.cluster, component)
        if "deletionTimestamp" not in pod["metadata"]
        and any(
            one["type"] == "Ready" and one["status"] == "True"
            for one in pod["status"].get("conditions", ())
        )
    )


def delete_each(site: Site, component: str, rounds: int) -> int:
    """Delete all pods of a component, one after the other, so many times; how many that were."""
    deleted = 0
    for turn in range(rounds):
        for name in living(site, component):
            word = ("--grace-period=0", "--force") if turn % 2 == 0 else ("--wait=false",)
            print(f"{time.strftime('%H:%M:%S')} delete {name} {word[-1]}", file=sys.stderr)
            site.cluster.kubectl("delete", "pod", name, "-n", NAMESPACE, *word)
            deleted += 1
            until(
                partial(_replaced, site, component, name),
                120, f"two copies of {component} are ready",
            )  # fmt: skip
            time.sleep(random.uniform(0, 2))
    return deleted


def _replaced(site: Site, component: str, gone: str) -> bool:
    now = living(site, component)
    return gone not in now and len(now) == 2


def crash_database(site: Site, client: Client) -> float:
    """Seconds from a crash of the database until the api answers with what is in it."""
    begun = time.monotonic()
    site.restart_database()
    client.services.get("writer")
    return time.monotonic() - begun


def measure(site: Site, rounds: int) -> dict[str, float]:
    url = address(site.cluster, "api", 8080)
    with Client(url, ADMIN_KEY, retry_seconds=60) as client:
        client.apply([training("steady", parallelism={"data": 2})])
        until(lambda: works(client, "steady", 0), 240, "it trains")
        serving(client)
        epoch = newest(client, "steady").epoch
        deleted, away = 0, list[float]()
        with asking(site) as clients, Calls(url) as calls:
            for component in COMPONENTS:
                deleted += delete_each(site, component, rounds)
            for _ in range(rounds):
                away.append(crash_database(site, client))
                time.sleep(5)
            time.sleep(5)
        after = newest(client, "steady")
        step = after.step or 0
        until(lambda: (newest(client, "steady").step or 0) > step, 60, "the training goes on")
        client.jobs.cancel("steady")
        ended(client, "steady")
    for line in calls.failures:
        print(f"api: {line}", file=sys.stderr)
    return {
        "pods_deleted": deleted,
        "requests": clients.answers + len(clients.failures),
        "requests_retried": len(clients.retried),
        "requests_lost": len(clients.failures),
        "calls": calls.made,
        "calls_lost": len(calls.failures),
        "longest_call_seconds": calls.longest,
        "trainings_begun_again": after.epoch - epoch,
        "database_crash_seconds": max(away),
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="each pod once, by SIGKILL")
    parser.add_argument("--rounds", type=int, default=4, help="times that each pod is deleted")
    options = parser.parse_args()
    with installed() as site:
        figures = measure(site, 1 if options.quick else options.rounds)
    report("pod_loss", figures)
    bad = ("requests_lost", "calls_lost", "trainings_begun_again")
    return int(any(figures[name] for name in bad))


if __name__ == "__main__":
    sys.exit(main())
