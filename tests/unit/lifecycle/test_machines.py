"""The transition tables, by example and by random walks."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from quarterdeck.lifecycle.job import JOB, WITH_RUN, JobEvent
from quarterdeck.lifecycle.machine import IllegalTransition, Machine
from quarterdeck.lifecycle.run import ENDED, REPLICA, RUN, RunEvent, machine_of
from quarterdeck.lifecycle.service import SERVICE, ServiceEvent

MACHINES: list[tuple[Machine[Any], type[StrEnum]]] = [
    (JOB, JobEvent),
    (RUN, RunEvent),
    (REPLICA, RunEvent),
    (SERVICE, ServiceEvent),
]


def walk(machine: Machine[Any], *events: StrEnum) -> str:
    phase = machine.initial
    for event in events:
        phase = machine.step(phase, event).after
    return phase


def test_the_lives_that_the_design_draws() -> None:
    E, R, S = JobEvent, RunEvent, ServiceEvent
    assert walk(JOB, E.RESOLVED, E.PLACED, E.STARTED, E.SUCCEEDED) == "succeeded"
    assert walk(JOB, E.RESOLVED, E.PLACED, E.STARTED, E.RESTART, E.PLACED) == "starting"
    assert walk(JOB, E.RESOLVED, E.PLACED, E.STARTED, E.STOP, E.SUSPENDED, E.RESUMED) == "queued"
    assert walk(RUN, R.CLAIMED, R.RUNNING, R.STOP, R.PREEMPTED) == "preempted"
    assert (
        walk(
            REPLICA,
            R.CLAIMED,
            R.LOADING,
            R.READY,
            R.UNHEALTHY,
            R.READY,
            R.DRAIN,
            R.STOP,
            R.CANCELLED,
        )
        == "cancelled"
    )
    assert walk(SERVICE, S.ALL_READY, S.SHORT, S.ALL_READY, S.EMPTY, S.DEPLOY, S.STOPPED) == (
        "stopped"
    )


def test_ends() -> None:
    assert JOB.final == {"succeeded", "failed", "cancelled"}
    assert ENDED == REPLICA.final == {"succeeded", "failed", "lost", "preempted", "cancelled"}
    assert SERVICE.final == {"stopped"}
    assert JOB.phases >= WITH_RUN
    assert machine_of("job") is RUN and machine_of("service") is REPLICA


def test_an_illegal_event_names_itself_and_what_is_allowed() -> None:
    with pytest.raises(IllegalTransition, match=r"job.*'succeeded'.*'restart'.*it has ended"):
        JOB.step("succeeded", JobEvent.RESTART)
    with pytest.raises(IllegalTransition, match=r"takes: .*placed"):
        JOB.step("queued", JobEvent.STARTED)


@pytest.mark.parametrize(
    ("machine", "events"), MACHINES, ids=lambda value: getattr(value, "noun", "")
)
def test_every_phase_is_reached_and_every_phase_can_end(
    machine: Machine[Any], events: type[StrEnum]
) -> None:
    reached, edge = {machine.initial}, [machine.initial]
    while edge:
        phase = edge.pop()
        for event in events:
            if machine.allows(phase, event):
                step = machine.step(phase, event)
                assert step.reason and step.reason[0].isupper()
                if step.after not in reached:
                    reached.add(step.after)
                    edge.append(step.after)
    assert reached == machine.phases
    for phase in machine.phases - machine.final:
        assert any(
            machine.allows(phase, event) and machine.step(phase, event).after in machine.final
            for event in events
        ), f"{phase} cannot end"


class Lives(RuleBasedStateMachine):
    """Random events on a job and on its newest run, as controllers would apply them."""

    def __init__(self) -> None:
        super().__init__()
        self.job, self.run, self.runs = JOB.initial, "", 0
        self.history = [self.job]

    def move(self, event: JobEvent) -> bool:
        before = self.job
        try:
            self.job = JOB.step(self.job, event).after
        except IllegalTransition:
            assert self.job == before
            return False
        self.history.append(self.job)
        return True

    @rule(event=st.sampled_from(list(JobEvent)))
    def job_event(self, event: JobEvent) -> None:
        if self.move(event) and event is JobEvent.PLACED:
            self.run, self.runs = RUN.initial, self.runs + 1

    @rule(event=st.sampled_from(list(RunEvent)))
    def run_event(self, event: RunEvent) -> None:
        if not self.run:
            return
        before = self.run
        if RUN.allows(self.run, event):
            self.run = RUN.step(self.run, event).after
        assert before not in RUN.final or self.run == before, "an end is an end"

    @invariant()
    def ends_are_final_and_runs_come_from_the_queue(self) -> None:
        for before, after in zip(self.history, self.history[1:], strict=False):
            assert before not in JOB.final
            if after == "starting":
                assert before == "queued"
        assert self.history.count("starting") == self.runs
        assert "succeeded" not in self.history or self.runs >= 1


TestLives = Lives.TestCase
