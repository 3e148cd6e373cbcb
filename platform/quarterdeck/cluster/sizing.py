"""How many machines each group of a pool gets, and which of them may go. Pure.

One rule at a time: gangs that wait bring machines, `max_replicas` bounds them, what nothing needs
for `idle_after` goes down to `min_replicas`. Only machines on which nothing runs ever go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from quarterdeck.scheduling.snapshot import Demand

Constraint = Literal["demand", "min_replicas", "max_replicas", "quota", "idle", "busy", "waiting"]


@dataclass(frozen=True)
class Bounds:
    """What the file says of a group; `idle_after` in seconds."""

    min_replicas: int
    max_replicas: int
    idle_after: float


@dataclass(frozen=True)
class Machine:
    """One pod of a group.

    `joined`: its agent reports it. `busy`: it holds a run, also a given-up one that may live, or
    a gang in line counts on it. `fixed`: closed by somebody, or nobody knows how it is: it stays.
    `leaving`: closed by us, to go. `doomed`: Kubernetes takes it away. `dying`: that is under way.
    """

    pod: str
    joined: bool = False
    busy: bool = False
    fixed: bool = False
    leaving: bool = False
    doomed: bool = False
    dying: bool = False
    idle_since: datetime | None = None

    @property
    def may_go(self) -> bool:
        return not (self.busy or self.fixed or self.dying)


@dataclass(frozen=True)
class Size:
    """A group's decision: `wanted` machines, these pods to close and remove, these to open again,
    and what bound it."""

    wanted: int
    remove: tuple[str, ...] = ()
    recall: tuple[str, ...] = ()
    idle_since: Mapping[str, datetime] = field(default_factory=dict)
    constraint: Constraint = "waiting"
    bound_by: str = ""


def size(
    bounds: Bounds,
    ordered: int,
    machines: Sequence[Machine],
    demand: Demand,
    now: datetime,
    quota: str = "",
) -> Size:
    """Decide one group. `ordered` is what is asked of the provider now; `quota` says why it
    creates no more. Machines that are not joined stand with the oldest first."""
    recall = tuple(one.pod for one in machines if one.leaving and not one.dying)[: demand.new]
    grow = min(demand.new - len(recall), max(0, bounds.max_replicas - ordered))
    grow = max(grow, bounds.min_replicas - ordered, 0)
    idle = _idle_since(machines, demand, now)
    if grow or recall:
        words = f"{_count(demand.new)} for {_names(demand.whom)}" if demand.new else ""
        if demand.new and demand.instead:
            words += f", in place of group {demand.instead}, whose machines do not come"
        constraint: Constraint = "demand" if demand.new else "min_replicas"
        wanted = ordered + grow
        return Size(wanted, (), recall, idle, constraint, words or f"at least {wanted}")
    removed, absent = _leavers(bounds, ordered, machines, demand, idle, now)
    wanted = ordered - len(removed) - absent
    kept = {pod: since for pod, since in idle.items() if pod not in removed}
    constraint, words = _bound(bounds, ordered, wanted, machines, demand, kept, quota)
    return Size(wanted, removed, (), kept, constraint, words)


def _idle_since(machines: Sequence[Machine], demand: Demand, now: datetime) -> dict[str, datetime]:
    """Since when nothing has needed each machine that nothing needs."""
    idle: dict[str, datetime] = {}
    needed = demand.coming
    for one in machines:
        if not one.joined and needed:
            needed -= 1  # this one is waited for
        elif one.may_go:
            idle[one.pod] = one.idle_since or now
    return idle


def _leavers(
    bounds: Bounds,
    ordered: int,
    machines: Sequence[Machine],
    demand: Demand,
    idle: Mapping[str, datetime],
    now: datetime,
) -> tuple[tuple[str, ...], int]:
    """The pods that go, and how many go that have no pod yet."""
    most = max(0, ordered - bounds.min_replicas)
    too_many = max(0, ordered - bounds.max_replicas)
    absent = max(0, ordered - len(machines))
    spare = ordered - sum(one.joined for one in machines) - demand.coming
    unborn = max(0, min(absent, spare, most))
    going: list[str] = []
    by_age = sorted(
        (one for one in machines if one.pod in idle),
        key=lambda one: (not (one.leaving or one.doomed), one.joined, idle[one.pod], one.pod),
    )
    for one in by_age:
        if len(going) + unborn >= most:
            break
        over = (now - idle[one.pod]).total_seconds() >= bounds.idle_after
        if over or one.leaving or one.doomed or len(going) + unborn < too_many:
            going.append(one.pod)
    return tuple(going), unborn


def _bound(
    bounds: Bounds,
    ordered: int,
    wanted: int,
    machines: Sequence[Machine],
    demand: Demand,
    idle: Mapping[str, datetime],
    quota: str,
) -> tuple[Constraint, str]:
    if wanted < ordered:
        if ordered > bounds.max_replicas:
            return "max_replicas", f"at most {bounds.max_replicas}, there were {ordered}"
        gone = ordered - wanted
        return "idle", f"{_count(gone)} idle for {bounds.idle_after:g} s or not needed"
    if quota and wanted > len(machines):
        return "quota", quota
    if demand.blocked and wanted >= bounds.max_replicas:
        words = f"at most {bounds.max_replicas}; {demand.blocked} waits for what runs to end"
        return "max_replicas", words
    if demand.blocked:
        return "waiting", f"{demand.blocked} waits for what runs to end"
    if demand.whom:
        return "demand", f"needed by {_names(demand.whom)}"
    if wanted <= bounds.min_replicas:
        return "min_replicas", f"at least {bounds.min_replicas}"
    if idle:
        first = min(idle.values())
        return "idle", f"{len(idle)} idle, since {first:%H:%M:%S} UTC at the longest"
    return "busy", f"{sum(one.busy for one in machines)} of {wanted} at work"


def _count(number: int) -> str:
    return f"{number} machine{'' if number == 1 else 's'}"


def _names(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:5])
    return f"{shown} and {len(labels) - 5} more" if len(labels) > 5 else shown
