"""`clusters` and `nodes`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from quarterdeck.cli.names import of_kind
from quarterdeck.cli.output import Column, age, show, show_one, size, table
from quarterdeck.cli.session import Output, connect, note, refuse

if TYPE_CHECKING:
    from quarterdeck.client import Client
    from quarterdeck.specs.pool_status import PoolGroup
    from quarterdeck.specs.resources import Cluster, Node

nodes = typer.Typer(help="Machines: list, cordon, uncordon, confirm-dead.", no_args_is_help=False)
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
        Column("SHARED", _shared_of_cluster),
        Column("POOL", _pool),
        Column("PROJECT", lambda cluster: cluster.project or "(shared)"),
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
        return ",".join(["confirmed-dead" if node.confirmed_dead else node.phase, *marks])

    columns: list[Column[Node]] = [
        Column("ID", lambda node: node.id),
        Column("CLUSTER", lambda node: node.cluster),
        Column("HOST", lambda node: node.host),
        Column("STATE", state),
        Column("ACCELERATOR", lambda node: node.accelerator),
        Column("FREE/SLOTS", lambda node: f"{node.slots_free}/{node.slots}"),
        Column("SHARED", _shared),
        Column("QUARANTINED", _quarantine),
        Column("WHY", lambda node: node.cordon_reason, wide=True),
        Column("TOPOLOGY", lambda node: node.topology, wide=True),
        Column("FAULTS", lambda node: len(node.faults) or "", wide=True),
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


@nodes.command("confirm-dead")
def confirm_dead(
    name: Annotated[str, typer.Argument(metavar="NODE", help="The node's id or host.")],
    reason: Annotated[str, typer.Option(help="How you know; events keep it.")],
    force: Annotated[bool, typer.Option(help="Although it still beats.")] = False,
    confirm: Annotated[
        str | None, typer.Option(help="With --force: the host's name, instead of being asked.")
    ] = None,
) -> None:
    """Vouch that a machine is gone for good.

    Runs whose machines are all confirmed count as proven dead: their slots are free, and
    programs that waited for news start again. Do this only when nothing can still run there.

    Example: quarterdeck nodes confirm-dead node-3 --reason "power supply burnt"
    """
    with connect() as client:
        node = client.nodes.get(of_kind(name, "node"))
        if force and node.phase == "alive":
            typed = confirm if confirm is not None else typer.prompt(
                f"{node.host} still beats: what runs there will run twice. Type its name", err=True
            )  # fmt: skip
            if typed != node.host:
                refuse(f"{typed!r} is not {node.host!r}: nothing was done")
        node = client.nodes.confirm_dead(node.id, reason, force=force)
    print(f"node/{node.id} confirmed dead")
    for run in node.quarantined_runs:
        note(f"run {run.epoch} of {run.owner} is freed when all of its machines are confirmed dead")


def _quarantine(node: Node) -> str:
    """Given-up runs and the slots that they hold."""
    runs = node.quarantined_runs
    if not runs:
        return ""
    return f"{sum(run.slots for run in runs):g} slots by " + ", ".join(
        f"{run.owner} run {run.epoch}" for run in runs
    )


def _shared_of_cluster(cluster: Cluster) -> str:
    shared = cluster.slots_shared
    return f"{shared}, {cluster.shared_free:g} free" if shared else ""


def _shared(node: Node) -> str:
    """What is left of each shared slot."""
    return ", ".join(f"{slot.free:g} free" for slot in node.shared_slots)


def _pool(cluster: Cluster) -> str:
    """Machines here of those wanted, by group, of a cluster that a pool brings machines to."""
    if cluster.pool is None:
        return ""
    groups = (f"{group.name} {group.here}/{group.wanted}" for group in cluster.pool.groups)
    return ", ".join(groups)


def describe_cluster(client: Client, name: str, output: str) -> None:
    """All there is to know of a cluster and of the pool that brings its machines."""
    cluster = client.clusters.get(name)
    if output in ("json", "yaml"):
        show_one(cluster, output)
        return
    print(f"cluster/{cluster.name}  {cluster.id}  {cluster.phase}  {cluster.address}".rstrip())
    print(f"{cluster.nodes} machines, {cluster.slots_free} of {cluster.slots} slots free")
    pool = cluster.pool
    if pool is None:
        return
    print(f"pool: RayCluster {pool.namespace}/{pool.object}, looked at {age(pool.looked_at)} ago")
    if pool.reason:
        print(f"{pool.reason}: {pool.message}")
    columns: list[Column[PoolGroup]] = [
        Column("GROUP", lambda group: group.name),
        Column("ACCELERATOR", lambda group: f"{group.slots} {group.accelerator}"),
        Column("WANTED", lambda group: group.wanted),
        Column("HERE", lambda group: group.here),
        Column("COMING", lambda group: group.coming),
        Column("MIN-MAX", lambda group: f"{group.min_replicas}-{group.max_replicas}"),
        Column("BOUND-BY", lambda group: f"{group.constraint}: {group.bound_by}"),
    ]
    print(table(pool.groups, columns))
    for group in pool.groups:
        for one in group.trouble:
            who = f" (pods {', '.join(one.pods[:5])})" if one.pods else ""
            print(f"group {group.name}: {one.reason}: {one.message}{who}")


def describe_node(client: Client, name: str, output: str) -> None:
    """All there is to know of a machine."""
    node = client.nodes.get(name)
    if output in ("json", "yaml"):
        show_one(node, output)
        return
    print(f"node/{node.id}  host {node.host}  cluster {node.cluster}  {node.address}")
    print(f"{node.phase}  {node.slots_free} of {node.slots} slots free  {node.accelerator}")
    for slot in node.shared_slots:
        who = ", ".join(f"{one.owner} {one.share:g} ({one.run_id})" for one in slot.holders)
        print(f"shared slot {slot.number}: {who}; {slot.free:g} free")
    if node.cordoned:
        print(f"cordoned {node.cordon_reason}".rstrip())
    if (death := node.confirmed_dead) is not None:
        print(f"confirmed dead by {death.by} at {death.at:%Y-%m-%d %H:%M}Z: {death.reason}")
    for fault in node.faults:
        who = "" if fault.rank is None else f" rank {fault.rank}"
        print(
            f"fault {fault.policy}: job/{fault.owner_name} attempt {fault.epoch}{who}: "
            f"{fault.message} ({age(fault.at)} ago)"
        )
    for run in node.quarantined_runs:
        print(
            f"quarantined: run {run.epoch} of {run.owner} ({run.run_id}) holds {run.slots:g} slots "
            f"since {age(run.since)}; free it with `quarterdeck nodes confirm-dead {node.host}`"
        )
