"""What is said of clusters that are not everybody's."""

from __future__ import annotations

from datetime import UTC, datetime

from quarterdeck.scheduling.plan import plan
from quarterdeck.scheduling.snapshot import NodeView, Request, Snapshot
from quarterdeck.specs.tenancy import Tenancy

NOW = datetime(2026, 1, 1, tzinfo=UTC)
EAST = NodeView("e", "east", 4, "H100")
WEST = NodeView("w", "west", 4, "H100")
ASK = Request("r", "job/r", 0, 0, data=2, project="default")


def test_a_cluster_of_another_project_is_said_to_be_that() -> None:
    clusters = {"east": True, "west": True}
    tenancy = Tenancy(owners={"east": "lab"})
    (made,) = plan(Snapshot(clusters, (EAST, WEST), (), (ASK,), tenancy=tenancy), NOW).assignments
    assert dict(made.clusters) == {
        "west": "taken: 2 ranks on 1 machine (H100)",
        "east": "it belongs to project lab",
    }


def test_clusters_that_other_jobs_have_for_themselves_are_not_told_of() -> None:
    clusters = {"east": True, "west": True, "of-another": False}
    exclusive = {"of-another": "job-x"}
    snapshot = Snapshot(clusters, (EAST, WEST), (), (ASK,), exclusive=exclusive)
    (made,) = plan(snapshot, NOW).assignments
    assert made.clusters.keys() == {"east", "west"}
    alone = Snapshot({"east": True, "of-another": True}, (EAST,), (), (ASK,), exclusive=exclusive)
    (made,) = plan(alone, NOW).assignments
    assert not made.clusters
