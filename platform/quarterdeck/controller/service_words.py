"""What a service says of itself: a typed reason and a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quarterdeck.lifecycle.chains import StepFacts, judge_chain
from quarterdeck.lifecycle.replicas import Crashes
from quarterdeck.lifecycle.rollouts import RolloutState
from quarterdeck.store.tables import ServiceRow


@dataclass(frozen=True)
class Words:
    """An empty reason leaves the one that stands."""

    reason: str
    message: str


def words_of(
    service: ServiceRow,
    state: RolloutState | None,
    wanted: int,
    live: int,
    ready: int,
    failures: Crashes,
    failure: str,
    steps: Sequence[StepFacts] = (),
) -> Words:
    """Of a service that wants `wanted` replicas now and has `live`, `ready` of them ready;
    `failure` says what the last of the `failures` in a row died of; `steps` are a chain's."""
    if service.desired == "stop":
        return Words("Draining", f"{live} replicas left")
    if steps:
        chain = judge_chain(steps)
        return Words(chain.reason or "Ready", chain.message)
    if wanted < service.desired_replicas:
        idle = service.spec.get("idle_after")
        message = f"no request for {idle:g} s: {live} replicas left, the next request wakes it"
        return Words("Asleep", message)
    reason, message = "", f"{ready} of {wanted} replicas ready"
    if state is not None and state.under_way and state.stable is not None:
        reason = state.reason or "RollingOut"
        message += f"; revision {state.stable} → {state.target}"
        if state.weight is not None:
            message += f" with {100 * state.weight:.4g}% of the traffic"
        message += f" ({state.message})" if state.message else ""
    if state is not None and state.phase == "rolled_back":
        reason = "RolledBack"
        message += f"; {state.message}"
    if failures.count:
        message += f"; {failures.count} failures in a row, the last: {failure}"
        if ready < wanted or (state is not None and state.under_way):
            reason = "CrashLoop"
    return Words(reason, message)
