"""`clusters` and `nodes`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from quarterdeck.cli.names import of_kind
from quarterdeck.cli.output import Column, age, show, size
from quarterdeck.cli.session import Output, connect

if TYPE_CHECKING:
    from quarterdeck.specs.resources import Cluster, Node

nodes = typer.Typer(help="Machines: list, cordon, uncordon.", no_args_is_help=False)
NodeName = Annotated[str, typer.Argument(metavar="NODE", help="The node's id.")]


def clusters(output: Output = "table") -> None:
    """List clusters with their free slots.

    Example: quarterdeck clusters
    """
    columns: list[Column[Cluster]] = [
        Column("NAME", lambda cluster: cluster.name),
        Column("PHASE", lambda cluster: cluster.phase),
        Column("NODES", lambda cluster: cluster.nodes),
        Column("FREE/SLOTS", lambda cluster: f"{cluster.slots_free}/{cluster.slots}"),
        Column("LAST-BEAT", lambda cluster: age(cluster.last_beat_at)),
        Column("ADDRESS", lambda cluster: cluster.address, wide=True),
        Column("AGENT", lambda cluster: cluster.agent_id, wide=True),
    ]
    with connect() as client:
        found = client.clusters.list()
    show(found, columns, output, lambda cluster: f"cluster/{cluster.name}", "no clusters")


@nodes.callback(invoke_without_command=True)
def bare(context: typer.Context, output: Output = "table") -> None:
    """Machines. Without a command: list them."""
    if context.invoked_subcommand is None:
        list_nodes(output=output)


@nodes.command("list")
def list_nodes(
    cluster: Annotated[str | None, typer.Option(help="Only of this cluster.")] = None,
    output: Output = "table",
) -> None:
    """List machines with their free slots.

    Example: quarterdeck nodes list -o wide
    """

    def state(node: Node) -> str:
        marks = [name for name in ("cordoned", "quarantined") if getattr(node, name)]
        return ",".join([node.phase, *marks])

    columns: list[Column[Node]] = [
        Column("ID", lambda node: node.id),
        Column("CLUSTER", lambda node: node.cluster),
        Column("HOST", lambda node: node.host),
        Column("STATE", state),
        Column("ACCELERATOR", lambda node: node.accelerator),
        Column("FREE/SLOTS", lambda node: f"{node.slots_free}/{node.slots}"),
        Column("CPUS", lambda node: f"{node.cpus:g}", wide=True),
        Column("MEMORY", lambda node: size(node.memory), wide=True),
        Column("ADDRESS", lambda node: node.address, wide=True),
    ]
    with connect() as client:
        found = client.nodes.list(cluster=cluster)
    show(found, columns, output, lambda node: f"node/{node.id}", "no nodes")


@nodes.command()
def cordon(name: NodeName) -> None:
    """Place nothing new on a machine; what runs there goes on.

    Example: quarterdeck nodes cordon 3f9a…
    """
    with connect() as client:
        node = client.nodes.cordon(of_kind(name, "node"))
    print(f"node/{node.id} cordoned")


@nodes.command()
def uncordon(name: NodeName) -> None:
    """Place runs on a machine again.

    Example: quarterdeck nodes uncordon 3f9a…
    """
    with connect() as client:
        node = client.nodes.uncordon(of_kind(name, "node"))
    print(f"node/{node.id} uncordoned")
