"""Whose clusters are whose, and which projects are isolated, as the tables have it."""

from __future__ import annotations

from sqlalchemy import select
from sqlalchemy.orm import Session

from quarterdeck.specs.tenancy import Tenancy
from quarterdeck.store.tables import ClusterRow, PoolRow, ProjectRow


def read_tenancy(session: Session, cluster: str | None = None) -> Tenancy:
    """As the pools' file, else the clusters' agents say, and as projects are set; of one cluster,
    or of all (None)."""
    owners: dict[str, str] = {}
    for row in (ClusterRow, PoolRow):
        query = select(row.name, row.project).where(row.project.is_not(None))
        if cluster is not None:
            query = query.where(row.name == cluster)
        owners |= {name: project for name, project in session.execute(query) if project}
    isolated = session.scalars(select(ProjectRow.name).where(ProjectRow.isolation == "cluster"))
    return Tenancy(owners, frozenset(isolated))
