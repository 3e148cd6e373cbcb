from __future__ import annotations

import hashlib
import time
from pathlib import Path

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


def test_python_entry_point_publishes_through_the_preloaded_parent(
    recorder: Recorder, machine: object, tmp_path: Path
) -> None:
    (tmp_path / "one.py").write_text("print(1)\n")
    spec = {
        "kind": "dataset", "name": "texts", "uri": tmp_path.as_uri(), "include": ["**/*.py"],
    }  # fmt: skip
    artifacts = (tmp_path / "artifacts").as_uri()
    run = recorder.submit("dataset", "dataset", spec, artifacts_uri=artifacts)
    final = recorder.ended(run)
    assert final.reported_phase == "succeeded", final.failure
    outputs = [output for beat in recorder.beats[run] for output in beat.outputs]
    assert [(output.kind, output.name) for output in outputs] == [("dataset", "dataset")]


def test_missing_data_is_blamed_on_data_with_its_traceback(
    recorder: Recorder, machine: object
) -> None:
    spec = {"kind": "dataset", "name": "none", "uri": "file:///nowhere/at/all"}
    run = recorder.submit("no-data", "dataset", spec)
    final = recorder.ended(run)
    assert final.reported_phase == "failed"
    assert final.failure is not None
    assert final.failure.blame == "data"
    assert final.failure.rank == 0
    assert "Traceback" in final.failure.traceback


def test_environment_has_rendezvous_and_secrets_but_no_credentials(
    recorder: Recorder, machine: object
) -> None:
    command = (
        "env; sha256sum < $QUARTERDECK_SECRETS_DIR/TOKEN; stat -c %a $QUARTERDECK_SECRETS_DIR;"
        "echo -n $LOUD | sha256sum; cat $QUARTERDECK_SECRETS_DIR/TOKEN; echo;"
        "cat /proc/$$/environ | tr '\\0' '\\n'"
    )
    run = recorder.submit(
        "env", "command", {"command": command, "env": {"COLOUR": "blue"}}, ranks=2,
        secrets={"TOKEN": "s3cret", "LOUD": "l0ud"}, env_secrets=["LOUD"],
    )  # fmt: skip
    assert recorder.ended(run).reported_phase == "succeeded"
    lines = recorder.lines(run, 1)
    variables = dict(line.split("=", 1) for line in lines if "=" in line)
    assert variables["RANK"] == "1"
    assert variables["WORLD_SIZE"] == variables["LOCAL_WORLD_SIZE"] == "2"
    assert variables["MASTER_ADDR"] == "127.0.0.2"
    assert variables["COLOUR"] == "blue"
    assert variables["LOUD"] == "***"
    assert "TOKEN" not in variables
    delivered = [f"{hashlib.sha256(value).hexdigest()}  -" for value in (b"s3cret", b"l0ud")]
    assert [line for line in lines if line.endswith("  -")] == delivered
    assert "***" in lines and not any("s3cret" in line or "l0ud" in line for line in lines)
    assert "700" in lines
    allowed = {"QUARTERDECK_RAY"}
    assert [name for name in variables if "RAY" in name and name not in allowed] == []
    assert f"key-of-{run}" not in "\n".join(lines)
    assert not Path(variables["QUARTERDECK_SECRETS_DIR"]).exists()
    assert not Path(variables["QUARTERDECK_WORKDIR"]).exists()


def test_the_end_is_told_with_the_last_lines(
    recorder: Recorder, machine: object, tmp_path: Path
) -> None:
    """Who follows a log stops at the end: no line may come after it, here where the api was away
    while the run ended."""
    go = tmp_path / "go"
    command = f"until [ -e {go} ]; do sleep 0.1; done; seq 4900 | sed s/^/$RANK./; exit $RANK"
    run = recorder.submit("talks", "command", {"command": command}, ranks=2)
    recorder.wait(lambda: recorder.phase(run) == "running")
    recorder.away = True
    go.touch()
    time.sleep(6)
    recorder.away = False
    final = recorder.ended(run)
    assert final.reported_phase == "failed" and final.failure is not None
    for rank in (0, 1):
        assert recorder.lines(run, rank) == [f"{rank}.{each}" for each in range(1, 4901)]
    told = [bool(beat.failure) for beat in recorder.beats[run]]
    assert told == [False] * (len(told) - 1) + [True]
    assert sum(bool(beat.logs) for beat in recorder.beats[run]) >= 3


def test_a_flood_neither_slows_the_program_nor_hides_its_end(
    recorder: Recorder, machine: object
) -> None:
    run = recorder.submit(
        "floods", "command",
        {"command": "if [ $RANK = 0 ]; then seq 1000000; else seq 100; fi"}, ranks=2,
    )  # fmt: skip
    assert recorder.ended(run).reported_phase == "succeeded"
    assert recorder.lines(run, 1) == [str(each) for each in range(1, 101)]
    flood = recorder.lines(run, 0)
    assert flood[:2] == ["1", "2"] and flood[-1] == "1000000"
    assert len(flood) < 50_000
    markers = [line for line in flood if line.endswith(" lines dropped …")]
    dropped = sum(int(line.split()[1].replace(",", "")) for line in markers)
    assert dropped + len(flood) - len(markers) == 1_000_000
