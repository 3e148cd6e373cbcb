"""The part of an accelerator that a replica takes. Counted in thousandths: sums are exact."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from quarterdeck.specs.common import Resources
from quarterdeck.specs.units import parse_share

WHOLE = 1000
"""Thousandths of an accelerator, or of a declared slot."""
LEAST = 10


def parse_accelerator_share(value: object) -> float:
    """A share in steps of 0.1 %, at least 1 %, from `40%` or a plain number."""
    exact = parse_share(value) * WHOLE
    steps = round(exact)
    if abs(exact - steps) > 1e-6 or steps < LEAST:
        raise ValueError(
            f"{value!r} is not a part of an accelerator: write 1% to 100% in steps of 0.1%, "
            "as 40% or 0.4"
        )
    return steps / WHOLE


AcceleratorShare = Annotated[float, BeforeValidator(parse_accelerator_share)]


class ReplicaResources(Resources):
    """What each rank of a replica holds. With `accelerator_share` it takes only that part of one
    accelerator, and others that do so may have the rest; None takes all of it."""

    accelerator_share: AcceleratorShare | None = None


def thousandths(share: float | None) -> int:
    """A share as it is counted; none is a whole accelerator."""
    return WHOLE if share is None else round(share * WHOLE)


def part(count: int) -> str:
    """Thousandths as people write them: 0.4."""
    return f"{count / WHOLE:g}"
