"""How a chain stands, by the services of its steps. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class StepFacts:
    """One step of a chain. `phase` is its service's, empty where there is none; `wakes`: without
    replicas the next request starts one."""

    role: str
    service: str
    phase: str = ""
    reason: str = ""
    ready: int = 0
    wanted: int = 0
    chain: bool = False
    wakes: bool = False

    @property
    def takes_requests(self) -> bool:
        """Its service answers, if need be after it woke."""
        asleep = self.wakes and self.phase == "idle" and self.wanted > 0
        return not self.chain and (self.ready > 0 or asleep)

    @property
    def words(self) -> str:
        """How its service stands, in a few words."""
        if not self.phase:
            return f"service/{self.service} does not exist"
        if self.chain:
            return f"service/{self.service} is a chain itself"
        ready = f"{self.ready} of {self.wanted} replicas ready"
        return f"service/{self.service} is {self.phase} ({self.reason}), {ready}"


@dataclass(frozen=True)
class ChainState:
    """Whether every step takes requests; an empty reason says so."""

    reason: str
    message: str

    @property
    def ready(self) -> bool:
        return not self.reason


def judge_chain(steps: Sequence[StepFacts]) -> ChainState:
    """Why the chain cannot answer in full: the first step that is missing, else the first that
    takes no requests."""
    lacking = [(number, step) for number, step in enumerate(steps, 1) if not step.takes_requests]
    if not lacking:
        return ChainState("", f"{len(steps)} steps ready")
    missing = [(number, step) for number, step in lacking if not step.phase]
    number, step = (missing or lacking)[0]
    rest = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
    reason = "StepMissing" if missing else "StepUnready"
    return ChainState(reason, f"step {number} ({step.role}): {step.words}{rest}")
