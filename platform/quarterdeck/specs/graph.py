"""How jobs hang together: what a job waits for, reads from others and hands on."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from quarterdeck.specs.base import NAME_PATTERN, Name, Spec

MOST_AFTER = 1000
Condition = Literal["success", "failure", "any"]
_JOB = re.compile(rf"^(?:job/)?({NAME_PATTERN.strip('^$')})$")


def _job(value: object) -> object:
    match = _JOB.match(value) if isinstance(value, str) else None
    return match[1] if match else value


class After(Spec):
    """A job that must have ended first, and how: `success` (the default), `failure` (it failed;
    a cancelled one did not) or `any` end."""

    job: Annotated[Name, BeforeValidator(_job)]
    on: Condition = "success"


def _one_after(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not value.startswith("job/"):
        raise ValueError(f"{value!r} names no job: write job/NAME, or {{job: NAME, on: success}}")
    return {"job": value}


def _after(value: object) -> object:
    return value if isinstance(value, (list, tuple)) else [value]


def _each_once(value: tuple[After, ...]) -> tuple[After, ...]:
    seen: set[str] = set()
    for after in value:
        if after.job in seen:
            raise ValueError(f"job/{after.job} is named twice: name each job once")
        seen.add(after.job)
    return value


Afters = Annotated[
    tuple[Annotated[After, BeforeValidator(_one_after)], ...],
    Field(max_length=MOST_AFTER),
    BeforeValidator(_after),
    AfterValidator(_each_once),
]
