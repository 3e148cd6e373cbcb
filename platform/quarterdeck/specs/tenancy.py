"""Whose clusters are whose, and who may run where.

Ray has no access control: whoever runs in a cluster reaches all that runs there. So a cluster that
belongs to a project takes its runs alone, an isolated project uses clusters of its own alone, and
none of its runs starts beside one of another project, nor the other way round, whatever a cluster
was before. Clusters of nobody are shared by projects that trust each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Isolation = Literal["shared", "cluster"]


@dataclass(frozen=True)
class Tenancy:
    """`owners` by cluster, also of pools that no agent has told of; others are shared."""

    owners: Mapping[str, str] = field(default_factory=dict)
    isolated: frozenset[str] = frozenset()
    """Projects."""

    def owned_by(self, project: str) -> list[str]:
        """The clusters of a project."""
        return sorted(name for name, owner in self.owners.items() if owner == project)

    def why_closed(self, cluster: str, project: str, guests: Iterable[str] = ()) -> str:
        """Why a cluster takes no run of a project; empty: it does. `guests` are the projects of
        the runs that live there, given-up ones too."""
        owner, isolated = self.owners.get(cluster), project in self.isolated
        if owner not in (None, project):
            return f"belongs to project {owner}"
        if isolated and owner is None:
            return "is shared"
        others = {guest for guest in guests if guest != project}
        barring = sorted(others if isolated else others & self.isolated)
        return f"still has runs of project {', '.join(barring)}" if barring else ""
