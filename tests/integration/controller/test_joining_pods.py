"""Pods that join in the moment in which their pool takes them away."""

from __future__ import annotations

from typing import Any

import pytest

from quarterdeck.controller.pool_machines import match
from tests.integration.controller.pool_deck import Deck, open_deck, placed_on


@pytest.fixture
def deck(platform: Any) -> Deck:
    return open_deck(platform)


def ordered_for_nobody(deck: Deck) -> str:
    """A pod that has not joined and that nothing needs any more."""
    job = deck.submit("gone", 4)
    deck.platform.controller.tick()
    deck.capacity.tick()
    (pod,) = deck.machines.pods
    deck.platform.wish(job, "cancel")
    deck.platform.controller.tick()
    assert deck.job(job).phase == "cancelled"
    return pod


def test_a_pod_that_joins_while_it_goes_takes_nothing(deck: Deck) -> None:
    """Its agent's first report comes when its name stands among those to remove."""
    pod = ordered_for_nobody(deck)
    deck.machines.slow = True
    deck.capacity.tick()
    assert (deck.machines.removed, deck.machines.ordered) == ([pod], 0)
    deck.capacity.tick()  # another look, and it is still there
    deck.join()
    assert deck.node(pod).cordon_reason == f"LeavingPool: nothing needs it, pod {pod} goes"
    job = deck.submit("late", 4)
    deck.platform.controller.tick()
    deck.tick()
    assert (deck.job(job).phase, deck.job(job).reason) == ("queued", "WaitingForMachines")
    assert deck.machines.ordered == 1  # another one comes for it
    (new,) = set(deck.machines.pods) - {pod}
    del deck.machines.pods[pod]
    deck.join()
    deck.platform.controller.tick()
    assert (deck.job(job).phase, placed_on(deck, job)) == ("starting", {new})


@pytest.mark.parametrize("taken", [False, True])
def test_a_pod_that_joined_since_the_look_is_closed_or_kept(
    deck: Deck, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the decision: closed with it, or kept if something is placed there."""
    pod = ordered_for_nobody(deck)
    jobs: list[str] = []

    def meanwhile(*arguments: Any) -> Any:
        matched = match(*arguments)
        if not jobs:
            deck.join()
            jobs.append(deck.submit("quick", 4))
            if taken:
                deck.platform.controller.tick()
        return matched

    monkeypatch.setattr("quarterdeck.controller.capacity.match", meanwhile)
    deck.capacity.tick()
    if taken:
        assert (deck.machines.removed, deck.machines.ordered) == ([], 1)
        assert placed_on(deck, jobs[0]) == {pod} and not deck.node(pod).cordoned
    else:
        assert (deck.machines.removed, deck.machines.ordered) == ([pod], 0)
        assert deck.node(pod).cordon_reason.startswith("LeavingPool")
        deck.platform.controller.tick()
        assert deck.job(jobs[0]).phase == "queued"
