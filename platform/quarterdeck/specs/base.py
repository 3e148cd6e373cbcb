"""The base of everything that people write or that crosses the wire."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

NAME_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"

Name = Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
"""A resource's name: lower-case letters, digits and dashes, at most 63, a DNS label."""


class Spec(BaseModel):
    """What people write: unknown fields are refused, values are never changed after parsing."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class Message(BaseModel):
    """What processes send each other: unknown fields are ignored, so old and new live together."""

    model_config = ConfigDict(extra="ignore")
