from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quarterdeck.specs.protocol import RankPlacement
from quarterdeck_workers.supervisor.goodput import Goodput
from quarterdeck_workers.supervisor.ledger import Ledger
from quarterdeck_workers.supervisor.spool import Spool

CLOCK = 1_700_000_000.0


def parts(goodput: Goodput, now: float) -> dict[str, float]:
    accounts = goodput.accounts(now).model_dump()
    return {name: pytest.approx(value) for name, value in accounts.items() if value > 1e-9}


def trained(*, resumed: bool = False, world_size: int = 2) -> Goodput:
    """Steps of a second at 11 … 14, a save of 2 s at 16, steps at 17 and 18."""
    goodput = Goodput(world_size, 0.0, resumed=resumed)
    goodput.working(9.0)
    for step in range(1, 5):
        now = 10.0 + step
        goodput.step(0, step, 1.0, at=CLOCK + now, now=now)
    goodput.checkpoint(0, 2.0, at=CLOCK + 16.0, now=16.0, kept=4)
    for step in (5, 6):
        now = 12.0 + step
        goodput.step(0, step, 1.0, at=CLOCK + now, now=now)
    return goodput


def test_each_account_gets_its_part() -> None:
    goodput = trained()
    assert parts(goodput, 18.5) == {"starting": 20.0, "productive": 13.0, "checkpoint": 4.0}
    assert goodput.unsaved_seconds(18.5) == pytest.approx(5.0)
    goodput.end(20.0, kept=True)
    assert parts(goodput, 99.0) == {"starting": 20.0, "productive": 12.0, "checkpoint": 8.0}
    assert goodput.unsaved_seconds(99.0) == goodput.lost_seconds == 0


def test_a_failure_throws_away_what_no_checkpoint_has() -> None:
    goodput = trained(resumed=True)
    goodput.end(20.0, kept=False)
    assert parts(goodput, 20.0) == {"restart": 28.0, "productive": 8.0, "checkpoint": 4.0}
    assert goodput.lost_seconds == pytest.approx(8.0)


def test_a_stall_is_not_work() -> None:
    goodput = trained()
    goodput.stall(318.0)
    goodput.end(320.0, kept=False)
    assert parts(goodput, 320.0) == {
        "starting": 20.0, "productive": 8.0, "checkpoint": 4.0, "restart": 4.0, "stalled": 604.0
    }  # fmt: skip


def test_all_ranks_tell_and_each_step_counts_once() -> None:
    goodput = Goodput(4, 0.0)
    for step in (1, 2):
        for rank in range(4):
            goodput.step(rank, step, 2.0, at=CLOCK * (rank + 1) + step * 2.0, now=step * 2.0)
    assert parts(goodput, 4.0) == {"productive": 16.0}


def test_steps_that_arrive_together_keep_their_own_times() -> None:
    goodput = Goodput(1, 0.0)
    goodput.step(0, 1, 1.0, at=CLOCK + 1.0, now=1.0)
    for step, at in ((2, 2.0), (3, 3.0), (4, 5.0)):
        goodput.step(0, step, 1.0, at=CLOCK + at, now=5.0)
    assert parts(goodput, 5.0) == {"productive": 4.0, "stalled": 1.0}


def test_a_save_beside_the_steps_costs_what_it_held_them_up() -> None:
    goodput = Goodput(1, 0.0)
    goodput.step(0, 1, 1.0, at=CLOCK + 1.0, now=1.0)
    goodput.step(0, 2, 1.0, at=CLOCK + 2.0, now=2.0)
    goodput.checkpoint(0, 60.0, at=CLOCK + 2.25, now=2.25, kept=1)
    assert parts(goodput, 2.25) == {"productive": 2.0, "checkpoint": 0.25}
    assert goodput.unsaved_seconds(2.25) == pytest.approx(1.0)


def test_a_clock_set_back_does_not_stop_the_books() -> None:
    goodput = Goodput(1, 0.0)
    goodput.step(0, 1, 1.0, at=CLOCK + 1.0, now=1.0)
    for step in range(2, 12):
        goodput.step(0, step, 1.0, at=CLOCK - 3600 + step, now=float(step))
    assert parts(goodput, 11.0) == {"productive": 11.0}


