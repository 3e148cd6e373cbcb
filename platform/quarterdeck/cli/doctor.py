"""`doctor`: does what the CLI can see work?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import typer

from quarterdeck.cli.output import age
from quarterdeck.cli.session import REFUSED

if TYPE_CHECKING:
    from quarterdeck.client import Client


def doctor() -> None:
    """Check address, key, api, clusters and nodes.

    Exit code 1 when something is wrong.

    Example: quarterdeck doctor
    """
    from quarterdeck.client import Client, QuarterdeckError
    from quarterdeck.client.config import discover

    wrong = 0
    try:
        found = discover()
        print(f"ok     address {found.url}" + (f", from {found.home}" if found.home else ""))
        with Client(found.url, found.key) as client:
            for check in (_api, _key, _clusters, _nodes):
                for good, text in _attempt(check, client):
                    print(("ok     " if good else "WRONG  ") + text)
                    wrong += not good
    except QuarterdeckError as error:
        print(f"WRONG  {error}")
        wrong += 1
    if wrong:
        raise typer.Exit(REFUSED)


Finding = tuple[bool, str]


def _attempt(check: Callable[[Client], Iterator[Finding]], client: Client) -> Iterator[Finding]:
    from quarterdeck.client import QuarterdeckError

    try:
        yield from check(client)
    except QuarterdeckError as error:
        yield False, str(error)


def _api(client: Client) -> Iterator[Finding]:
    ready = client.ready()
    yield ready, "the api is ready" if ready else "the api is not ready: look at its log"


def _key(client: Client) -> Iterator[Finding]:
    key = client.whoami()
    yield True, f"key {key.name}: {key.access}, project {key.project or '(all)'}"


def _clusters(client: Client) -> Iterator[Finding]:
    clusters = client.clusters.list()
    if not clusters:
        yield False, "no cluster has an agent: run `quarterdeck agent --url URL --cluster NAME`"
    for cluster in clusters:
        beat = age(cluster.last_beat_at)
        text = f"cluster/{cluster.name} {cluster.phase}, last beat {beat} ago"
        yield cluster.phase == "connected", text


def _nodes(client: Client) -> Iterator[Finding]:
    for node in client.nodes.list():
        if node.phase == "dead" and not node.quarantined and not node.quarantined_runs:
            continue
        good = node.phase == "alive" and not node.quarantined and not node.quarantined_runs
        held = [f"run {run.epoch} of {run.owner}" for run in node.quarantined_runs]
        mark = f", quarantined: {', '.join(held) or 'a lost run'} may still hold it"
        mark = mark if held or node.quarantined else ""
        yield good, f"node/{node.id} {node.phase}, {node.slots_free}/{node.slots} free{mark}"
