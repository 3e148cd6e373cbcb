"""What rows hold is counted alike by the scheduler, which plans, and the store, which guards."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from quarterdeck.scheduling.placement import Pool
from quarterdeck.scheduling.snapshot import NodeView, Request
from quarterdeck.specs.accelerator_share import WHOLE
from quarterdeck.store.slots import SlotCount, held_by

OLD_ROW = {"rank": 0, "node_id": "n0", "slots": 2, "local_rank": 0}
"""Of a release that knew no shared slots."""


@given(st.lists(st.integers(10, 999) | st.just(WHOLE), max_size=20), st.data())
@settings(max_examples=200, deadline=None)
def test_both_count_alike(shares: list[int], data: st.DataObject) -> None:
    pool = Pool([NodeView(f"n{i}", "a", 3) for i in range(3)])
    rows, holds = [], []
    for index, share in enumerate(shares):
        ranks = data.draw(st.integers(1, 3)) if share == WHOLE else 1
        asked = Request(f"r{index}", "service/r", 0, index, data=ranks, share=share)
        placed = pool.place(asked)
        if placed is None:
            continue
        holds.append(pool.take(asked, placed))
        rows.append([place.model_dump(mode="json") for place in placed])
        assert sum(held_by(rows[-1]).values()) == ranks * share
        if data.draw(st.booleans()) and len(rows) > 1:
            gone = data.draw(st.integers(0, len(rows) - 1))
            pool.hold(holds.pop(gone), sign=-1)
            del rows[gone]
    count = SlotCount()
    for row in rows:
        count.add(row)
    for node_id, room in pool.rooms.items():
        assert room.node.slots - room.slots == count.slots.get(node_id, 0)
        assert dict(room.shared) == count.shared.get(node_id, {})
    assert list(count.overfull()) == []


def test_an_old_row_holds_whole_slots() -> None:
    count = SlotCount().add([OLD_ROW])
    assert (count.slots, count.shared) == ({"n0": 2}, {})
    assert held_by([OLD_ROW]) == {"n0": 2000}


def test_a_copy_changes_by_itself() -> None:
    count = SlotCount().add([{"node_id": "n0", "shared_slot": 0, "share": 400}])
    count.copy().add([{"node_id": "n0", "shared_slot": 0, "share": 700}])
    assert count.shared == {"n0": {0: 400}}
