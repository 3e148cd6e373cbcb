"""Weights that are brought to nodes ahead of the services that will read them.

Sizes are bytes, durations seconds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Literal

from quarterdeck.specs.base import Message

WEIGHTS = (".safetensors", ".bin", ".gguf")
"""How names of files with weights end."""
_DIGEST = re.compile(r"[A-Za-z0-9:._-]{16,}")
_PLAIN = re.compile(r"[^A-Za-z0-9._-]")

WarmState = Literal["waiting", "fetching", "ready", "failed", "gone"]
"""`gone`: the node died before the weights were there."""
ENDED = ("ready", "failed", "gone")


def can_be_cached(digest: str) -> bool:
    """Whether nodes keep a copy under this digest; short ones may mean anything."""
    return _DIGEST.fullmatch(digest) is not None


def copy_name(digest: str) -> str:
    """The name of a node's copy of the model with this digest. Raises ValueError."""
    if not can_be_cached(digest):
        raise ValueError(f"{digest!r} is no digest: a copy needs one of 16 characters or more")
    return _PLAIN.sub("-", digest)


def has_weights(paths: Iterable[str]) -> bool:
    """Whether one of a version's files holds weights."""
    return any(path.endswith(WEIGHTS) for path in paths)


class WeightsToWarm(Message):
    """A model version that somebody wants on a node."""

    asset_id: str
    node_id: str
    asked: int = 1
    """How often it was asked for: a report belongs to one asking."""


class WarmReport(Message):
    """How far it is. Repeated until the list of what is wanted no longer names it."""

    asset_id: str
    node_id: str
    asked: int = 1
    state: Literal["fetching", "ready", "failed"]
    found: bool = False
    """It was there already."""
    bytes_done: int = 0
    rate: float = 0.0
    """Bytes a second, lately."""
    seconds: float = 0.0
    """Since the fetching began."""
    message: str = ""


class NodeWarmth(Message):
    """One node's copy of a model version, as its agent last told."""

    node_id: str
    host: str
    cluster: str
    state: WarmState
    found: bool = False
    """It was there already."""
    bytes_done: int = 0
    rate: float = 0.0
    seconds: float = 0.0
    message: str = ""
    """Why it waits or failed."""
    asked_at: datetime
    ended_at: datetime | None = None

    @property
    def ended(self) -> bool:
        """Nothing more happens to it unless it is asked for again."""
        return self.state in ENDED


class ModelWarmth(Message):
    """Where a model version was asked for ahead, kept for a day after the end."""

    name: str
    version: int
    digest: str
    bytes: int
    nodes: list[NodeWarmth]
