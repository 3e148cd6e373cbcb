"""Which slot several runs share, each with a part of it. Pure, in whole thousandths.

Best fit: of the slots that are shared already the one that is left with least; where none has the
room, a new one on the machine with the fewest whole slots left. So whole slots, and machines that
are all free, stay so for gangs. Best fit opens at most 1.7 times the fewest slots possible (Johnson
et al., "Worst-case performance bounds for simple one-dimensional packing algorithms", 1974).

A shared slot has a number of its node's own: the lowest that none has. It names no device: runs
with the same number get the same one, whichever the machine gives them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Protocol

from quarterdeck.scheduling.snapshot import NodeView
from quarterdeck.specs.accelerator_share import WHOLE

NOTHING: Mapping[int, int] = MappingProxyType({})


class RoomLike(Protocol):
    """A machine: its whole free slots, and what is held of shared ones."""

    node: NodeView
    slots: int
    shared: Mapping[int, int]


def best_slot(rooms: Iterable[RoomLike], share: int) -> tuple[str, int] | None:
    """The node and the number of its shared slot that takes `share` thousandths; None: nowhere.

    The first of `rooms` where several are as good.
    """
    best: tuple[tuple[int, int], str, int] | None = None
    for room in rooms:
        for number, held in sorted(room.shared.items()):
            left = WHOLE - held - share
            if left >= 0 and (best is None or (0, left) < best[0]):
                best = (0, left), room.node.id, number
        if room.slots > 0 and (best is None or (1, room.slots) < best[0]):
            best = (1, room.slots), room.node.id, _unused(room.shared)
    return None if best is None else best[1:]


def freest(rooms: Iterable[RoomLike]) -> int:
    """Thousandths of the slot of which most is free."""
    most = 0
    for room in rooms:
        if room.slots > 0:
            return WHOLE
        most = max([most, *(WHOLE - held for held in room.shared.values())])
    return most


def added(shared: Mapping[int, int], parts: Mapping[int, int]) -> Mapping[int, int]:
    """What is held with `parts` (negative: given back) on top; a slot of which nothing is held is
    none."""
    after = dict(shared)
    for number, count in parts.items():
        after[number] = after.get(number, 0) + count
    return {number: held for number, held in after.items() if held > 0}


def _unused(shared: Mapping[int, int]) -> int:
    return next(number for number in range(len(shared) + 1) if number not in shared)
