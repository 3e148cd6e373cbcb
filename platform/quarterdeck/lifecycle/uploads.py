"""Which uploads nobody needs any more. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

KEEP_S: float = 14 * 86400.0
"""How long an upload is kept after the end of its last job, unless said otherwise."""
GRACE_S = 86400.0
"""An upload that was asked for, sent or named by a submission so lately stays: its job may come."""


@dataclass(frozen=True)
class KeptUpload:
    """An upload, when somebody last wanted it, and what the jobs that name it are."""

    project: str
    digest: str
    touched_at: datetime
    live: bool = False
    """Whether a job that has not ended names it."""
    ended_at: datetime | None = None
    """When the last of its jobs ended."""


def served(upload: KeptUpload, keep: float | None, now: datetime) -> bool:
    """Whether it may go: every job that named it ended `keep` seconds ago (None: keep for ever
    what a job has named), and nobody has wanted it for the grace period."""
    if upload.live or now - upload.touched_at < timedelta(seconds=GRACE_S):
        return False
    if upload.ended_at is None:
        return True
    return keep is not None and now - upload.ended_at >= timedelta(seconds=keep)
