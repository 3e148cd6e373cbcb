"""Machines that join a cluster, and a gang pinned across them."""

from __future__ import annotations

import pytest
from conftest import Machine, marked
from worker_recorder import Recorder


def test_machines_join_and_a_gang_is_pinned_to_the_chosen_ones(
    recorder: Recorder, machine: Machine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    joined = [
        Machine(tmp_path_factory.mktemp("j"), recorder.url, 2, address, join=True)
        for address in ("127.0.0.3", "127.0.0.4")
    ]
    try:
        recorder.wait(lambda: len(recorder.nodes) == 3, 90)
        nodes = {node.address: node for node in recorder.nodes}
        assert sorted(nodes) == ["127.0.0.2", "127.0.0.3", "127.0.0.4"]
        assert [nodes[address].slots for address in sorted(nodes)] == [8, 2, 2]
        assert [nodes[address].is_head for address in sorted(nodes)] == [True, False, False]
        chosen = [nodes[address].node_id for address in ("127.0.0.4", "127.0.0.3", "127.0.0.4")]
        command = "echo $RANK $LOCAL_RANK $LOCAL_WORLD_SIZE $GROUP_RANK $MASTER_ADDR"
        run = recorder.submit("pinned", "command", {"command": command}, nodes=chosen)
        assert recorder.ended(run).reported_phase == "succeeded"
        said = [recorder.lines(run, rank) for rank in range(3)]
        assert said == [["0 0 2 0 127.0.0.4"], ["1 0 1 1 127.0.0.4"], ["2 1 2 0 127.0.0.4"]]

        lost = recorder.submit("lost-node", "command", {"command": "sleep 600"}, nodes=chosen[1:])
        recorder.pids(lost)
        joined[0].close()
        failure = recorder.ended(lost, 90).failure
        assert failure is not None
        assert (failure.rank, failure.blame) == (0, "node")
    finally:
        for each in joined:
            each.close()
    assert [marked(each.home) for each in joined] == [[], []]
