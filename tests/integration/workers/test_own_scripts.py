"""Scripts that know nothing of the platform run unchanged."""

from __future__ import annotations

from pathlib import Path

from worker_recorder import Recorder

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def test_a_ddp_script_and_a_shell_script_run_as_they_are(
    recorder: Recorder, machine: object
) -> None:
    ddp = recorder.submit("ddp", "command", {"command": f"python {EXAMPLES}/ddp.py"}, ranks=4)
    shell = recorder.submit("shell", "command", {"command": f"bash {EXAMPLES}/hello.sh"}, ranks=2)
    assert recorder.ended(shell, 120).reported_phase == "succeeded"
    lines = [recorder.lines(shell, rank)[0] for rank in range(2)]
    assert [line.split(" on ")[0] for line in lines] == ["rank 0 of 2", "rank 1 of 2"]
    final = recorder.ended(ddp, 120)
    assert final.reported_phase == "succeeded", final.failure
    for rank in range(4):
        assert f"rank {rank} of 4: replicas agree" in recorder.lines(ddp, rank)


def test_a_port_that_another_program_took_is_not_the_scripts_fault(
    recorder: Recorder, machine: object
) -> None:
    script = (
        'test $RANK = 1 && sleep 60; echo "listen on $MASTER_PORT: Address already in use"; exit 1'
    )
    run = recorder.submit("taken", "command", {"command": script}, ranks=2)
    failure = recorder.ended(run).failure
    assert failure is not None
    assert (failure.rank, failure.blame) == (0, "node")
    assert "another program took its port" in failure.message
