"""An array's life, played with members that do as they like."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.lifecycle.arrays import Members, step_array
from quarterdeck.lifecycle.job import JOB, NOT_NEEDED, WITH_RUN, JobEvent

ENDS = sorted(JOB.final)


@given(
    ends=st.lists(st.sampled_from(ENDS), min_size=1, max_size=12),
    parallelism=st.none() | st.integers(1, 5),
    choices=st.randoms(use_true_random=False),
)
def test_never_more_at_once_than_it_may_and_always_an_end(
    ends: list[str], parallelism: int | None, choices: object
) -> None:
    phase, members, held = "queued", ["waiting"] * len(ends), set(range(len(ends)))
    for _ in range(10 * len(ends) + 10):
        counts = {name: members.count(name) for name in set(members)}
        step = step_array(phase, "run", parallelism, Members(len(ends), counts, len(held)))
        if step.event is not None:
            phase = JOB.step(phase, step.event).after
        if phase in JOB.final:
            break
        for index in sorted(held)[: step.release]:
            held.discard(index)
        live = [i for i in range(len(ends)) if i not in held and members[i] not in JOB.final]
        assert parallelism is None or len(live) <= parallelism
        for index in live:
            if choices.random() < 0.5:  # type: ignore[attr-defined]
                members[index] = "running" if members[index] == "waiting" else ends[index]
    assert not held
    expected = "failed" if "failed" in ends else "cancelled" if "cancelled" in ends else "succeeded"
    assert phase == expected


def test_nothing_is_let_go_of_an_array_that_shall_end_or_rest() -> None:
    members = Members(4, {"waiting": 4}, held=4)
    assert step_array("queued", "run", 3, members).release == 3
    for desired in ("cancel", "suspend"):
        assert step_array("queued", desired, 3, members).release == 0
    assert step_array("waiting", "cancel", None, members).event is None


def test_it_is_suspended_when_no_member_has_a_run() -> None:
    for busy in WITH_RUN:
        members = Members(2, {busy: 1, "suspended": 1})
        assert step_array("running", "suspend", None, members).event is None
    step = step_array("running", "suspend", None, Members(2, {"suspended": 2}))
    assert step.event is JobEvent.SUSPENDED


def test_members_without_anything_to_do_leave_an_array_without_anything_to_do() -> None:
    members = Members(2, {"cancelled": 2}, not_needed=2)
    step = step_array("running", "run", None, members)
    assert (step.event, step.reason) == (JobEvent.CANCELLED, NOT_NEEDED)
