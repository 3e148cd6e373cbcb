"""How a service goes from one revision to the next. Pure.

`advance` takes the rollout's state and what is seen of the replicas, and answers the next state:
how many replicas of each revision are wanted, which share of the traffic the new one gets, and
whether it goes on, waits or goes back. The arithmetic of counts is that of Kubernetes' rolling
update: with W wanted, S surge and U unavailable, at most W + S live, and old replicas are given up
only while W − U stay ready.

Example: W = 2, S = 1, U = 0, from revision 1 to 2. Wanted go {1: 2, 2: 1} → (2 has one ready)
{1: 1, 2: 2} → (2 has two ready) {2: 2}.

A canary is the same with a cap: while the new revision has the share w, ⌈W·w⌉ of its replicas
are wanted, and as many old ones stay as the surge allows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from quarterdeck.lifecycle.analysis import NOTHING, Observed, fails, judge, unevaluated
from quarterdeck.specs.rollout import Rollout

MOST_FAILURES = 3
"""Failures in a row of a new revision after which the rollout goes back."""

Phase = Literal["progressing", "paused", "rolled_back", "finished"]
BY_HAND, AT_STEP = "PausedByHand", "WaitingForResume"
_TIMES = ("since", "reached_at", "judged_at", "forgiven")


@dataclass(frozen=True)
class RevisionFacts:
    """Replicas of one revision that nobody has told to leave."""

    alive: int = 0
    ready: int = 0


@dataclass(frozen=True)
class RolloutFacts:
    """What is seen. `newest` is the newest revision whose references are resolved; `failures`
    counts the target's failures in a row since the rollout began."""

    replicas: int
    newest: int
    revisions: Mapping[int, RevisionFacts] = field(default_factory=dict)
    failures: int = 0
    failure: str = ""
    observed: Observed = NOTHING
    """Requests that the target has answered since `RolloutState.observe_since`."""
    results: Mapping[str, float] = field(default_factory=dict)
    """What evaluations of the target's model version have found, by metric."""
    wish: Literal["pause", "resume"] | None = None

    def ready(self, revision: int) -> int:
        return self.revisions.get(revision, RevisionFacts()).ready


@dataclass(frozen=True)
class RolloutState:
    """Where a rollout stands. `stable` is the last revision that was ready in full."""

    target: int
    since: datetime
    stable: int | None = None
    phase: Phase = "progressing"
    step: int = 0
    """How many canary steps are passed."""
    reached_at: datetime | None = None
    """When the present step's weight was reached."""
    judged_at: datetime | None = None
    forgiven: datetime | None = None
    """Failures before it do not count: somebody wanted another try."""
    weight: float | None = None
    """The target's share of traffic; None: it is shared by all ready replicas."""
    wanted: Mapping[int, int] = field(default_factory=dict)
    reason: str = ""
    message: str = ""

    @property
    def main(self) -> int:
        """The revision that is to serve alone in the end."""
        back = self.phase == "rolled_back" and self.stable is not None
        return self.stable if back and self.stable is not None else self.target

    @property
    def under_way(self) -> bool:
        return self.phase in ("progressing", "paused")

    @property
    def on_trial(self) -> bool:
        """There is a good revision to go back to."""
        return self.under_way and self.stable is not None and self.stable != self.target

    @property
    def observe_since(self) -> datetime:
        return self.reached_at or self.since

    @property
    def traffic(self) -> Mapping[int, float]:
        """Shares by revision; empty: all ready replicas alike."""
        if self.phase == "rolled_back":
            return {self.main: 1.0, self.target: 0.0}
        if self.weight is None or self.phase == "finished":
            return {}
        old = {
            revision: count
            for revision, count in self.wanted.items()
            if revision != self.target and count
        }
        if not old:
            return {}
        rest = 1.0 - self.weight
        shares = {revision: rest * count / sum(old.values()) for revision, count in old.items()}
        return {**shares, self.target: self.weight}


@dataclass(frozen=True)
class News:
    """An event to tell: `rollout.` and `type`."""

    type: Literal["started", "step", "paused", "resumed", "rolled_back", "finished"]
    message: str


def advance(
    state: RolloutState | None, facts: RolloutFacts, settings: Rollout, now: datetime
) -> tuple[RolloutState, list[News]]:
    """The next state, and what is to be told."""
    news: list[News] = []
    current = _begin(state, facts, now, news)
    current = _obey(current, facts, now, news)
    current = _judge(current, facts, settings, now, news)
    current = _step(current, facts, settings, now, news)
    current = replace(current, wanted=_wanted(current, facts, settings))
    return _finish(current, facts, news), news


