"""A rollout at the gateway: shares of traffic, an operator's choice, and what is told of it."""

from __future__ import annotations

from typing import Any

import pytest

from quarterdeck.specs.gateway_snapshot import TrafficShare

BODY = {"model": "chat", "prompt": "hi"}


@pytest.fixture
def rolling(api: Any, gateways: Any, scripted: Any, kit: Any) -> Any:
    """A gateway before revisions 1 (answers) and 2 (fails), which gets no traffic yet."""
    good = scripted("run-1", lambda n: [kit.whole(b"{}")])
    bad = scripted("run-2", lambda n: [kit.whole(b"{}", "500 Internal Server Error")])
    route = kit.route("chat", good.endpoint(revision=1), bad.endpoint(revision=2))
    route.traffic = [
        TrafficShare(revision=1, weight=1.0), TrafficShare(revision=2, weight=0.0),
    ]  # fmt: skip
    api.publish(route)
    gateway = gateways()
    gateway.wait_for("chat")
    return gateway


def test_a_revision_on_trial_gets_its_share_and_operators_choose(rolling: Any, kit: Any) -> None:
    header = "x-quarterdeck-revision"
    with rolling.client() as client:
        answers = [client.post("/v1/completions", json=BODY) for _ in range(10)]
        assert {each.headers["x-quarterdeck-replica"] for each in answers} == {"run-1"}
        refused = client.post("/v1/completions", json=BODY, headers={header: "2"})
        assert refused.status_code == 403 and header in refused.json()["error"]["message"]
    with rolling.client(kit.ALL_KEY) as admin:
        asked = admin.post("/v1/completions", json=BODY, headers={header: "2"})
        assert asked.status_code == 500 and asked.headers["x-quarterdeck-replica"] == "run-2"
        absent = admin.post("/v1/completions", json=BODY, headers={header: "7"})
        assert absent.status_code == 503
        wrong = admin.post("/v1/completions", json=BODY, headers={header: "two"})
        assert wrong.status_code == 400


def test_what_is_observed_reaches_the_api_once_it_is_back(rolling: Any, api: Any, kit: Any) -> None:
    api.takes = 503
    with rolling.client(kit.ALL_KEY) as admin:
        for _ in range(3):
            admin.post("/v1/completions", json=BODY)
        admin.post("/v1/completions", json=BODY, headers={"x-quarterdeck-revision": "2"})
    kit.wait_until(lambda: len(api.reports) >= 2, "no report came")
    api.takes = 200
    taken: list[dict[str, Any]] = []

    def complete() -> bool:
        taken[:] = [each for each in api.reports if each["answer"] == 200]
        return sum(one["requests"] for each in taken for one in each["revisions"]) == 4

    kit.wait_until(complete, "what was observed while the api was away is lost")
    assert len({each["seq"] for each in taken}) == len(taken), "none is taken twice"
    counts: dict[int, list[int]] = {}
    for one in [one for each in taken for one in each["revisions"]]:
        sums = counts.setdefault(one["revision"], [0, 0])
        sums[0] += one["requests"]
        sums[1] += one["errors"]
    assert counts == {1: [3, 0], 2: [1, 1]}
