"""Chains over REST: checked at submission, shown as one endpoint, told to gateways."""

from __future__ import annotations

from typing import Any

import pytest

from tests.integration.api.conftest import Platform, paths, problem

STEPS = [{"guard": "guard"}, {"retriever": "search", "top": 7}, {"model": "chat"}]
CHAIN: dict[str, Any] = {"kind": "service", "name": "support", "aliases": "assistant",
                         "chain": STEPS}  # fmt: skip


def service(name: str) -> dict[str, Any]:
    return {"kind": "service", "name": name, "model": "file:///model"}


SERVICES = [service(name) for name in ("guard", "search", "chat")]


def apply(platform: Platform, *documents: dict[str, Any], **wishes: Any) -> Any:
    return platform.admin.post("/apply", {"documents": list(documents), **wishes})


def test_a_chain_and_its_services_apply_together_in_any_order(platform: Platform) -> None:
    answer = apply(platform, CHAIN, *SERVICES)
    assert answer.status_code == 200, answer.text
    assert [each["action"] for each in answer.json()["results"]] == ["created"] * 4
    again = apply(platform, CHAIN, *SERVICES).json()["results"]
    assert [each["action"] for each in again] == ["unchanged"] * 4
    found = platform.admin.get("/services/support").json()
    assert (found["model"], found["desired_replicas"], found["replicas"]) == (None, 0, [])
    assert [(step["role"], step["service"], step["ready"]) for step in found["steps"]] == [
        ("guard", "guard", False), ("retriever", "search", False), ("model", "chat", False),
    ]  # fmt: skip
    listed = platform.admin.get("/services").json()["items"]
    assert {each["name"]: len(each["steps"]) for each in listed} == {
        "support": 3, "guard": 0, "search": 0, "chat": 0,
    }  # fmt: skip
    facts = platform.admin.get("/services/support/why").json()["facts"]
    assert facts[0].startswith("step 1 (guard): service/guard is deploying")
    assert not any("replicas are ready" in fact for fact in facts)


def test_gateways_are_told_the_steps(platform: Platform) -> None:
    apply(platform, CHAIN, *SERVICES)
    snapshot = platform.admin.get("/gateway/snapshot").json()
    routes = {route["name"]: route for route in snapshot["services"]}
    assert [(step["role"], step["service"]) for step in routes["support"]["chain"]] == [
        ("guard", "guard"), ("retriever", "search"), ("model", "chat"),
    ]  # fmt: skip
    guard, search, model = routes["support"]["chain"]
    assert guard["refuse_when"] == r"^\s*unsafe" and guard["timeout"] == 10
    assert search["top"] == 7 and "{documents}" in model["template"]
    assert routes["chat"]["chain"] == []


@pytest.mark.parametrize(
    ("chain", "path", "words"),
    [
        ([{"model": "chta"}], "documents[0].chain[0].model", "did you mean 'chat'?"),
        ([{"guard": "old"}, {"model": "chat"}], "documents[0].chain[0].guard", "chain itself"),
        ([{"model": "support"}], "documents[0].chain[0].model", "chain itself"),
        ([{"guard": "gone"}, {"model": "chat"}], "documents[0].chain[0].guard", "does not exist"),
    ],
)
def test_steps_that_are_not_there_or_chains_are_refused(
    platform: Platform, chain: list[dict[str, str]], path: str, words: str
) -> None:
    old = {**CHAIN, "name": "old", "chain": [{"model": "chat"}], "aliases": []}
    assert apply(platform, *SERVICES, service("gone"), old).status_code == 200
    platform.admin.delete("/services/gone")
    answer = apply(platform, {**CHAIN, "chain": chain})
    assert problem(answer) == "invalid_document" and paths(answer) == [path]
    assert words in answer.json()["errors"][0]["message"]


def test_model_and_chain_do_not_go_over_into_each_other(platform: Platform) -> None:
    apply(platform, CHAIN, *SERVICES)
    answer = apply(platform, service("support"))
    assert problem(answer) == "invalid_document" and paths(answer) == ["documents[0].model"]
    put = platform.admin.put(
        "/services/chat", {**CHAIN, "name": "chat", "aliases": []}, headers={"If-Match": "*"}
    )
    assert problem(put) == "invalid_document" and "chain" in paths(put)
    platform.admin.delete("/services/support")
    assert apply(platform, service("support")).status_code == 200, "its name is free"


def test_a_chain_is_not_scaled_and_has_a_history(platform: Platform) -> None:
    apply(platform, CHAIN, *SERVICES)
    refused = platform.admin.post("/services/support/scale", {"replicas": 1})
    assert (refused.status_code, problem(refused)) == (422, "invalid_parameter")
    assert "scale the service of a step" in refused.text
    changed = apply(platform, {**CHAIN, "chain": STEPS[::2]}).json()["results"][0]
    assert (changed["action"], changed["message"]) == ("updated", "revision 2")
    paused = platform.admin.post("/services/support/rollout/pause")
    assert problem(paused) == "rollout_state"
    undone = platform.admin.post("/services/support/rollout/undo", {})
    assert undone.status_code == 200 and undone.json()["phase"] == "finished"
    assert len(platform.admin.get("/services/support").json()["steps"]) == 3


def test_pruning_keeps_what_a_kept_chain_names(platform: Platform) -> None:
    apply(platform, CHAIN, *SERVICES, service("other"))
    results = apply(platform, CHAIN, prune=True).json()["results"]
    assert [each["name"] for each in results if each["action"] == "deleted"] == ["other"]
