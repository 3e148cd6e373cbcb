"""How a service goes from one revision to the next: the field `rollout:` of a service.

`rolling` replaces replicas a few at a time. `canary` gives the new revision a share of the traffic
in steps, judges it between them, and goes back by itself when it is worse than allowed; one step
of 100 % is blue/green: the old replicas answer until every new one is ready.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from quarterdeck.specs.base import Spec
from quarterdeck.specs.units import Seconds, Share, parse_share

MOST_STEPS = 50
LIVE_FIELDS = frozenset(
    {"admission", "aliases", "fallback", "idle_after", "labels", "mirror", "priority", "replicas",
     "rollout", "routing", "timeouts"}
)  # fmt: skip
"""Fields of a service that change how it is run, not what its replicas are: they take effect at
once and make no new revision."""


def _count_or_share(value: object) -> object:
    if isinstance(value, str):
        return parse_share(value)
    if isinstance(value, bool) or (isinstance(value, float) and value > 1.0):
        raise ValueError(f"{value!r} is neither a count nor a share: write 1 or 25%")
    return value


CountOrShare = Annotated[int | float, Field(ge=0, le=1000), BeforeValidator(_count_or_share)]
"""Replicas as a whole number, or as a share of those wanted: `25%`, 0.25."""


def _pause(value: object) -> object:
    return value if value == "manual" else _seconds(value)


def _seconds(value: object) -> float:
    from quarterdeck.specs.units import parse_duration

    try:
        return parse_duration(value)
    except ValueError as error:
        raise ValueError(f"{error}, or manual to wait for `resume`") from None


class CanaryStep(Spec):
    """The new revision's share of traffic, and how long it stays there once it is reached.

    `pause: manual` waits until somebody resumes the rollout; left out, the step lasts no longer
    than its analysis needs.
    """

    weight: Share = Field(gt=0)
    pause: Annotated[Annotated[float, Field(ge=0)] | Literal["manual"], BeforeValidator(_pause)] = (
        0.0
    )


class EvaluationBound(Spec):
    """What an evaluation of the new revision's model version must have found: the metric as the
    job's results name it, and its bounds."""

    metric: str = Field(min_length=1, max_length=200)
    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _bounds_something(self) -> EvaluationBound:
        if self.min is None and self.max is None:
            raise ValueError(f"metric {self.metric!r} without a bound: give min or max")
        return self


class Analysis(Spec):
    """What the new revision must hold while it is on trial; else the rollout goes back.

    Judged every `interval` over the requests since the step began, never on fewer than
    `min_requests`. Errors are answers of 5xx and broken streams; 4xx never count. No step is
    passed before an evaluation has found all of `evaluations`.
    """

    max_error_rate: Share | None = None
    max_ttft_p95: Seconds | None = Field(default=None, gt=0)
    min_requests: int = Field(default=20, ge=1)
    interval: Seconds = Field(default=10.0, ge=1)
    evaluations: tuple[EvaluationBound, ...] = Field(default=(), max_length=50)

    @model_validator(mode="after")
    def _judges_something(self) -> Analysis:
        if self.max_error_rate is None and self.max_ttft_p95 is None and not self.evaluations:
            raise ValueError(
                "analysis without a bound: give max_error_rate, max_ttft_p95 or evaluations"
            )
        return self


class Rollout(Spec):
    """`max_surge` more replicas than wanted may live, `max_unavailable` fewer may be ready.

    `max_surge` defaults to 1; to 100 % where a canary has a step of 100 %, so that the old
    replicas stay whole until the switch.
    """

    strategy: Literal["rolling", "canary"] = "rolling"
    max_surge: CountOrShare | None = None
    max_unavailable: CountOrShare = 0
    steps: tuple[CanaryStep, ...] = Field(default=(), max_length=MOST_STEPS)
    analysis: Analysis | None = None

    @model_validator(mode="after")
    def _agrees(self) -> Rollout:
        if self.strategy == "rolling":
            if self.steps or self.analysis is not None:
                raise ValueError("steps and analysis belong to strategy: canary")
        elif not self.steps:
            raise ValueError("strategy canary needs steps, e.g. [{weight: 10%, pause: 10m}]")
        weights = [step.weight for step in self.steps]
        if weights != sorted(weights):
            raise ValueError("steps: each weight must be at least the one before")
        if self.max_surge == 0 and (self.max_unavailable == 0 or self.strategy == "canary"):
            raise ValueError(
                "max_surge 0 leaves no room for a new replica: write max_surge 1"
                + ("" if self.strategy == "canary" else ", or max_unavailable 1")
            )
        return self

    def surge(self, replicas: int) -> int:
        """Replicas beyond `replicas` that may live; shares are rounded up, as Kubernetes does."""
        if self.max_surge is not None:
            return _amount(self.max_surge, replicas, math.ceil)
        return replicas if any(step.weight == 1.0 for step in self.steps) else 1

    def unavailable(self, replicas: int) -> int:
        """Replicas below `replicas` that may be missing; shares are rounded down."""
        lacking = min(_amount(self.max_unavailable, replicas, math.floor), replicas)
        # As Kubernetes: both rounded to nothing would never move.
        return 1 if not lacking and not self.surge(replicas) else lacking


def _amount(value: float, replicas: int, rounded: Any) -> int:
    if isinstance(value, int):
        return value
    return int(rounded(round(value * replicas, 9)))


def rollout_of(spec: Mapping[str, Any]) -> Rollout:
    """The rollout of a stored service's spec; specs of earlier versions have none."""
    return Rollout.model_validate(spec.get("rollout") or {})


def same_replicas(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether two specs of a service ask for the same replicas, however many."""
    names = {*before, *after} - LIVE_FIELDS
    return all(before.get(name) == after.get(name) for name in names)
