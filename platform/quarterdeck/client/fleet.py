"""Clusters, nodes and runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quarterdeck.client.paging import collect
from quarterdeck.client.transport import API, Transport
from quarterdeck.specs.protocol import JoinTicket
from quarterdeck.specs.resources import Checkpoint, Cluster, LogPolicies, Node, Run


class Clusters:
    """`client.clusters`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self) -> Sequence[Cluster]:
        """Every cluster that ever had an agent."""
        return collect(self._transport, Cluster, f"{API}/clusters", None)

    def get(self, cluster: str) -> Cluster:
        """One cluster by its id or name. Raises NotFound."""
        return self._transport.get(Cluster, f"{API}/clusters/{cluster}")

    def join(self, cluster: str) -> JoinTicket:
        """What a machine needs to join; the answer holds a credential."""
        path = f"{API}/clusters/{cluster}/join"
        return self._transport.post(JoinTicket, path, repeatable=True)


class Nodes:
    """`client.nodes`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, cluster: str | None = None) -> Sequence[Node]:
        """Machines, over all clusters or of one."""
        return collect(self._transport, Node, f"{API}/nodes", None, cluster=cluster)

    def cordon(self, node: str) -> Node:
        """Place nothing new there; what runs goes on."""
        return self._transport.post(Node, f"{API}/nodes/{node}/cordon", repeatable=True)

    def get(self, node: str) -> Node:
        """One machine by its id or host. Raises NotFound."""
        return self._transport.get(Node, f"{API}/nodes/{node}")

    def confirm_dead(self, node: str, reason: str, *, force: bool = False) -> Node:
        """Vouch that it is gone for good: its runs count as dead. Raises Conflict while it beats,
        unless `force`."""
        body = {"reason": reason, "force": force}
        path = f"{API}/nodes/{node}/confirm-dead"
        return self._transport.post(Node, path, body=body, repeatable=True)

    def uncordon(self, node: str) -> Node:
        """Place runs there again."""
        return self._transport.post(Node, f"{API}/nodes/{node}/uncordon", repeatable=True)


class Runs:
    """`client.runs`: attempts of jobs and replicas of services."""

    def __init__(self, transport: Transport, project: str) -> None:
        self._transport = transport
        self._project = project

    def list(self, *, limit: int | None = None) -> Sequence[Run]:
        """Runs of the project, newest first."""
        return collect(self._transport, Run, f"{API}/runs", limit, project=self._project)

    def get(self, run: str) -> Run:
        """One run by its id. Raises NotFound."""
        return self._transport.get(Run, f"{API}/runs/{run}")


class Checkpoints:
    """`client.checkpoints`, over jobs."""

    def __init__(self, transport: Transport, project: str) -> None:
        self._transport = transport
        self._project = project

    def list(self, *, job: str | None = None) -> Sequence[Checkpoint]:
        """Registered checkpoints, newest first."""
        return collect(
            self._transport, Checkpoint, f"{API}/checkpoints", None,
            job=job, project=self._project,
        )  # fmt: skip


class LogPolicyList:
    """`client.log_policies`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def get(self) -> LogPolicies:
        """The installation's own, and all in force."""
        return self._transport.get(LogPolicies, f"{API}/log-policies")

    def put(self, policies: Sequence[Mapping[str, Any]]) -> LogPolicies:
        """Replace the installation's own; each has `name`, `pattern` and `verdict`."""
        body = {"policies": list(policies)}
        answer = self._transport.send("PUT", f"{API}/log-policies", body=body, repeatable=True)
        return self._transport.read(LogPolicies, answer)
