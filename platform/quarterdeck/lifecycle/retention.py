"""Which checkpoints a job keeps. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Saved:
    """A registered checkpoint."""

    id: str
    epoch: int
    step: int


def superseded(
    saved: Sequence[Saved],
    *,
    keep_last: int,
    keep_every: int | None,
    in_use: Iterable[str] = (),
) -> list[Saved]:
    """Checkpoints to delete, oldest first.

    The order of age is (epoch, step): after a resume from an earlier step, a later epoch's
    checkpoint is newer than an abandoned one of a higher step. The newest `keep_last` (at least
    one) stay, as does every step that `keep_every` divides and whatever a run resumes from.
    """
    used = frozenset(in_use)
    ordered = sorted(saved, key=lambda item: (item.epoch, item.step))
    old = ordered[: -max(keep_last, 1)]
    return [
        item
        for item in old
        if item.id not in used and not (keep_every and item.step % keep_every == 0)
    ]
