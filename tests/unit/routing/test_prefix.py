"""The radix tree, and the rule that uses it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from quarterdeck.routing.policies import build
from quarterdeck.routing.policy import RoutingPolicy
from quarterdeck.routing.radix_tree import RadixTree
from quarterdeck.routing.replicas import ReplicaView, RouteRequest
from quarterdeck.specs.routing import RoutingSettings


def common(one: str, other: str) -> int:
    """Characters that both begin with."""
    pairs = zip(one, other, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


texts = st.lists(st.text("ab", max_size=30), max_size=40)


@given(texts, st.text("ab", max_size=30))
def test_a_tree_matches_the_longest_common_beginning(seen: list[str], asked: str) -> None:
    tree = RadixTree()
    for text in seen:
        tree.insert(text)
    assert tree.match(asked) == max((common(text, asked) for text in seen), default=0)


@given(texts, st.integers(1, 12), st.integers(1, 60))
def test_a_tree_is_bounded_and_what_is_left_was_seen(
    seen: list[str], nodes: int, characters: int
) -> None:
    tree = RadixTree(max_nodes=nodes, max_characters=characters)
    for count, text in enumerate(seen, 1):
        tree.insert(text)
        assert 0 <= tree.nodes <= nodes and 0 <= tree.characters <= characters
        assert tree.nodes == _nodes(tree) and tree.characters == _characters(tree)
        assert len(tree._leaves) <= tree.nodes
        for asked in seen:
            longest = max(common(old, asked) for old in seen[:count])
            assert tree.match(asked) <= longest


def _all(tree: RadixTree) -> list[str]:
    found, left = [], list(tree._root.children.values())
    while left:
        node = left.pop()
        found.append(node.label)
        left += node.children.values()
    return found


def _nodes(tree: RadixTree) -> int:
    return len(_all(tree))


def _characters(tree: RadixTree) -> int:
    return sum(len(label) for label in _all(tree))


def test_what_was_used_longest_ago_goes_first() -> None:
    tree = RadixTree(max_nodes=3)
    for text in ("alpha", "beta", "gamma", "alpha", "delta"):
        tree.insert(text)
    assert [tree.match(text) for text in ("alpha", "beta", "gamma", "delta")] == [5, 0, 5, 5]
    # A beginning outlives its continuations: leaves go first.
    tree = RadixTree(max_nodes=2)
    for text in ("system 1", "system 2", "system 3"):
        tree.insert(text)
    assert tree.match("system 3") == 8 and tree.match("system 1") == 7


def policy(**values: object) -> RoutingPolicy:
    return build(RoutingSettings.model_validate({"policy": "prefix", **values}))


def fleet_of(*loads: int) -> list[ReplicaView]:
    return [ReplicaView(f"r{i}", "http://r", in_flight=load) for i, load in enumerate(loads)]


def ask(chooser: RoutingPolicy, fleet: list[ReplicaView], prompt: str, opening: str = "") -> str:
    opening = opening or prompt[:8]
    request = RouteRequest(prompt=prompt, opening=opening, own_after=len(opening))
    chosen = chooser.choose(request, fleet, Random(len(prompt)))
    assert isinstance(chosen, ReplicaView)
    chooser.sent(request, chosen)
    return chosen.run_id


def chat(number: int, turns: int, system: str = "") -> tuple[str, str]:
    """The text of a conversation with its opening."""
    opening = f"{system}conversation {number}: what is it?"
    return opening + "".join(f" answer {n} and so on; why {n}?" for n in range(turns)), opening


def test_a_conversation_stays_where_its_beginning_is_cached() -> None:
    chooser, fleet = policy(), fleet_of(0, 0, 0, 0)
    homes = {}
    for turns in range(4):
        for number in range(40):
            home = ask(chooser, fleet, *chat(number, turns))
            assert homes.setdefault(number, home) == home
    assert min(Counter(homes.values()).values()) >= 4


def test_copies_that_share_nothing_send_a_conversation_to_the_same_replica() -> None:
    fleet = fleet_of(0, 0, 0, 0)
    copies = [policy(), policy()]
    for number in range(40):
        text, opening = chat(number, 3)
        alone = f"{number:02} {opening}"
        ends = [len(alone) + 32 * turns for turns in range(4)]
        homes = {
            ask(copies[turns % 2], fleet, f"{number:02} {text}"[: ends[turns]], alone)
            for turns in range(4)
        }
        assert len(homes) == 1
    # With a beginning that all share they agree once all replicas have it.
    system, copies = "You are a helpful assistant. " * 40, [policy(), policy()]
    for home in fleet:
        for copy in copies:
            copy.sent(RouteRequest(prompt=system), home)
    for number in range(40):
        turns = [chat(number, count, system) for count in range(4)]
        assert len({ask(copies[n % 2], fleet, *turn) for n, turn in enumerate(turns)}) == 1


@given(st.integers(0, 3), st.integers(0, 200), st.integers(0, 200))
@example(0, 200, 134)
def test_loads_out_of_balance_win_over_the_cache(home: int, most: int, fewest: int) -> None:
    most, fewest = max(most, fewest), min(most, fewest)
    chooser = policy()
    prompt, opening = chat(1, 3)
    fleet = fleet_of(*[most if i == home else fewest for i in range(4)])
    chooser.sent(RouteRequest(prompt=prompt, opening=opening), fleet[home])
    unbalanced = most - fewest > 64 and most > 1.5 * fewest
    assert (ask(chooser, fleet, prompt, opening) != f"r{home}") == unbalanced


def test_a_short_match_is_cold() -> None:
    fleet = fleet_of(0, 0, 0, 0)
    enough, short = "x" * 30 + "y" * 69, "x" * 30 + "y" * 70
    cold = ask(policy(), fleet, short, short)
    for home in fleet:
        chooser = policy()
        chooser.sent(RouteRequest(prompt="x" * 30), home)
        assert ask(chooser, fleet, enough, enough) == home.run_id
        chooser = policy()
        chooser.sent(RouteRequest(prompt="x" * 30), home)
        assert ask(chooser, fleet, short, short) == cold
    assert ask(policy(), fleet, "") in {"r0", "r1", "r2", "r3"}


def test_a_shared_system_prompt_does_not_draw_all_conversations_to_one_replica() -> None:
    chooser, random = policy(), Random(0)
    system = "You are a helpful assistant. " * 40
    running: list[str] = []
    homes: dict[int, str] = {}
    for turns in range(3):
        for number in range(32):
            loads = Counter(running)
            fleet = [replace(one, in_flight=loads[one.run_id]) for one in fleet_of(0, 0, 0, 0)]
            home = ask(chooser, fleet, *chat(number, turns, system))
            # The first turn's home may be full when the second comes; then it stays.
            assert turns < 2 or homes[number] == home
            homes[number] = home
            running.append(home)
            if len(running) > 8:
                running.pop(random.randrange(len(running)))
    assert max(Counter(homes.values()).values()) <= 16


@given(st.lists(st.booleans(), min_size=2, max_size=6), st.integers(0, 5))
def test_a_cache_on_a_replica_that_takes_no_traffic_draws_nobody(
    ready: list[bool], home: int
) -> None:
    chooser = policy()
    prompt, opening = chat(1, 2)
    fleet = [
        replace(one, ready=up) for one, up in zip(fleet_of(*[0] * len(ready)), ready, strict=True)
    ]
    chooser.sent(RouteRequest(prompt=prompt), fleet[home % len(fleet)])
    choice = chooser.choose(RouteRequest(prompt=prompt, opening=opening), fleet, Random(0))
    assert isinstance(choice, ReplicaView) == any(ready)
    assert not isinstance(choice, ReplicaView) or choice.ready


def test_replicas_that_are_gone_are_forgotten() -> None:
    chooser, fleet = policy(), fleet_of(0, 0)
    prompt, opening = chat(1, 2)
    chooser.sent(RouteRequest(prompt=prompt), fleet[0])
    request = RouteRequest(prompt=prompt, opening=opening)
    assert "of the prompt is cached" in chooser.explain(request, fleet, Random(0)).why
    chooser.keep(frozenset({"r1"}))
    assert "nothing cached" in chooser.explain(request, fleet, Random(0)).why


@pytest.mark.parametrize("length", [16 * 2**10])
def test_a_long_prompt_is_compared_in_pieces(length: int) -> None:
    """One node for each turn, not one for each character."""
    tree = RadixTree()
    text = "word " * (length // 5)
    for end in range(1000, length, 1000):
        tree.insert(text[:end])
    assert tree.nodes == len(range(1000, length, 1000))
    assert tree.match(text) == len(range(1000, length, 1000)) * 1000
