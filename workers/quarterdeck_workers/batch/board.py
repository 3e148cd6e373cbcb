"""Where the ranks of a batch job take shards and tell rank 0 which are done.

A shard is taken by counting up one number, so no two ranks take the same, and quick ranks take
more. Everything here is gone when the gang ends; what lasts is registered as a checkpoint.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from json import dumps, loads
from typing import Any

from quarterdeck.specs.beats import FileEntry
from quarterdeck_workers.rank.context import RankContext

_MEETING = timedelta(minutes=30)
"""Rank 0 may read a large dataset first."""


@dataclass(frozen=True)
class DoneShard:
    """A shard whose rows are in the store: `path` is its file's, `bad` counts rows with `error`."""

    number: int
    rows: int
    path: str
    size: int
    sha256: str
    bad: int = 0
    tokens: int = 0

    @property
    def entry(self) -> FileEntry:
        """As a version lists it."""
        return FileEntry(path=self.path.rpartition("/")[2], size=self.size, sha256=self.sha256)

    def encode(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return asdict(self)


class Board:
    """The ranks' meeting place; rank 0 holds it."""

    def __init__(self, context: RankContext) -> None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        self._store = TCPStore(
            context.master_address, context.master_port, context.world_size,
            is_master=context.rank == 0, timeout=_MEETING,
        )  # fmt: skip

    def announce(self, plan: str) -> None:
        """Rank 0: the work, for all."""
        self._store.set("plan", plan)

    def plan(self) -> str:
        """Wait for rank 0's plan."""
        return bytes(self._store.get("plan")).decode()

    def take(self) -> int:
        """The place of the next shard in the plan; beyond its end there is none."""
        return int(self._store.add("taken", 1)) - 1

    def done(self, place: int, shard: DoneShard) -> None:
        """Tell rank 0."""
        self._store.set(f"done/{place}", dumps(shard.encode()))

    def news(self, places: set[int]) -> dict[int, DoneShard]:
        """Those of `places` that are done."""
        return {
            place: DoneShard(**loads(bytes(self._store.get(f"done/{place}"))))
            for place in sorted(places)
            if self._store.check([f"done/{place}"])
        }
