"""How jobs hang together: what a job waits for, reads from others and hands on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from quarterdeck.specs.base import NAME_PATTERN, Name, Spec
from quarterdeck.specs.references import ReferenceText

MOST_AFTER = 1000
MOST_INPUTS = 100
Asset = Literal["model", "dataset", "tokenizer"]
ASSETS: tuple[Asset, ...] = ("model", "dataset", "tokenizer")
MAKERS: dict[Asset, tuple[str, ...]] = {
    "dataset": ("dataset", "data", "batch"),
    "tokenizer": ("tokenizer",),
    "model": ("pretrain",),
}
"""Kinds of job that always make such an asset; a `command` makes those of its `outputs`."""
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


def made_by(kind: str, spec: Mapping[str, Any]) -> frozenset[Asset]:
    """What a job of this kind and (dumped) spec publishes when it succeeds."""
    declared = spec.get("outputs") if kind == "command" else None
    return frozenset(
        asset for asset in ASSETS if kind in MAKERS[asset] or asset in (declared or {})
    )


class Input(Spec):
    """A version that a command reads. `kind` is needed only where a name alone could be
    several things."""

    reference: ReferenceText
    kind: Asset | None = None


def _inputs(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    return {name: _input(name, one) for name, one in value.items()}


def _input(name: object, value: object) -> object:
    found = {"reference": value} if isinstance(value, str) else value
    if isinstance(found, Mapping) and "kind" not in found and name in ASSETS:
        return {**found, "kind": name}
    return found


def _folder(value: str) -> str:
    if value.startswith("/") or ".." in value.split("/") or value.strip("./") == "":
        raise ValueError(f"{value!r} is not a folder below the working directory: write out/model")
    return value


InputName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
"""What is upper-cased to a variable's name."""
Inputs = Annotated[dict[InputName, Input], Field(max_length=MOST_INPUTS), BeforeValidator(_inputs)]
Outputs = dict[Asset, Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_folder)]]