def test_a_program_without_steps_is_taken_at_its_word() -> None:
    goodput = Goodput(3, 0.0)
    goodput.working(2.0)
    assert parts(goodput, 10.0) == {"starting": 6.0, "productive": 24.0}
    lost = Goodput(3, 0.0)
    lost.working(2.0)
    lost.end(10.0, kept=False)
    assert parts(lost, 10.0) == {"starting": 6.0, "restart": 24.0}
    goodput.end(10.0, kept=True)
    assert parts(goodput, 10.0) == {"starting": 6.0, "productive": 24.0}


def test_a_script_that_tells_no_seconds_works_between_its_steps() -> None:
    goodput = Goodput(1, 0.0)
    goodput.working(2.0)
    goodput.step(0, 10, 0.0, at=CLOCK + 5.0, now=5.0)
    goodput.step(0, 20, 0.0, at=CLOCK + 9.0, now=9.0)
    assert parts(goodput, 9.0) == {"starting": 2.0, "productive": 7.0}


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(("working", "step", "checkpoint", "failed_save", "stall", "look")),
        st.floats(0, 100),
        st.floats(0, 50),
        st.floats(-7200, 7200),
        st.integers(0, 3),
    ),
    max_size=60,
)


@given(
    events=EVENTS, world_size=st.integers(1, 512), resumed=st.booleans(),
    kept=st.none() | st.booleans(), tail=st.floats(0, 1000),
)  # fmt: skip
def test_the_accounts_always_add_up_to_what_was_held(
    events: list[tuple[str, float, float, float, int]],
    world_size: int,
    resumed: bool,
    kept: bool | None,
    tail: float,
) -> None:
    goodput = Goodput(world_size, 50.0, resumed=resumed)
    now, step = 50.0, 0

    def look(now: float) -> None:
        accounts = goodput.accounts(now)
        assert accounts.held == pytest.approx((now - 50.0) * world_size, rel=1e-9, abs=1e-6)
        assert min(accounts.model_dump().values()) >= -1e-9
        assert goodput.unsaved_seconds(now) <= accounts.productive * (1 + 1e-9) + 1e-6
        assert goodput.lost_seconds <= accounts.restart * (1 + 1e-9) + 1e-6

    for what, passed, seconds, skew, rank in events:
        now += passed
        at = CLOCK + now + skew
        match what:
            case "working":
                goodput.working(now)
            case "step":
                step += 1
                goodput.step(rank, step, seconds, at=at, now=now)
            case "checkpoint":
                goodput.checkpoint(rank, seconds, at=at, now=now, kept=step - 1)
            case "failed_save":
                goodput.checkpoint(rank, seconds, at=at, now=now)
            case "stall":
                goodput.stall(now)
        look(now)
    now += tail
    if kept is not None:
        goodput.end(now, kept=kept)
        assert goodput.unsaved_seconds(now) == 0
    look(now)


def test_the_ledger_books_what_ranks_say() -> None:
    ledger = Ledger("pretrain", [RankPlacement(rank=0, node_id="n")], Spool(), 0.0, resumed=True)
    ledger.apply(0, {"type": "phase", "message": "training", "running": True, "at": CLOCK}, 0.0)
    ledger.apply(0, {"type": "step", "step": 7, "seconds": 1.0, "at": CLOCK + 3}, 3.0)
    failed = {"event": "checkpoint_failed", "message": "full", "data": {"seconds": 2.0}}
    ledger.apply(0, {"type": "event", "at": CLOCK + 5, **failed}, 5.0)
    ledger.released = 6.0
    status = ledger.status("running", 9.0)
    assert status["accounts"].model_dump() == {
        "productive": 2.0, "checkpoint": 2.0, "restart": 2.0, "stalled": 0.0, "starting": 0.0
    }  # fmt: skip
    assert status["unsaved_seconds"] == 2.0 and status["held_seconds"] == 6.0
    ledger.close("failed")
    status = ledger.status("failed", 9.0)
    assert (status["productive_seconds"], status["lost_seconds"]) == (0.0, 2.0)
    assert status["accounts"].restart == 4.0
