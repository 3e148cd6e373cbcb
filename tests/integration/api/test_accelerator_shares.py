"""Shares of accelerators over REST: refused where they cannot hold the model, and shown."""

from __future__ import annotations

from typing import Any

import pytest

from quarterdeck.controller.loop import Controller
from quarterdeck.specs.presets import load_preset
from quarterdeck.store.ids import new_id
from quarterdeck.store.tables import AssetVersionRow
from tests.integration.api.conftest import Platform, agent_beat, paths, problem

GB = 10**9


def service(share: str, **fields: Any) -> dict[str, Any]:
    resources = {"accelerator": "H100", "accelerator_share": share}
    return {
        "kind": "service", "name": "s", "model": "llama", "resources": resources, **fields,
    }  # fmt: skip


@pytest.fixture
def llama(platform: Platform) -> Platform:
    """A model of 16 GB whose cache takes 131,072 bytes a token."""
    architecture = load_preset("llama-3-8b").model_dump(mode="json")
    with platform.database.write() as session:
        session.add(
            AssetVersionRow(
                id=new_id("model"), kind="model", name="llama", project="default", version=1,
                digest="sha256:0", uri="file:///m", size=16 * GB,
                details={"architecture": architecture, "sequence_length": 8192},
            )
        )  # fmt: skip
    return platform


def apply(platform: Platform, document: dict[str, Any], **wishes: Any) -> Any:
    return platform.admin.post("/apply", {"documents": [document], **wishes})


def test_a_share_that_cannot_hold_the_model_is_refused_with_numbers(llama: Platform) -> None:
    """0.9 of 80 GB is 72 GB; 16 GB and 8192 × 131,072 bytes are 17.07 GB: 23.7 % of it, 23.8 in
    whole steps."""
    refused = apply(llama, service("20%"))
    assert (refused.status_code, problem(refused)) == (422, "does_not_fit")
    assert paths(refused) == ["documents[0].resources.accelerator_share"]
    detail = refused.json()["detail"]
    assert "0.2 of H100" in detail and "16.0 GB of weights and 1.07 GB" in detail
    assert "of 8192 tokens: take at least 23.8%" in detail
    assert problem(apply(llama, service("23.7%"))) == "does_not_fit"
    assert apply(llama, service("23.8%")).status_code == 200
    assert apply(llama, service("20%"), force=True).status_code == 200


def test_a_shorter_sequence_needs_a_smaller_share(llama: Platform) -> None:
    short = {"engine": "vllm", "engine_args": {"max_model_len": 512}}
    assert problem(apply(llama, service("23%"))) == "does_not_fit"
    assert apply(llama, service("23%", **short)).status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"model": "file:///elsewhere"},
        {"engine": "command", "command": "serve"},
        {"engine": "vllm", "engine_args": {"max_model_len": "auto"}},
        {"resources": {"accelerator_share": "1%"}},
    ],
    ids=["unknown model", "own engine", "unknown length", "unknown hardware"],
)
def test_what_is_not_known_is_not_judged(llama: Platform, fields: dict[str, Any]) -> None:
    assert apply(llama, {**service("1%"), **fields}).status_code == 200


def test_a_change_over_put_is_judged_too(llama: Platform) -> None:
    assert apply(llama, service("50%")).status_code == 200
    answer = llama.admin.put("/services/s", service("20%"), headers={"If-Match": "*"})
    assert (answer.status_code, problem(answer)) == (422, "does_not_fit")


def test_nodes_and_clusters_show_who_shares_a_slot(platform: Platform) -> None:
    platform.agent.post("/agents/a/beat", agent_beat(slots=2))
    for name, share in (("a", "40%"), ("b", "25%")):
        document = {**service(share), "name": name, "model": "file:///m"}
        document["resources"] = {"accelerator_share": share}
        assert apply(platform, document).status_code == 200
    controller = Controller(platform.database)
    for _ in range(4):
        controller.tick()
    (node,) = platform.admin.get("/nodes").json()["items"]
    (slot,) = node["shared_slots"]
    assert node["slots_free"] == 1 and slot["free"] == 0.35
    assert [(one["owner"], one["share"]) for one in slot["holders"]] == [
        ("service/a", 0.4), ("service/b", 0.25),
    ]  # fmt: skip
    (cluster,) = platform.admin.get("/clusters").json()["items"]
    assert (cluster["slots_free"], cluster["slots_shared"], cluster["shared_free"]) == (1, 1, 0.35)
    text = platform.http.get("/metrics").text
    assert 'quarterdeck_slots{cluster="a",state="shared"} 1.0' in text
