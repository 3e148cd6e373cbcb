"""What observations of a run mean, by example and over all combinations."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.lifecycle.machine import IllegalTransition
from quarterdeck.lifecycle.observe import RunFacts, decide, order_for
from quarterdeck.lifecycle.replicas import Crashes, ReplicaFacts, crashes, plan_replicas
from quarterdeck.lifecycle.restarts import (
    DELAYS_S,
    MAX_FRUITLESS,
    Attempt,
    after_failure,
    failures_in_a_row,
)
from quarterdeck.lifecycle.retention import Saved, superseded
from quarterdeck.lifecycle.run import ENDED, RunEvent, machine_of

RUNNING = RunFacts(owner_type="job", kind="pretrain", phase="running", reported_phase="running")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_nothing_new_changes_nothing() -> None:
    assert decide(RUNNING).empty


def test_a_reported_end_wins_over_a_death_and_a_death_over_silence() -> None:
    facts = replace(RUNNING, reported_phase="succeeded", sighted="dead", silent=True)
    assert decide(facts).events == (RunEvent.SUCCEEDED,)
    decision = decide(replace(RUNNING, sighted="dead", silent=True))
    assert decision.events == (RunEvent.LOST,) and not decision.quarantine


def test_only_proof_is_death() -> None:
    assert decide(replace(RUNNING, sighted="unknown")).empty
    assert decide(replace(RUNNING, sighted="alive")).empty
    assert decide(replace(RUNNING, nodes_dead=True)).empty, "a claimed run is its agent's to judge"


def test_the_blame_of_a_death() -> None:
    blamed = [
        decide(replace(RUNNING, sighted="dead", nodes_dead=dead)).failure for dead in (True, False)
    ]
    assert [failure["blame"] for failure in blamed if failure] == ["node", "unknown"]
    first = {"blame": "memory", "message": "out of memory"}
    decision = decide(replace(RUNNING, sighted="dead", failure=first))
    assert decision.events == (RunEvent.FAILED,) and decision.failure == first


def test_silence_quarantines_and_kills() -> None:
    decision = decide(replace(RUNNING, silent=True))
    assert decision.quarantine and decision.kill and decision.unless_heard
    careful = replace(RUNNING, silent=True, kind="command", restart_safe=False)
    assert decide(careful).events == () and decide(careful).reason == "Unknown"


@pytest.mark.parametrize(
    ("kind", "wish", "order"),
    [
        ("pretrain", "cancel", "checkpoint_and_stop"),
        ("pretrain", "suspend", "checkpoint_and_stop"),
        ("command", "cancel", "stop"),
        ("dataset", "max_duration", "stop"),
        ("service", "drain", "stop"),
    ],
)
def test_orders(kind: str, wish: str, order: str) -> None:
    assert order_for(kind, wish) == order


@given(
    owner=st.sampled_from(["job", "service"]),
    claimed=st.booleans(),
    reported=st.sampled_from(
        [
            None,
            "starting",
            "running",
            "loading",
            "ready",
            "unhealthy",
            "stopping",
            "succeeded",
            "failed",
            "cancelled",
            "preempted",
        ]
    ),
    sighted=st.sampled_from([None, "alive", "unknown", "dead"]),
    flags=st.lists(st.booleans(), min_size=7, max_size=7),
    desired=st.sampled_from(["run", "cancel", "suspend"]),
)
def test_every_decision_is_legal(
    owner: str,
    claimed: bool,
    reported: str | None,
    sighted: str | None,
    flags: list[bool],
    desired: str,
) -> None:
    """Whatever is observed in whatever phase, the table allows what is decided."""
    machine = machine_of(owner)
    silent, cluster_silent, nodes_dead, passed, killed, overdue, probed = flags
    for phase in sorted(machine.phases - ENDED):
        if not claimed and phase != "assigned":
            continue
        stopping = {"stopping": ["cancel", "suspend", "drain"]}.get(phase, [None])
        for stopping_for in stopping:
            facts = RunFacts(
                owner_type=owner, kind="pretrain", phase=phase, claimed=claimed,
                reported_phase=reported, sighted=sighted, silent=silent,
                cluster_silent=cluster_silent, nodes_dead=nodes_dead,
                desired=desired if owner == "job" else "run", stopping_for=stopping_for,
                deadline_passed=passed, kill_requested=killed, overdue=overdue, probed=probed,
            )  # fmt: skip
            decision = decide(facts)
            after = phase
            for event in decision.events:
                try:
                    after = machine.step(after, event).after
                except IllegalTransition as illegal:
                    raise AssertionError(f"{facts} → {decision}") from illegal
            assert (after == "succeeded") == (claimed and reported == "succeeded")


@pytest.mark.parametrize("blame", ["user_code", "data", "memory", "unknown"])
def test_counted_failures_end_after_max_restarts(blame: str) -> None:
    used, attempts = 0, 0
    while True:
        attempts += 1
        choice = after_failure(blame, restarts_used=used, max_restarts=3, fruitless=1)
        used = choice.restarts_used
        if not choice.restart:
            break
    assert (attempts, choice.reason) == (4, "MaxRestartsReached")


@pytest.mark.parametrize("blame", ["node", "network", "disk"])
def test_uncounted_failures_end_only_without_progress(blame: str) -> None:
    choices = [
        after_failure(blame, restarts_used=2, max_restarts=2, fruitless=count)
        for count in range(1, MAX_FRUITLESS + 1)
    ]
    assert [choice.restart for choice in choices] == [True] * (MAX_FRUITLESS - 1) + [False]
    assert {choice.restarts_used for choice in choices} == {2}


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 2000)), max_size=15))
def test_the_pause_grows_with_failures_in_a_row_and_progress_ends_the_row(
    past: list[tuple[bool, float]],
) -> None:
    attempts = [Attempt(saved, seconds) for saved, seconds in past]
    row = failures_in_a_row(attempts)
    kept = next((i for i, each in enumerate(attempts) if each.saved), len(attempts))
    long = next((i for i, each in enumerate(attempts) if each.seconds >= 600), len(attempts))
    assert (row.fruitless, row.crashes) == (kept, min(kept, long))
    one_more = failures_in_a_row([Attempt(False, 1.0), *attempts])
    assert row.delay <= one_more.delay <= DELAYS_S[-1]
    assert failures_in_a_row([Attempt(True, 1.0), *attempts]).delay == 0


def test_the_first_restart_comes_at_once_and_the_pause_has_a_cap() -> None:
    delays = [failures_in_a_row([Attempt(False, 1.0)] * count).delay for count in range(9)]
    assert delays == [0, 0, 10, 30, 60, 120, 300, 300, 300]


def test_who_never_spoke_was_not_the_jobs_fault() -> None:
    decision = decide(replace(RUNNING, phase="starting", sighted="dead", heard=False))
    assert decision.failure is not None and decision.failure["blame"] == "node"


def replica(epoch: int, phase: str, revision: int = 1, **fields: object) -> ReplicaFacts:
    return ReplicaFacts(f"run-{epoch}", epoch, revision, phase, **fields)  # type: ignore[arg-type]


@given(
    phases=st.lists(
        st.tuples(
            st.sampled_from(["assigned", "loading", "ready", "unhealthy", "draining"]),
            st.integers(1, 2),
        ),
        max_size=8,
    ),
    wanted=st.integers(0, 4),
)
def test_draining_never_goes_below_what_is_wanted(
    phases: list[tuple[str, int]], wanted: int
) -> None:
    live = [replica(i, phase, revision) for i, (phase, revision) in enumerate(phases)]
    plan = plan_replicas(live, {2: wanted}, now=NOW, drain_seconds=30)
    ready = [run for run in live if run.phase == "ready" and run.revision == 2]
    kept = [run for run in ready if run.run_id not in plan.drain]
    assert len(kept) >= min(wanted, len(ready))
    assert plan.drain.keys().isdisjoint(run.run_id for run in live if run.phase == "draining")


def test_a_replica_that_was_ready_ends_the_row_of_crashes() -> None:
    ended = [
        replica(5, "failed", ended_at=NOW),
        replica(4, "lost", ended_at=NOW - timedelta(hours=1), was_ready=True),
        replica(3, "failed", ended_at=NOW - timedelta(hours=2)),
    ]
    found = crashes(ended, 1)
    assert (found.count, found.retry_at) == (2, NOW + timedelta(seconds=4))
    found = crashes([replace(run, revision=2) for run in ended[:1]] + ended[1:], 1)
    assert found.count == 1, "others' failures stand between"
    assert crashes(ended, 2) == Crashes(), "a new revision starts afresh"
    assert crashes(ended, 1, since=NOW + timedelta(seconds=1)) == Crashes()


def test_back_off_is_bounded() -> None:
    ended = [replica(100 - i, "failed", ended_at=NOW) for i in range(50)]
    assert crashes(ended, 1).retry_at == NOW + timedelta(seconds=300)


def test_retention_counts_by_epoch_then_step() -> None:
    saved = [Saved(f"{e}:{s}", e, s) for e, s in [(1, 10), (1, 20), (1, 30), (2, 15), (2, 25)]]
    gone = superseded(saved, keep_last=2, keep_every=None)
    assert [item.id for item in gone] == ["1:10", "1:20", "1:30"]
    gone = superseded(saved, keep_last=2, keep_every=20, in_use=["1:10"])
    assert [item.id for item in gone] == ["1:30"]


@given(
    steps=st.sets(st.tuples(st.integers(1, 3), st.integers(1, 50)), max_size=20),
    keep_last=st.integers(1, 4),
    keep_every=st.none() | st.integers(1, 10),
)
def test_retention_always_keeps_the_newest(
    steps: set[tuple[int, int]], keep_last: int, keep_every: int | None
) -> None:
    saved = [Saved(f"{e}:{s}", e, s) for e, s in sorted(steps)]
    gone = {item.id for item in superseded(saved, keep_last=keep_last, keep_every=keep_every)}
    left = [item for item in saved if item.id not in gone]
    assert left[-keep_last:] == saved[-keep_last:]
    assert all(item.step % keep_every for item in saved if item.id in gone and keep_every)
    again = superseded(left, keep_last=keep_last, keep_every=keep_every)
    assert again == []


def test_combinations_of_wishes_stop_once() -> None:
    for wish, stopping in itertools.product(["cancel", "suspend"], ["cancel", "suspend"]):
        facts = replace(RUNNING, phase="stopping", desired=wish, stopping_for=stopping)
        expected = "cancel" if (wish, stopping) == ("cancel", "suspend") else None
        assert decide(facts).stop_for == expected
