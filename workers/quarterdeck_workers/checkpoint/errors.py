"""What can go wrong with checkpoints, each with its remedy."""

from __future__ import annotations


class CheckpointError(Exception):
    """Writing or reading a checkpoint failed."""


class SaveFailed(CheckpointError):
    """A checkpoint could not be written on some rank; the previous one is untouched.

    `disk_full` says whether lack of space was the cause.
    """

    def __init__(self, step: int, problems: dict[int, str], *, disk_full: bool) -> None:
        shown = "; ".join(f"rank {rank}: {what}" for rank, what in sorted(problems.items())[:3])
        remedy = "free some space" if disk_full else "see the rank's log"
        super().__init__(
            f"checkpoint of step {step} was not written ({shown}): the previous one stays; {remedy}"
        )
        self.disk_full = disk_full


class CorruptCheckpoint(CheckpointError):
    """Files differ from their manifest or do not cover a tensor."""
