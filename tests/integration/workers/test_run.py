from __future__ import annotations

from worker_recorder import Recorder

COUNT = "for i in 1 2 3; do echo rank $RANK of $WORLD_SIZE says $i; sleep 0.1; done"


def test_two_counting_ranks(recorder: Recorder, machine: object) -> None:
    run = recorder.submit("count", "command", {"command": COUNT}, ranks=2)
    final = recorder.ended(run)
    assert final.reported_phase == "succeeded"
    for rank in range(2):
        expected = [f"rank {rank} of 2 says {i}" for i in (1, 2, 3)]
        assert recorder.lines(run, rank) == expected
    assert [beat.seq for beat in recorder.beats[run]] == list(range(1, final.seq + 1))
    assert [rank.exit_code for rank in final.ranks] == [0, 0]
