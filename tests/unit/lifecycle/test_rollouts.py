"""Rollouts: the arithmetic by example, and walks that try to lose replicas or never to end."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quarterdeck.lifecycle.analysis import NOTHING, Observed, judge, quantile
from quarterdeck.lifecycle.replicas import ReplicaFacts, missing, plan_replicas
from quarterdeck.lifecycle.rollouts import (
    RevisionFacts,
    RolloutFacts,
    RolloutState,
    advance,
    from_json,
    to_json,
)
from quarterdeck.specs.rollout import Analysis, Rollout

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass
class World:
    """Replicas of a service as controller, admission and agent would make them."""

    settings: Rollout
    wanted: int = 2
    newest: int = 1
    now: datetime = NOW
    state: RolloutState | None = None
    runs: list[ReplicaFacts] = field(default_factory=list)
    failures: dict[int, int] = field(default_factory=dict)
    observed: Observed = NOTHING
    results: dict[str, float] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    epoch: int = 0

    def counts(self) -> dict[int, RevisionFacts]:
        return {
            number: RevisionFacts(len(mine), sum(run.phase == "ready" for run in mine))
            for number in {run.revision for run in self.runs}
            if (mine := [run for run in self.runs if run.revision == number])
        }

    def look(self, wish: Any = None) -> None:
        """One look of the controller, then one of admission."""
        facts = RolloutFacts(
            self.wanted, self.newest, self.counts(), self.failures.get(self.newest, 0),
            observed=self.observed, results=self.results, wish=wish,
        )  # fmt: skip
        state, news = advance(self.state, facts, self.settings, self.now)
        self.state = from_json(json.loads(json.dumps(to_json(state))))
        assert self.state == state
        self.told += [one.type for one in news]
        most = self.wanted + self.settings.surge(self.wanted) if self.wanted else 0
        assert sum(state.wanted.values()) <= most
        before = sum(run.phase == "ready" for run in self.runs)
        plan = plan_replicas(self.runs, state.wanted, now=self.now, drain_seconds=30)
        self.runs = [run for run in self.runs if run.run_id not in plan.drain]
        after = sum(run.phase == "ready" for run in self.runs)
        floor = self.wanted - self.settings.unavailable(self.wanted)
        assert after >= min(before, floor), "ready replicas were given up too early"
        for number, count in missing(self.runs, state.wanted, most).items():
            for _ in range(count):
                self.epoch += 1
                self.runs.append(ReplicaFacts(f"r{self.epoch}", self.epoch, number, "loading"))
        assert len(self.runs) <= most, "more live than the surge allows"
        self.now += timedelta(seconds=1)

    def become(self, revision: int, phase: str) -> None:
        """Every replica of a revision becomes so."""
        self.runs = [
            replace(run, phase=phase) if run.revision == revision else run for run in self.runs
        ]

    def settle(self, looks: int = 60) -> None:
        """Everything that is started becomes ready."""
        for _ in range(looks):
            self.look()
            self.runs = [replace(run, phase="ready") for run in self.runs]

    def serving(self) -> dict[int, int]:
        return {number: facts.alive for number, facts in sorted(self.counts().items())}


def served(rollout: Rollout, replicas: int = 2) -> World:
    """Revision 1 in full, and revision 2 wanted."""
    world = World(rollout, replicas)
    world.settle()
    assert world.state is not None and world.state.phase == "finished"
    assert world.serving() == {1: replicas} and world.told == []
    world.newest = 2
    return world


def canary(*steps: tuple[float, Any], **fields: Any) -> Rollout:
    return Rollout.model_validate(
        {"strategy": "canary", "steps": [{"weight": w, "pause": p} for w, p in steps], **fields}
    )


def test_rolling_goes_one_by_one() -> None:
    world = served(Rollout())
    seen = []
    for _ in range(5):
        world.look()
        seen.append(world.serving())
        world.become(2, "ready")
    assert seen == [{1: 2, 2: 1}, {1: 1, 2: 2}, {2: 2}, {2: 2}, {2: 2}]
    assert world.told == ["started", "finished"]


def test_without_surge_it_gives_up_one_first() -> None:
    world = served(Rollout(max_surge=0, max_unavailable=1), 4)
    world.look()
    assert world.serving() == {1: 3, 2: 1}
    world.settle()
    assert world.serving() == {2: 4}


def test_the_first_revision_takes_no_steps() -> None:
    world = World(canary((0.1, "manual")), 4)
    world.settle(2)
    assert world.serving() == {1: 4} and world.told == []


def test_a_canary_waits_at_each_step_and_shares_traffic() -> None:
    world = served(canary((0.1, 60), (0.5, "manual")), 4)
    world.look()
    assert world.serving() == {1: 4, 2: 1}
    assert world.state is not None and dict(world.state.traffic) == {1: 1.0, 2: 0.0}
    world.become(2, "ready")
    world.look()
    assert dict(world.state.traffic) == {1: 0.9, 2: 0.1}
    world.settle(50)
    assert world.serving() == {1: 4, 2: 1}, "the pause is not over"
    world.settle(20)
    assert world.serving() == {1: 3, 2: 2} and dict(world.state.traffic) == {1: 0.5, 2: 0.5}
    assert (world.state.phase, world.state.reason) == ("paused", "WaitingForResume")
    world.now += timedelta(days=2)
    world.settle(5)
    assert world.serving() == {1: 3, 2: 2}
    world.look("resume")
    world.settle(10)
    assert world.serving() == {2: 4} and not world.state.traffic
    assert world.told == ["started", "step", "step", "paused", "resumed", "finished"]


def test_one_step_of_everything_is_blue_green() -> None:
    world = served(canary((1.0, 5)), 3)
    world.look()
    assert world.serving() == {1: 3, 2: 3}
    world.runs[-1] = replace(world.runs[-1], phase="ready")
    world.look()
    assert world.state is not None and world.state.traffic[2] == 0.0
    world.become(2, "ready")
    world.look()
    assert world.state.traffic == {1: 0.0, 2: 1.0} and world.serving() == {1: 3, 2: 3}
    world.settle(8)
    assert world.serving() == {2: 3}


def test_a_crash_loop_goes_back_and_says_why() -> None:
    world = served(Rollout())
    world.look()
    world.failures[2] = 3
    world.look()
    assert world.state is not None and world.state.phase == "rolled_back"
    assert world.state.reason == "CrashLoop" and "3 replicas failed in a row" in world.state.message
    world.settle(5)
    assert world.serving() == {1: 2} and world.told == ["started", "rolled_back"]
    world.failures[2] = 0
    world.look("resume")
    assert world.state.phase == "progressing" and world.state.forgiven is not None
    world.settle(10)
    assert world.serving() == {2: 2}


def test_worse_than_the_bounds_goes_back_at_the_next_interval() -> None:
    bounds = {"max_error_rate": "1%", "min_requests": 20, "interval": "10s"}
    world = served(canary((0.5, 600), analysis=bounds), 2)
    world.settle(3)
    world.observed = Observed(requests=80, errors=10)
    world.settle(5)
    assert world.state is not None and world.state.phase == "progressing"
    world.settle(10)
    assert world.state.phase == "rolled_back" and world.state.traffic == {1: 1.0, 2: 0.0}
    assert world.state.message.endswith("error rate 12.5% over 1%, 80 requests")
    assert world.serving() == {1: 2}


def test_no_step_is_passed_without_its_evaluation() -> None:
    gate = {"evaluations": [{"metric": "perplexity", "max": 20}], "interval": "1s"}
    world = served(canary((0.5, 0), analysis=gate), 2)
    world.settle(20)
    assert world.state is not None and world.state.reason == "WaitingForEvaluation"
    assert "perplexity" in world.state.message and world.serving() == {1: 2, 2: 1}
    world.results = {"perplexity": 19.0, "other": 99.0}
    world.settle(10)
    assert world.state.phase == "finished" and world.serving() == {2: 2}
    world.newest, world.results = 3, {"perplexity": float("nan")}
    world.settle(10)
    assert world.state.phase == "rolled_back" and world.serving() == {2: 2}
    assert world.state.message.endswith("evaluation: perplexity nan over 20")


def test_pause_freezes_counts_and_a_newer_revision_supersedes() -> None:
    world = served(Rollout(), 4)
    world.look()
    world.become(2, "ready")
    world.look("pause")
    before = world.serving()
    world.settle(10)
    assert world.serving() == before and world.state is not None
    assert world.state.reason == "PausedByHand"
    world.newest = 3
    world.settle(20)
    assert world.serving() == {3: 4}


def test_going_back_to_the_stable_revision_starts_nothing_anew() -> None:
    world = served(Rollout(), 3)
    world.look()
    first = {run.run_id for run in world.runs if run.revision == 1}
    world.newest = 1
    world.settle(5)
    assert {run.run_id for run in world.runs} == first
    assert world.state is not None and world.state.phase == "finished"


def test_what_is_wrong_in_a_rollout_is_said() -> None:
    for wrong, said in (
        ({"steps": [{"weight": 0.1}]}, "belong to strategy: canary"),
        ({"strategy": "canary"}, "needs steps"),
        ({"strategy": "canary", "steps": [{"weight": 0.5}, {"weight": 0.1}]}, "at least the one"),
        ({"max_surge": 0}, "no room"),
        ({"max_surge": "110%"}, "not a share"),
        ({"strategy": "canary", "steps": [{"weight": 0.5, "pause": "soon"}]}, "or manual"),
        ({"strategy": "canary", "steps": [{"weight": 0.5}], "analysis": {}}, "without a bound"),
    ):
        with pytest.raises(ValueError, match=said):
            Rollout.model_validate(wrong)


def test_counts_and_shares_round_as_in_kubernetes() -> None:
    rollout = Rollout.model_validate({"max_surge": "25%", "max_unavailable": "25%"})
    assert [(rollout.surge(n), rollout.unavailable(n)) for n in (1, 4, 10)] == [
        (1, 0), (1, 1), (3, 2)
    ]  # fmt: skip
    assert Rollout(max_surge=0, max_unavailable=0.25).unavailable(2) == 1, "it must move"


def test_a_verdict_needs_enough_requests_and_reads_the_quantile() -> None:
    analysis = Analysis(max_ttft_p95=2, min_requests=20)
    slow = Observed(requests=20, ttft={3: 10, 11: 10})
    assert judge(analysis, replace(slow, requests=19)) == ""
    assert judge(analysis, slow).startswith("ttft p95 4.8 s over 2 s")
    assert judge(analysis, replace(slow, ttft={3: 20})) == ""
    assert quantile({}, 0.95) is None and quantile({0: 4}, 0.5) == pytest.approx(0.005)


ROLLOUTS = (
    Rollout(),
    Rollout(max_surge=2, max_unavailable=1),
    Rollout(max_surge=0, max_unavailable=1),
    Rollout.model_validate({"max_surge": "50%", "max_unavailable": "25%"}),
    canary((0.1, 3), (0.5, 3)),
    canary((0.25, 0), (1.0, 2), max_surge=1),
    canary((1.0, 3)),
    canary((0.5, 2), max_surge="50%", max_unavailable=1),
)


class RolloutMachine(RuleBasedStateMachine):
    """The controller looks at anything in any order; `World.look` holds the two bounds at every
    look, and at any time the rollout ends once nothing hinders it."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(ROLLOUTS[0])

    @rule(rollout=st.sampled_from(ROLLOUTS))
    def change_settings(self, rollout: Rollout) -> None:
        self.world.settings = rollout

    @rule()
    def look(self) -> None:
        self.world.look()

    @rule(wish=st.sampled_from(["pause", "resume"]))
    def wish(self, wish: str) -> None:
        self.world.look(wish)

    @rule(replicas=st.integers(0, 6))
    def scale(self, replicas: int) -> None:
        self.world.wanted = replicas

    @rule()
    def revise(self) -> None:
        self.world.newest += 1

    @precondition(lambda self: self.world.state and self.world.state.stable is not None)
    @rule()
    def undo(self) -> None:
        assert self.world.state is not None and self.world.state.stable is not None
        self.world.newest = self.world.state.stable

    @precondition(lambda self: self.world.runs)
    @rule(data=st.data(), phase=st.sampled_from(["ready", "ready", "unhealthy", "gone"]))
    def replica(self, data: Any, phase: str) -> None:
        index = data.draw(st.integers(0, len(self.world.runs) - 1))
        run = self.world.runs.pop(index)
        if phase == "gone":
            self.world.failures[run.revision] = self.world.failures.get(run.revision, 0) + 1
        else:
            self.world.failures[run.revision] = 0
            self.world.runs.insert(index, replace(run, phase=phase))

    @rule(failures=st.sampled_from([0, 3]))
    def crash(self, failures: int) -> None:
        self.world.failures[self.world.newest] = failures

    @rule(seconds=st.integers(1, 10))
    def time_passes(self, seconds: int) -> None:
        self.world.now += timedelta(seconds=seconds)

    @invariant()
    def shares_are_shares(self) -> None:
        state = self.world.state
        if state is not None and state.traffic:
            assert sum(state.traffic.values()) == pytest.approx(1.0)
            assert all(share >= 0 for share in state.traffic.values())

    def teardown(self) -> None:
        """It ends: with the target in full, or with the last good revision in full."""
        world = self.world
        world.wanted = max(world.wanted, 1)
        world.look("resume" if world.state and world.state.phase == "paused" else None)
        if world.state is not None and world.state.phase == "paused":
            world.look("resume")
        world.settle(120)
        state = world.state
        assert state is not None and state.phase in ("finished", "rolled_back")
        assert world.serving() == {state.main: world.wanted}
        if state.phase == "rolled_back":
            assert state.main == state.stable and world.failures.get(state.target, 0) >= 3


TestRollouts = RolloutMachine.TestCase
TestRollouts.settings = settings(max_examples=60, stateful_step_count=40)
