"""What gateways need to know: services, their replicas' endpoints, and valid keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from quarterdeck.lifecycle.run import ENDED
from quarterdeck.store.tables import ClusterRow, RunRow, ServiceRow


@dataclass(frozen=True)
class Routed:
    """A service and the runs that may answer for it."""

    service: ServiceRow
    replicas: Sequence[RunRow]


def routed_services(session: Session) -> list[Routed]:
    """Services that are not stopped with their living replicas that have an endpoint, on
    clusters whose endpoints gateways can reach."""
    services = session.scalars(
        select(ServiceRow)
        .where(ServiceRow.phase != "stopped")
        .order_by(ServiceRow.project, ServiceRow.name, ServiceRow.ordinal)
    ).all()
    replicas: dict[str, list[RunRow]] = {row.id: [] for row in services}
    query = (
        select(RunRow)
        .join(ClusterRow, ClusterRow.name == RunRow.cluster)
        .where(
            RunRow.owner_type == "service",
            RunRow.owner_id.in_(list(replicas)),
            RunRow.phase.not_in(sorted(ENDED)),
            ClusterRow.endpoints_reachable.is_(True),
        )
        .order_by(RunRow.epoch)
    )
    for run in session.scalars(query):
        if run.endpoint:
            replicas[run.owner_id].append(run)
    return [Routed(row, replicas[row.id]) for row in services]
