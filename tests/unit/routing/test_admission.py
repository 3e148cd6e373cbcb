from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quarterdeck.routing.admission import Ticket, WaitingRoom, shed_probability


def never() -> float:
    raise AssertionError("nobody of normal priority is turned away by chance")


def test_the_example_of_the_module() -> None:
    room = WaitingRoom(room=2, capacity=1)
    assert room.offer(0, 9, never).verdict == "goes"
    high = room.offer(100, 9, never).ticket
    low = room.offer(-100, 9, lambda: 1.0).ticket
    normal = room.offer(0, 9, never)
    assert normal.verdict == "waits" and normal.evicted is low
    assert room.offer(0, 9, never).verdict == "full"
    room.leave()
    assert room.let_in() == [high]


def test_low_priorities_are_turned_away_before_the_room_is_full() -> None:
    assert shed_probability(0.1) < 0.01
    assert shed_probability(0.33) == 1.0
    random = Random(3)
    room = WaitingRoom(room=1000, capacity=0)
    for _ in range(200):
        room.offer(0, 9, never)
    shed = sum(room.offer(-100, 9, random.random).verdict == "shed" for _ in range(300))
    # 300 · 0.2⁵ is 9.6 %, rising with each that waits.
    assert shed > 300 * 0.09
    assert room.offer(0, 9, never).verdict == "waits"


def test_more_capacity_lets_more_in_by_priority_and_age() -> None:
    room = WaitingRoom(room=10, capacity=0)
    waiting = [room.offer(p, 9, lambda: 1.0).ticket for p in (0, 100, 0, 100, -100)]
    room.capacity = 3
    assert room.let_in() == [waiting[1], waiting[3], waiting[0]]
    assert room.in_flight == 3 and room.waiting == 2


class Room(RuleBasedStateMachine):
    """Whatever comes and goes, nobody gets lost and no place is given twice."""

    def __init__(self) -> None:
        super().__init__()
        self.room = WaitingRoom(room=4, capacity=2)
        self.waiting: set[Ticket] = set()
        self.inside = 0

    @rule(priority=st.sampled_from([-100, 0, 100]), draw=st.floats(0, 1))
    def offer(self, priority: int, draw: float) -> None:
        before = self.room.in_flight
        answer = self.room.offer(priority, 1.0, lambda: draw)
        if answer.verdict == "goes":
            assert before < self.room.capacity and not self.waiting
            self.inside += 1
        if answer.evicted is not None:
            assert answer.evicted.priority < priority
            self.waiting.remove(answer.evicted)
        if answer.ticket is not None:
            self.waiting.add(answer.ticket)

    @precondition(lambda self: self.inside)
    @rule()
    def leave(self) -> None:
        self.inside -= 1
        self.room.leave()

    @rule()
    def let_in(self) -> None:
        for ticket in self.room.let_in():
            assert all(other.priority <= ticket.priority for other in self.waiting)
            self.waiting.remove(ticket)
            self.inside += 1
        assert not self.waiting or self.room.in_flight >= self.room.capacity

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.waiting, key=lambda each: each.number)))
        self.room.give_up(ticket)
        self.waiting.remove(ticket)

    @rule(capacity=st.integers(0, 4))
    def scale(self, capacity: int) -> None:
        self.room.capacity = capacity

    @invariant()
    def counts_agree(self) -> None:
        assert self.room.waiting == len(self.waiting) <= 4
        assert self.room.in_flight == self.inside


TestRoom = Room.TestCase
TestRoom.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


@given(st.floats(0, 1))
def test_the_probability_is_one(saturation: float) -> None:
    assert 0.0 <= shed_probability(saturation) <= 1.0