def _begin(
    state: RolloutState | None, facts: RolloutFacts, now: datetime, news: list[News]
) -> RolloutState:
    if state is None:
        alive = {number: seen.alive for number, seen in facts.revisions.items() if seen.alive}
        older = [number for number in alive if number != facts.newest and facts.ready(number)]
        stable = max(older, default=None)
        return RolloutState(facts.newest, now, stable, wanted=alive)
    if state.target == facts.newest:
        return state
    if state.stable is not None:
        way = f"from revision {state.stable} to {facts.newest}"
        same = state.stable == facts.newest
        news.append(News("started", f"back to revision {facts.newest}" if same else way))
    return RolloutState(facts.newest, now, state.stable, wanted=state.wanted)


def _obey(
    state: RolloutState, facts: RolloutFacts, now: datetime, news: list[News]
) -> RolloutState:
    if facts.wish == "pause" and state.under_way and state.reason != BY_HAND:
        news.append(News("paused", f"revision {state.target} goes no further until it is resumed"))
        return replace(state, phase="paused", reason=BY_HAND, message="paused by hand")
    if facts.wish == "resume" and state.phase == "paused":
        news.append(News("resumed", f"revision {state.target} goes on"))
        passed = state.reason == AT_STEP
        return replace(
            state, phase="progressing", reason="", message="",
            step=state.step + passed, reached_at=None if passed else state.reached_at,
        )  # fmt: skip
    if facts.wish == "resume" and state.phase == "rolled_back":
        news.append(News("started", f"revision {state.target} is tried again"))
        return RolloutState(state.target, now, state.stable, forgiven=now, wanted=state.wanted)
    return state


def _judge(
    state: RolloutState, facts: RolloutFacts, settings: Rollout, now: datetime, news: list[News]
) -> RolloutState:
    """A pause stops the way forward, never the way back."""
    if not state.on_trial:
        return state
    reason, why = "", ""
    if facts.failures >= MOST_FAILURES and facts.ready(state.target) < _cap(
        state, settings, facts.replicas
    ):
        reason, why = "CrashLoop", f"{facts.failures} replicas failed in a row"
        why += f", the last: {facts.failure}" if facts.failure else ""
    elif settings.analysis is not None and (bad := fails(settings.analysis, facts.results)):
        reason, why = "AnalysisFailed", bad
    elif settings.analysis is not None and state.reached_at is not None:
        since = state.judged_at or state.reached_at
        if now - since >= timedelta(seconds=settings.analysis.interval):
            state = replace(state, judged_at=now)
            why = judge(settings.analysis, facts.observed)
            reason = "AnalysisFailed" if why else ""
    if not reason:
        return state
    message = f"revision {state.target} was rolled back to {state.stable}: {why}"
    news.append(News("rolled_back", message))
    return replace(
        state, phase="rolled_back", reason=reason, message=message, reached_at=None, weight=None
    )


def _step(
    state: RolloutState, facts: RolloutFacts, settings: Rollout, now: datetime, news: list[News]
) -> RolloutState:
    """Reach the step, and pass it when its time is over."""
    if not _in_steps(state, settings) or state.reason == BY_HAND:
        return replace(state, weight=_weight(state, facts, settings))
    step = settings.steps[state.step]
    enough = facts.ready(state.target) >= _cap(state, settings, facts.replicas)
    if state.reached_at is None and facts.replicas and enough:
        total = len(settings.steps)
        text = f"step {state.step + 1} of {total}: {step.weight:.4g} of the traffic"
        state = replace(state, reached_at=now, judged_at=None)
        news.append(News("step", f"revision {state.target}, {text}"))
        if step.pause == "manual":
            state = replace(
                state, phase="paused", reason=AT_STEP, message=f"{text}; waits for resume"
            )
            news.append(News("paused", state.message))
    elif state.reached_at is not None and step.pause != "manual" and state.phase == "progressing":
        hold = max(step.pause, settings.analysis.interval if settings.analysis else 0.0)
        lacking = unevaluated(settings.analysis, facts.results) if settings.analysis else []
        if now - state.reached_at >= timedelta(seconds=hold):
            if lacking:
                text = f"no evaluation of its model has found {', '.join(lacking)} yet"
                state = replace(state, reason="WaitingForEvaluation", message=text)
            else:
                state = replace(state, step=state.step + 1, reached_at=None, reason="", message="")
    return replace(state, weight=_weight(state, facts, settings))


def _in_steps(state: RolloutState, settings: Rollout) -> bool:
    return state.on_trial and state.step < len(settings.steps)


def _cap(state: RolloutState, settings: Rollout, replicas: int) -> int:
    """Most replicas of the main revision at this point."""
    if not _in_steps(state, settings):
        return replicas
    return min(replicas, math.ceil(round(replicas * settings.steps[state.step].weight, 9)))


