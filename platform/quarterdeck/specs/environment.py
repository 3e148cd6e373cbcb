"""Where a job's programs come from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from quarterdeck.specs.base import Spec


class Environment(Spec):
    """A container image in which the job's ranks run, and the Ray and agent that start them: it is
    made from the installation's worker image. On pools of Kubernetes each run gets a Ray cluster
    of its own, whose pods have it."""

    image: Annotated[
        str, Field(pattern=r"^[a-z0-9][A-Za-z0-9._:/@-]*[A-Za-z0-9]$", min_length=2, max_length=500)
    ]
    """As Kubernetes takes it: `registry.example.com/team/train:3`, or with a digest."""
