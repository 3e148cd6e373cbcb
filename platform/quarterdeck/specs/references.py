"""References from one resource to another, as people write them.

`NAME`, `NAME@VERSION`, `NAME@ALIAS`, `job/NAME` (that job's output) or a URI; datasets may name
a split: `stdlib#held_out`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator

from quarterdeck.specs.base import NAME_PATTERN

_NAME = NAME_PATTERN.strip("^$")
_REFERENCE = re.compile(
    rf"^(?P<job>job/)?(?P<name>{_NAME})(@(?P<version>[A-Za-z0-9._-]+))?(#(?P<split>[a-z_]+))?$"
)
_URI = re.compile(r"^(?P<uri>[a-z][a-z0-9+.-]*://[^#]+|/[^#]+)(#(?P<split>[a-z_]+))?$")


@dataclass(frozen=True)
class Reference:
    """A parsed reference: exactly one of `job`, `name` and `uri` is set."""

    job: str | None = None
    name: str | None = None
    uri: str | None = None
    version: str | None = None
    """A version number or an alias; None means the newest."""
    split: Literal["train", "held_out"] | None = None


def parse_reference(text: str) -> Reference:
    """Read a reference; raises ValueError naming the accepted forms."""
    match = _REFERENCE.match(text) or _URI.match(text)
    split = match["split"] if match else None
    if match is None or split not in (None, "train", "held_out"):
        raise ValueError(
            f"{text!r} is not a reference: write NAME, NAME@VERSION, NAME@ALIAS, job/NAME or a "
            "URI, for datasets with #train or #held_out"
        )
    chosen: Literal["train", "held_out"] | None = (
        None if split is None else "train" if split == "train" else "held_out"
    )
    groups = match.groupdict()
    if uri := groups.get("uri"):
        return Reference(uri=uri, split=chosen)
    if groups["job"]:
        return Reference(job=groups["name"], version=groups["version"], split=chosen)
    return Reference(name=groups["name"], version=groups["version"], split=chosen)


def _checked(text: str) -> str:
    parse_reference(text)
    return text


ReferenceText = Annotated[str, AfterValidator(_checked)]