def _weight(state: RolloutState, facts: RolloutFacts, settings: Rollout) -> float | None:
    """The target's share. Between two steps it stays, unless too few old replicas are left to
    carry the rest: then it follows the share of ready replicas."""
    if settings.strategy != "canary" or not state.on_trial:
        return None
    steps = settings.steps
    done = min(state.step, len(steps))
    there = steps[done].weight if done < len(steps) else 1.0
    if state.reached_at is not None:
        return there
    base = steps[done - 1].weight if done else 0.0
    new = facts.ready(state.target)
    old = sum(seen.ready for seen in facts.revisions.values()) - new
    if new == 0 or old >= math.ceil(round((1.0 - base) * facts.replicas, 9)):
        return base
    return min(max(base, new / (new + old)), there)


def _wanted(state: RolloutState, facts: RolloutFacts, settings: Rollout) -> dict[int, int]:
    replicas = facts.replicas
    surge, lacking = settings.surge(replicas), settings.unavailable(replicas)
    if replicas == 0:
        return {}
    if state.reason == BY_HAND:
        return _frozen(state, facts, surge)
    main = state.main
    cap = _cap(state, settings, replicas)
    ready = min(facts.ready(main), cap)
    keep = max(replicas - lacking - ready, 0)
    trial = _in_steps(state, settings)
    if trial:
        keep = max(keep, min(replicas, replicas + surge - cap))
    old = {number: count for number, count in state.wanted.items() if number != main and count}
    if state.stable is None:
        # Nobody relies on replicas that never were ready.
        keep = min(keep, sum(facts.ready(number) for number in old))
    old = _shrink(old, keep, state.stable, facts)
    if trial and state.stable is not None:
        lack = min(replicas, replicas + surge - cap) - sum(old.values())
        old[state.stable] = old.get(state.stable, 0) + max(lack, 0)
    room = replicas + surge - sum(old.values())
    wanted = {**old, main: min(cap, max(room, 0))}
    return {number: count for number, count in sorted(wanted.items()) if count}


def _frozen(state: RolloutState, facts: RolloutFacts, surge: int) -> dict[int, int]:
    """Counts as they were when it was paused, but for scaling."""
    wanted = dict(state.wanted)
    lack = facts.replicas - sum(wanted.values())
    if lack > 0:
        grown = state.stable if state.stable is not None else state.target
        wanted[grown] = wanted.get(grown, 0) + lack
    return _shrink(wanted, facts.replicas + surge, state.stable, facts)


def _shrink(
    wanted: Mapping[int, int], keep: int, stable: int | None, facts: RolloutFacts
) -> dict[int, int]:
    """At most `keep` replicas: first those go that are missing, then those that are not ready;
    among equals not the stable revision's."""
    units: list[tuple[int, bool, int]] = []
    for number, count in wanted.items():
        seen = facts.revisions.get(number, RevisionFacts())
        ready, alive = min(seen.ready, count), min(seen.alive, count)
        kinds = [2] * ready + [1] * (alive - ready) + [0] * (count - alive)
        units += [(kind, number == stable, number) for kind in kinds]
    left = dict(wanted)
    for _, _, number in sorted(units)[: max(len(units) - keep, 0)]:
        left[number] -= 1
    return {number: count for number, count in left.items() if count}


def _finish(state: RolloutState, facts: RolloutFacts, news: list[News]) -> RolloutState:
    """A rollout ends when its revision alone is wanted and ready in full."""
    only = dict(state.wanted) == {state.target: facts.replicas}
    if not (state.phase == "progressing" and only):
        return state
    if facts.replicas == 0 or facts.ready(state.target) < facts.replicas:
        return state
    if state.stable is not None:
        news.append(News("finished", f"revision {state.target} serves"))
    return replace(
        state, phase="finished", stable=state.target, reason="", message="", weight=None,
        reached_at=None, judged_at=None,
    )  # fmt: skip


def to_json(state: RolloutState) -> dict[str, Any]:
    """The state as it is stored."""
    data: dict[str, Any] = {**vars(state)}
    data |= {name: data[name].isoformat() if data[name] else None for name in _TIMES}
    data["wanted"] = {str(number): count for number, count in state.wanted.items()}
    return data


def from_json(data: Mapping[str, Any]) -> RolloutState:
    """A stored state; fields of later versions are ignored."""
    known = {name: data[name] for name in RolloutState.__dataclass_fields__ if name in data}
    for name in _TIMES:
        if known.get(name):
            known[name] = datetime.fromisoformat(known[name])
    known["wanted"] = {int(number): count for number, count in known.get("wanted", {}).items()}
    return RolloutState(**known)
