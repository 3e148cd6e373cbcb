"""What the transition tables share: a table from (phase, event) to phase, and its one question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

Event = TypeVar("Event", bound=StrEnum)


class IllegalTransition(ValueError):
    """An event that the phase does not allow: a decision made on an old observation."""

    def __init__(self, noun: str, phase: str, event: str, allowed: tuple[str, ...]) -> None:
        self.noun, self.phase, self.event = noun, phase, event
        known = ", ".join(allowed) if allowed else "none, it has ended"
        super().__init__(
            f"{noun} in phase {phase!r} does not take event {event!r} (takes: {known})"
        )


@dataclass(frozen=True)
class Transition(Generic[Event]):
    """One legal step and the reason that people see unless a better one is known."""

    before: str
    event: Event
    after: str
    reason: str


class Machine(Generic[Event]):
    """A transition table. Phases without a row of their own are final."""

    def __init__(
        self,
        noun: str,
        initial: str,
        table: Mapping[str, Mapping[Event, str]],
        reasons: Mapping[Event, str],
    ) -> None:
        self.noun, self.initial = noun, initial
        self._table, self._reasons = table, reasons
        reached = {after for row in table.values() for after in row.values()}
        self.phases = frozenset(table) | reached
        self.final = frozenset(phase for phase in self.phases if not table.get(phase))

    def step(self, phase: str, event: Event) -> Transition[Event]:
        """The phase that follows; raises IllegalTransition when the table has no such step."""
        row = self._table.get(phase, {})
        if event not in row:
            raise IllegalTransition(self.noun, phase, event, tuple(row))
        return Transition(phase, event, row[event], self._reasons[event])

    def allows(self, phase: str, event: Event) -> bool:
        """Whether `step` would answer."""
        return event in self._table.get(phase, {})
