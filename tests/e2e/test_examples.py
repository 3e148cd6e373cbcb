"""The shipped examples: each is accepted as it is, and the quick ones run."""

from __future__ import annotations

from pathlib import Path

import pytest

from quarterdeck.specs.loading import load_documents
from tests.e2e.conftest import Platform, running_commands

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FILES = sorted(EXAMPLES.glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_example_names_its_schema_and_is_valid(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# yaml-language-server: $schema=../docs/schema.json\n")
    assert load_documents(text, path.name)


def test_the_command_example_runs_on_two_ranks(platform: Platform) -> None:
    applied = platform.quarterdeck("apply", "-f", str(EXAMPLES / "command.yaml"))
    assert applied.returncode == 0, applied.stderr
    assert "job/hello created" in applied.stdout
    waited = platform.quarterdeck("wait", "job/hello", "--timeout", "60s")
    assert waited.returncode == 0, waited.stdout + waited.stderr
    logs = platform.quarterdeck("logs", "job/hello").stdout
    assert "rank 0 of 2" in logs
    assert "rank 1 of 2" in logs


def test_the_script_example_fails_once_and_goes_on(platform: Platform) -> None:
    applied = platform.quarterdeck("apply", "-f", str(EXAMPLES / "script.yaml"))
    assert applied.returncode == 0, applied.stderr
    assert "workdir script: 2 files" in applied.stderr
    waited = platform.quarterdeck("wait", "job/script", "--timeout", "120s")
    assert waited.returncode == 0, waited.stdout + waited.stderr
    logs = platform.quarterdeck("logs", "job/script", "--rank", "0").stdout
    assert "rank 0 starts at 0" in logs and "rank 0 fails once" in logs
    assert "rank 0 starts at 5" in logs and "rank 0 counted to 10" in logs
    with platform.client() as client:
        assert [kept.step for kept in client.jobs.checkpoints("script")] == [2, 1]
        assert client.jobs.get("script").restarts_used == 1


@pytest.mark.parametrize(
    ("ranks", "command", "said"),
    [
        (4, ["python", "ddp.py"], "rank {rank} of 4: replicas agree"),
        (2, ["python", "trainer.py"], "rank {rank} of 2: "),
        (2, ["bash", "hello.sh"], "rank {rank} of 2 on "),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_script_of_ones_own_runs_unchanged(
    platform: Platform, ranks: int, command: list[str], said: str
) -> None:
    done = platform.quarterdeck(
        "submit", "--ranks", str(ranks), "--", *command, cwd=EXAMPLES, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for rank in range(ranks):
        assert said.format(rank=rank) in done.stdout


def test_a_failing_program_is_told_apart(platform: Platform) -> None:
    document = {
        "kind": "command", "name": "fails", "command": "echo doomed; exit 7", "max_restarts": 0,
    }  # fmt: skip
    with platform.client() as client:
        client.apply([document])
    assert platform.quarterdeck("wait", "job/fails", "--timeout", "60s").returncode == 3
    assert "doomed" in platform.quarterdeck("logs", "job/fails").stdout
    assert "exited with code 7" in platform.quarterdeck("why", "job/fails").stdout


def test_a_running_job_is_cancelled_and_leaves_nothing(platform: Platform) -> None:
    with platform.client() as client:
        command = "sleep 61728 & sleep 61728"
        client.apply([{"kind": "command", "name": "sleeper", "command": command}])
        job = client.wait("sleeper", until="running", timeout=60)
        assert job.phase == "running"
        assert running_commands().count("sleep 61728") == 2
        client.jobs.cancel("sleeper")
        assert client.wait("sleeper", timeout=60).phase == "cancelled"
    assert "sleep 61728" not in running_commands()
