"""Projects that run in clusters of their own: who may start where, and what the others are told."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.scheduling.plan import plan
from quarterdeck.scheduling.snapshot import GroupView, Hold, NodeView, Plan, Request, Snapshot
from quarterdeck.specs.tenancy import Tenancy

NOW = datetime(2026, 1, 1, 13, 0, tzinfo=UTC)


def nodes(*clusters: str) -> tuple[NodeView, ...]:
    return tuple(NodeView(f"{name}-0", name, 8, "H100", host=f"host-{name}") for name in clusters)


def ask(name: str, project: str = "default", **fields: Any) -> Request:
    return Request(name, f"job/{name}", 0, 0, data=fields.pop("data", 4), project=project, **fields)


def look(
    *requests: Request, there: str = "shared", owners: Any = None, isolated: Any = (),
    holds: Any = (), groups: Any = (),
) -> Plan:  # fmt: skip
    machines = nodes(*there.split())
    clusters = {node.cluster: True for node in machines}
    tenancy = Tenancy(owners or {}, frozenset(isolated))
    return plan(Snapshot(clusters, machines, tuple(holds), requests, tuple(groups), tenancy), NOW)


def placed(made: Plan) -> dict[str, str]:
    return {one.request_id: one.cluster for one in made.assignments}


def why(made: Plan) -> tuple[str, str]:
    (one,) = made.pending
    return one.reason, one.message


def test_an_isolated_project_runs_in_its_own_cluster_and_nobody_else_does() -> None:
    made = look(
        ask("a", "nlp", data=8), ask("b", data=8), there="own shared",
        owners={"own": "nlp"}, isolated=["nlp"],
    )  # fmt: skip
    assert placed(made) == {"a": "own", "b": "shared"}


def test_one_that_has_none_waits_although_shared_machines_are_free() -> None:
    reason, message = why(look(ask("a", "nlp"), isolated=["nlp"]))
    assert reason == "NoClusterOfItsOwn"
    assert message == (
        "project nlp is isolated and has no cluster of its own: give a pool `project: nlp`, or "
        "start an agent with --project nlp (shared is shared)"
    )


def test_naming_a_shared_cluster_does_not_help() -> None:
    made = look(
        ask("a", "nlp", cluster="shared"), there="own shared", owners={"own": "nlp"},
        isolated=["nlp"],
    )  # fmt: skip
    assert why(made) == (
        "NoClusterOfItsOwn",
        "project nlp is isolated: shared is shared; leave `cluster` out, or name one of its own: "
        "own",
    )


def test_a_cluster_of_a_project_takes_no_other_even_if_nothing_is_isolated() -> None:
    made = look(ask("a", "cv"), there="own", owners={"own": "nlp"})
    reason, message = why(made)
    assert reason == "ClusterOfAnotherProject"
    assert "own belongs to project nlp" in message
    assert placed(look(ask("a", "nlp"), there="own", owners={"own": "nlp"})) == {"a": "own"}


def test_a_project_that_is_not_isolated_uses_its_own_and_the_shared_ones() -> None:
    made = look(
        ask("a", "nlp", data=8), ask("b", "nlp", data=8), there="own shared", owners={"own": "nlp"}
    )
    assert set(placed(made).values()) == {"own", "shared"}


def test_what_is_full_is_explained_by_its_own_cluster_alone() -> None:
    made = look(
        ask("a", "nlp", data=16), there="own shared", owners={"own": "nlp"}, isolated=["nlp"]
    )
    assert why(made) == ("ExceedsCluster", "needs 16 H100, cluster own has 8 in all")


def test_nothing_starts_beside_runs_of_before() -> None:
    """A cluster that changed hands, and a project that was isolated while it ran elsewhere."""
    theirs = [Hold("job/x", "own", {"own-0": 1}, project="cv")]
    made = look(ask("a", "nlp"), there="own", owners={"own": "nlp"}, isolated=["nlp"], holds=theirs)
    reason, message = why(made)
    assert reason == "OthersStillRun"
    assert message.endswith("own still has runs of project cv")
    ours = [Hold("job/x", "shared", {"shared-0": 1}, project="nlp", quarantined=True)]
    reason, message = why(look(ask("b", "cv"), isolated=["nlp"], holds=ours))
    assert (reason, "still has runs of project nlp" in message) == ("ClusterOfAnotherProject", True)
    assert placed(look(ask("b", "cv"), holds=ours)) == {"b": "shared"}


def test_pools_grow_for_those_that_may_use_them_alone() -> None:
    group = GroupView("gpu", "h100", 8, "H100", room=4, most=4)
    made = look(
        ask("a", "nlp"), ask("b", "cv"), there="", owners={"gpu": "nlp"}, isolated=["nlp"],
        groups=[group],
    )  # fmt: skip
    assert made.demands["gpu", "h100"].whom == ("job/a",)
    reasons = {one.request_id: one.reason for one in made.pending}
    assert reasons["a"] == "WaitingForMachines"
    assert reasons["b"] == "ClusterOfAnotherProject"
    shared = look(ask("a", "nlp"), there="", isolated=["nlp"], groups=[group])
    assert shared.demands == {}
    assert why(shared)[0] == "NoClusterOfItsOwn"


PROJECTS = st.sampled_from(["nlp", "cv", "default"])
CLUSTERS = ["a", "b", "c"]


@given(
    st.dictionaries(st.sampled_from(CLUSTERS), PROJECTS),
    st.sets(PROJECTS),
    st.lists(PROJECTS, max_size=6),
    st.lists(st.tuples(st.sampled_from(CLUSTERS), PROJECTS), max_size=3),
)
def test_no_isolated_project_ever_shares_a_cluster(
    owners: Any, isolated: Any, projects: list[str], running: list[tuple[str, str]]
) -> None:
    requests = [ask(f"r{i}", project, data=1) for i, project in enumerate(projects)]
    holds = [
        Hold(f"job/h{i}", cluster, {f"{cluster}-0": 1}, project=project)
        for i, (cluster, project) in enumerate(running)
    ]
    made = look(*requests, there=" ".join(CLUSTERS), owners=owners, isolated=isolated, holds=holds)
    assert len(made.assignments) + len(made.pending) == len(requests)
    there = {name: {project for where, project in running if where == name} for name in CLUSTERS}
    for one in made.assignments:
        project = projects[int(one.request_id[1:])]
        assert owners.get(one.cluster, project) == project
        assert project not in isolated or owners.get(one.cluster) == project
        others = {other for other in there[one.cluster] if other != project}
        assert not others or not (isolated & {project, *others})
        there[one.cluster].add(project)
