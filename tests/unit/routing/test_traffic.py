"""Which revision gets a request: shares hold, and no weight leaves a request unanswered."""

from __future__ import annotations

from collections import Counter
from random import Random

from quarterdeck.routing.replicas import ReplicaView, RouteRequest
from quarterdeck.routing.traffic import of_revision
from quarterdeck.specs.gateway_snapshot import TrafficShare

OLD = [ReplicaView(f"old{number}", "u", revision=1) for number in range(3)]
NEW = [ReplicaView("new", "u", revision=2)]
NONE = RouteRequest()


def shares(*weights: float) -> list[TrafficShare]:
    return [
        TrafficShare(revision=number, weight=weight) for number, weight in enumerate(weights, 1)
    ]


def test_shares_hold_whatever_the_number_of_replicas() -> None:
    random, drawn = Random(7), Counter[int]()
    for _ in range(10_000):
        chosen = of_revision(NONE, [*OLD, *NEW], shares(0.9, 0.1), random)
        drawn[chosen[0].revision] += 1
        assert len({replica.revision for replica in chosen}) == 1
    # Six standard deviations of a binomial draw.
    assert abs(drawn[2] - 1000) < 6 * (10_000 * 0.1 * 0.9) ** 0.5


def test_weights_prefer_but_never_refuse() -> None:
    random = Random(7)
    loading = [ReplicaView("new", "u", ready=False, revision=2)]
    for _ in range(50):
        assert of_revision(NONE, [*OLD, *loading], shares(0.1, 0.9), random) == OLD
        assert of_revision(NONE, [*OLD, *NEW], shares(1.0, 0.0), random) == OLD
    ejected = [ReplicaView("new", "u", ejected=True, revision=2)]
    assert of_revision(NONE, [*OLD, *ejected], shares(0.1, 0.9), random) == OLD
    assert of_revision(NONE, NEW, shares(1.0, 0.0), random) == NEW, "only the new one is there"
    tried = RouteRequest(frozenset({"new"}))
    assert of_revision(tried, [*OLD, *NEW], shares(0.0, 1.0), random) == [*OLD, *NEW]
    assert of_revision(NONE, [*OLD, *NEW], [], random) == [*OLD, *NEW]


def test_an_operator_gets_the_revision_asked_for_or_nothing() -> None:
    random = Random(7)
    assert of_revision(NONE, [*OLD, *NEW], shares(1.0, 0.0), random, asked=2) == NEW
    assert of_revision(NONE, OLD, shares(1.0, 0.0), random, asked=2) == []


def test_sessions_stay_with_their_revision_and_only_move_to_the_newest() -> None:
    def revision(session: str, new: float, seed: int) -> int:
        request = RouteRequest(session=session)
        return of_revision(request, [*OLD, *NEW], shares(1 - new, new), Random(seed))[0].revision

    sessions = [f"s{number}" for number in range(2000)]
    before = {session: revision(session, 0.1, 1) for session in sessions}
    assert before == {session: revision(session, 0.1, 2) for session in sessions}
    assert 130 < sum(number == 2 for number in before.values()) < 270
    after = {session: revision(session, 0.5, 3) for session in sessions}
    assert all(after[session] == 2 for session in sessions if before[session] == 2)
    assert 880 < sum(number == 2 for number in after.values()) < 1120
