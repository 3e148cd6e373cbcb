"""One command's outputs are another's inputs."""

from __future__ import annotations

from pathlib import Path

from worker_recorder import Recorder

from quarterdeck.specs.protocol import ResolvedAsset


def test_a_folder_is_handed_from_one_program_to_the_next(
    recorder: Recorder, machine: object, tmp_path: Path
) -> None:
    artifacts = (tmp_path / "artifacts").as_uri()
    spec = {
        "command": "if [ $RANK = 0 ]; then mkdir -p out/m; echo weights > out/m/w; fi",
        "outputs": {"model": "out/m"},
    }
    first = recorder.submit("maker", "command", spec, ranks=2, artifacts_uri=artifacts)
    assert recorder.ended(first).reported_phase == "succeeded"
    (made,) = [output for beat in recorder.beats[first] for output in beat.outputs]
    assert (made.kind, made.name, [file.path for file in made.files]) == ("model", "maker", ["w"])

    read = ResolvedAsset(
        kind="model", name=made.name, version=1, digest=made.digest, uri=made.uri
    )  # fmt: skip
    spec = {"command": "cat $QUARTERDECK_INPUT_BASE/w; ls $QUARTERDECK_INPUTS_DIR"}
    second = recorder.submit(
        "reader", "command", spec, artifacts_uri=artifacts, inputs={"inputs.base": [read]}
    )
    assert recorder.ended(second).reported_phase == "succeeded"
    assert recorder.lines(second) == ["weights", "base", "inputs.json"]


def test_a_promised_folder_that_is_missing_fails_the_run(
    recorder: Recorder, machine: object, tmp_path: Path
) -> None:
    run = recorder.submit(
        "promiser", "command", {"command": "true", "outputs": {"dataset": "out"}},
        artifacts_uri=(tmp_path / "artifacts").as_uri(),
    )  # fmt: skip
    final = recorder.ended(run)
    assert final.reported_phase == "failed"
    assert final.failure is not None
    assert (final.failure.blame, final.failure.rank) == ("user_code", 0)
    assert "ended without making the folder out" in final.failure.message


def test_roles_are_one_gang_and_find_each_other(recorder: Recorder, machine: object) -> None:
    ask = (
        "exec 3<>/dev/tcp/$QUARTERDECK_ROLE_REWARD_MASTER_ADDR/$PORT && cat <&3 &&"
        " echo $QUARTERDECK_ROLE $RANK of $WORLD_SIZE"
    )
    serve = (
        "import os, socket\n"
        "address = os.environ['MASTER_ADDR'], int(os.environ['PORT'])\n"
        "server = socket.create_server(address)\n"
        "for _ in range(2): connection = server.accept()[0];"
        " connection.sendall(b'good\\n'); connection.close()\n"
    )
    spec = {
        "roles": {
            "trainer": {"ranks": 2, "command": f"for i in {{1..200}}; do ({ask}) && exit; "
                        "sleep 0.1; done 2>/dev/null; exit 1"},
            "reward": {"ranks": 1, "command": f'python -c "{serve}"', "env": {"A": "1"}},
        },
        "env": {"PORT": "32017"},
    }  # fmt: skip
    run = recorder.submit(
        "roles", "command", spec, ranks=3, roles=["trainer", "trainer", "reward"]
    )  # fmt: skip
    final = recorder.ended(run)
    assert final.reported_phase == "succeeded", final.failure
    for rank in (0, 1):
        assert recorder.lines(run, rank) == ["good", f"trainer {rank} of 2"]


def test_the_first_failing_rank_of_any_role_ends_the_gang(
    recorder: Recorder, machine: object
) -> None:
    spec = {
        "roles": {
            "trainer": {"ranks": 1, "command": "sleep 300"},
            "reward": {"ranks": 1, "command": "echo doomed; exit 7"},
        }
    }
    run = recorder.submit("role-fails", "command", spec, ranks=2, roles=["trainer", "reward"])
    final = recorder.ended(run)
    assert final.failure is not None
    assert (final.reported_phase, final.failure.rank, final.failure.exit_code) == ("failed", 1, 7)


def test_a_launcher_starts_the_ranks_of_its_machine(recorder: Recorder, machine: object) -> None:
    """The variables alone lead torchrun, without any option."""
    script = (
        "import os; names = 'RANK', 'WORLD_SIZE', 'LOCAL_RANK'; "
        "os.write(1, (' '.join(os.environ[name] for name in names) + chr(10)).encode())"
    )
    spec = {"command": f'echo "{script}" > say.py && torchrun say.py', "launch": "per_node"}
    run = recorder.submit("per-node", "command", spec, slots=2)
    final = recorder.ended(run, 120)
    assert final.reported_phase == "succeeded", (final.failure, recorder.lines(run))
    assert sorted(line for line in recorder.lines(run) if line[:1].isdigit()) == ["0 2 0", "1 2 1"]
