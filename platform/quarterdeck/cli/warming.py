"""`models warm`: weights on nodes before a service starts there."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from quarterdeck.cli.names import versioned
from quarterdeck.cli.output import Column, show, size, table
from quarterdeck.cli.session import REFUSED, USAGE, Output, Project, connect, note, refuse
from quarterdeck.cli.units import seconds_of

if TYPE_CHECKING:
    from quarterdeck.client import Client
    from quarterdeck.specs.warming import ModelWarmth, NodeWarmth

QUIET_SECONDS = 2.0


def warm(
    model: Annotated[str, typer.Argument(metavar="NAME[@VERSION|@ALIAS]")],
    node: Annotated[
        list[str] | None, typer.Option(help="A node's id or host; several times for several.")
    ] = None,
    cluster: Annotated[str | None, typer.Option(help="Every node of this cluster.")] = None,
    wait: Annotated[bool, typer.Option(help="Wait until the weights are there.")] = True,
    timeout: Annotated[str | None, typer.Option(help="Wait at most this long, e.g. 10m.")] = None,
    project: Project = None,
    output: Output = "table",
) -> None:
    """Bring a model's weights to nodes before a service starts there; without --node and
    --cluster to all nodes.

    Nodes fetch them in the background and check their digests; a service that starts there later
    reads the copy. Asking again is harmless. Exit codes: 1 not on every node, 5 time is over.

    Example: quarterdeck models warm support@prod --cluster local
    """
    if node and cluster:
        refuse("--node and --cluster: give one of them", USAGE)
    if timeout is not None and not wait:
        refuse("--timeout belongs to --wait", USAGE)
    limit = seconds_of(timeout)
    name, version = versioned(model.replace(":", "@", 1), "model")
    with connect(project) as client:
        chosen = version if version is not None else client.models.get(name).version
        found = client.models.warm(name, chosen, nodes=node or (), cluster=cluster)
        if wait:
            found = _wait(client, found, limit)
    _print(found, output)
    if wait and any(one.state != "ready" for one in found.nodes):
        raise typer.Exit(REFUSED)


def _wait(client: Client, asked: ModelWarmth, limit: float | None) -> ModelWarmth:
    if not sys.stderr.isatty():
        return client.wait_for_weights(asked, timeout=limit, on_change=Tenths())
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    started = time.monotonic()
    with Live(auto_refresh=False, transient=True, console=Console(stderr=True)) as live:

        def tell(now: ModelWarmth) -> None:
            if time.monotonic() - started >= QUIET_SECONDS:
                columns = _columns(now)
                live.update(Text(table(now.nodes, columns)), refresh=True)

        return client.wait_for_weights(asked, timeout=limit, on_change=tell)


class Tenths:
    """Tells each node's progress where there is no terminal: a line for each tenth, and for each
    reason to wait, of what takes longer than a moment."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started = clock()
        self._said: dict[str, object] = {}

    def __call__(self, now: ModelWarmth) -> None:
        if self._clock() - self._started < QUIET_SECONDS:
            return
        labels = _labels(now)
        for node in now.nodes:
            if node.ended:
                continue
            tenth = 10 * node.bytes_done // max(1, now.bytes)
            mark = tenth if node.state == "fetching" and not node.message else node.message
            if self._said.get(node.node_id) != mark:
                self._said[node.node_id] = mark
                note(f"{labels[node.node_id]}: {_progress(node, now.bytes)}")


def _progress(node: NodeWarmth, total: int) -> str:
    if node.state == "fetching" and not node.message:
        share = node.bytes_done / max(1, total)
        return f"{size(node.bytes_done)} of {size(total)} ({share:.0%}), {size(int(node.rate))}/s"
    return f"{node.state}: {node.message}"


def _print(found: ModelWarmth, output: str) -> None:
    show(found.nodes, _columns(found), output, lambda node: f"node/{node.node_id}", "no nodes")


def _columns(found: ModelWarmth) -> list[Column[NodeWarmth]]:
    labels = _labels(found)

    def state(node: NodeWarmth) -> str:
        return "already there" if node.state == "ready" and node.found else node.state

    def bytes_(node: NodeWarmth) -> str:
        if node.state == "fetching":
            return f"{size(node.bytes_done)}/{size(found.bytes)}"
        return size(found.bytes if node.state == "ready" else node.bytes_done)

    columns: list[Column[NodeWarmth]] = [
        Column("NODE", lambda node: labels[node.node_id]),
        Column("STATE", state),
        Column("BYTES", bytes_),
        Column("SECONDS", lambda node: f"{node.seconds:.1f}" if node.seconds else None),
        Column("RATE", lambda node: f"{size(int(node.rate))}/s" if node.rate else None, wide=True),
        Column("CLUSTER", lambda node: node.cluster, wide=True),
        Column("ID", lambda node: node.node_id, wide=True),
    ]
    if any(node.message for node in found.nodes):
        columns.append(Column("WHY", lambda node: node.message))
    return columns


def _labels(found: ModelWarmth) -> dict[str, str]:
    """Hosts, with the beginning of the id where several nodes live on one."""
    count = Counter(node.host for node in found.nodes)
    return {
        node.node_id: node.host if count[node.host] == 1 else f"{node.host} ({node.node_id[:8]})"
        for node in found.nodes
    }
