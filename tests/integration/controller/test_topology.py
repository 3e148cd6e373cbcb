"""Where machines are comes from Kubernetes' nodes and from agents, and decides where gangs go."""

from __future__ import annotations

from typing import Any

import pytest

from quarterdeck.cluster.provider import NodeSeen
from quarterdeck.store.tables import NodeRow
from tests.integration.controller.pool_deck import POOL, Deck, open_deck, placed_on

RACK = "example.com/rack"
FOUR = POOL.model_copy(
    update={
        "topology": ["topology.kubernetes.io/zone", RACK],
        "groups": [POOL.groups[0].model_copy(update={"min_replicas": 4, "max_replicas": 4})],
    }
)


@pytest.fixture
def deck(platform: Any) -> Deck:
    deck = open_deck(platform, FOUR)
    deck.machines.resize(None, {"h100": 4}, [])  # type: ignore[arg-type]
    for number, (zone, rack) in enumerate([("a", "r1"), ("b", "r1"), ("a", "r2"), ("b", "r1")]):
        name = f"k-pod-{number}"
        labels = {"topology.kubernetes.io/zone": zone, RACK: rack}
        deck.machines.nodes[name] = NodeSeen(name, labels=labels)
    deck.join()
    deck.tick()
    return deck


def test_a_gang_goes_where_its_machines_are_close(deck: Deck) -> None:
    assert [deck.node(f"pod-{n}").place for n in range(4)] == ["a/r1", "b/r1", "a/r2", "b/r1"]
    job = deck.submit("pair", 8)
    deck.platform.controller.tick()
    assert placed_on(deck, job) == {"pod-1", "pod-3"}
    (event,) = deck.events("run.assigned")
    assert event.data["topology"] == "b/r1"
    assert "assigned to cluster a, all within b/r1" in event.message


@pytest.mark.parametrize(
    ("labels", "topology", "place"),
    [
        ({}, "", ""),
        ({}, "a/r1", "a/r1"),
        ({"rack": "r9"}, "", "r9"),
        ({"rack": "r9"}, "a", "a/r9"),
        ({"zone": "x", "rack": "r9"}, "a/r1", "x/r9"),
        ({"zone": "", "block": "b"}, "a", "a/b"),
    ],
)
def test_what_an_agent_says_lies_within_what_kubernetes_says(
    labels: dict[str, str], topology: str, place: str
) -> None:
    assert NodeRow(labels=labels, topology=topology).place == place


def test_an_agents_own_words_come_first(deck: Deck) -> None:
    with deck.database.write() as session:
        for number in (0, 1):
            row = session.merge(deck.node(f"pod-{number}"))
            row.labels = {"zone": "x", "rack": "r9"}
    job = deck.submit("pair", 8)
    deck.platform.controller.tick()
    assert placed_on(deck, job) == {"pod-0", "pod-1"}
    assert deck.events("run.assigned")[0].data["topology"] == "x/r9"
