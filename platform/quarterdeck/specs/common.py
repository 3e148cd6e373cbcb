"""The fields that every job and service shares."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from quarterdeck.specs.arrays import Array
from quarterdeck.specs.base import Name, Spec
from quarterdeck.specs.environment import Environment
from quarterdeck.specs.graph import Afters
from quarterdeck.specs.log_policies import MOST_OF_JOB, LogPolicy
from quarterdeck.specs.references import ReferenceText
from quarterdeck.specs.units import Bytes, Seconds

PRIORITIES = {"low": -100, "normal": 0, "high": 100}


def _priority(value: object) -> object:
    if isinstance(value, str) and value not in PRIORITIES:
        raise ValueError(f"{value!r} is not a priority: write low, normal, high or a whole number")
    return PRIORITIES[value] if isinstance(value, str) else value


Priority = Annotated[int, BeforeValidator(_priority), Field(ge=-1000, le=1000)]


Spot = Literal["allow", "avoid", "only"]


class Resources(Spec):
    """What each rank holds. `accelerator` names a model of the hardware catalogue; `cpu` is a
    declared slot of a cluster without accelerators; None is any slot the cluster has."""

    accelerator: str | None = None
    cpus: float | None = Field(default=None, gt=0)
    memory: Bytes | None = None
    spot: Spot | None = None
    """Machines that may be taken away at short notice: `allow` (the default of jobs), `avoid` (that
    of services) or `only`."""


class SecretReference(Spec):
    """A secret delivered as a file in `$QUARTERDECK_SECRETS_DIR`; `env` sets the variable too."""

    name: str = Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}$")
    env: bool = False


def _secret(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


class WeightedDataset(Spec):
    """One domain of a mixture. `weight` is its share of samples (all omitted: by size);
    `passes` bounds how often its data is seen."""

    name: ReferenceText
    weight: float | None = Field(default=None, gt=0)
    passes: float | None = Field(default=None, gt=0)


def _datasets(value: object) -> object:
    items = value if isinstance(value, (list, tuple)) else [value]
    return [{"name": item} if isinstance(item, str) else item for item in items]


Datasets = Annotated[tuple[WeightedDataset, ...], BeforeValidator(_datasets), Field(min_length=1)]
MOST_SECRETS = 100
Secrets = Annotated[
    tuple[Annotated[SecretReference, BeforeValidator(_secret)], ...], Field(max_length=MOST_SECRETS)
]


class Checkpoints(Spec):
    """When checkpoints are written and which are kept.

    `every` is a number of steps or `auto` (Young/Daly from the measured save time).
    `keep_last` counts the newest, `keep_every` keeps each step that it divides for ever.
    `path` (command jobs) is a file tree kept across attempts.
    """

    every: int | Literal["auto"] = "auto"
    keep_last: int = Field(default=3, ge=1)
    keep_every: int | None = Field(default=None, ge=1)
    path: str | None = None

    @model_validator(mode="after")
    def _inside(self) -> Checkpoints:
        if self.path is not None:
            parts = PurePosixPath(self.path).parts
            if not parts or self.path.startswith("/") or ".." in parts:
                raise ValueError(
                    f"path: {self.path!r} is not inside the working folder: write out or a/out"
                )
        return self

    @model_validator(mode="after")
    def _positive(self) -> Checkpoints:
        if self.every != "auto" and self.every < 1:
            raise ValueError(f"every: {self.every} is not a number of steps: write 1 or more")
        return self


class Resource(Spec):
    """What every document has."""

    name: Name
    project: Name = "default"
    labels: dict[str, str] = {}


class JobSpec(Resource):
    """What every job has. Immutable once submitted."""

    queue: Name = "default"
    priority: Priority = 0
    cluster: Name | None = None
    after: Afters = ()
    """Jobs that must end first, beside those that references imply: `job/NAME` must succeed,
    `{job: NAME, on: success | failure | any}` says how."""
    array: Array | None = None
    """One job for each combination of values: `{lr: [1e-3, 3e-4]}`, or how many."""
    array_parallelism: int | None = Field(default=None, ge=1)
    """At most so many members at once; None: as many as there is room for."""
    resources: Resources = Resources()
    environment: Environment | None = None
    """None: its programs come from the machines that it gets."""
    env: dict[str, str] = {}
    secrets: Secrets = ()
    max_duration: Seconds | None = Field(default=None, gt=0)
    max_restarts: int = Field(default=3, ge=0, le=1000)
    log_policies: tuple[LogPolicy, ...] = Field(default=(), max_length=MOST_OF_JOB)
    """What lines of the output mean for the next attempt, before those of the installation."""
