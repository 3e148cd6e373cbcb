"""Slots that runs hold, counted from their placements as rows keep them.

A placement without a `shared_slot` holds whole slots. Those that name the same shared slot of a
node hold one slot together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from quarterdeck.specs.accelerator_share import WHOLE

Placement = Mapping[str, Any]


@dataclass
class SlotCount:
    """What is held, by node id."""

    slots: dict[str, int] = field(default_factory=dict)
    """Slots that are held, or a part of them: a shared one counts once."""
    shared: dict[str, dict[int, int]] = field(default_factory=dict)
    """Of the shared ones the thousandths that are held, by number."""

    def add(self, placements: Iterable[Placement]) -> SlotCount:
        """Count one run's placements."""
        for placement in placements:
            node, number = placement["node_id"], placement.get("shared_slot")
            if number is None:
                self.take(node, int(placement.get("slots", 1)))
            else:
                self.take_part(node, int(number), int(placement["share"]))
        return self

    def take(self, node: str, slots: int) -> None:
        """Count whole slots."""
        self.slots[node] = self.slots.get(node, 0) + slots

    def take_part(self, node: str, number: int, share: int) -> None:
        """Count thousandths of a shared slot."""
        shared = self.shared.setdefault(node, {})
        if number not in shared:
            self.take(node, 1)
        shared[number] = shared.get(number, 0) + share

    def copy(self) -> SlotCount:
        """One that changes by itself."""
        shared = {node: dict(parts) for node, parts in self.shared.items()}
        return SlotCount(dict(self.slots), shared)

    def overfull(self) -> Iterable[tuple[str, int, int]]:
        """Node, number and thousandths of the shared slots of which more than all is held."""
        for node, parts in self.shared.items():
            for number, held in parts.items():
                if held > WHOLE:
                    yield node, number, held


def held_by(placements: Iterable[Placement]) -> dict[str, int]:
    """Thousandths of slots that one run holds, by node."""
    held: dict[str, int] = {}
    for placement in placements:
        whole = placement.get("shared_slot") is None
        count = WHOLE * int(placement.get("slots", 1)) if whole else int(placement["share"])
        held[placement["node_id"]] = held.get(placement["node_id"], 0) + count
    return held
