"""From text to a model that answers, with a rank killed in the middle, on a real platform."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
from openai import OpenAI

from quarterdeck.client import Client
from quarterdeck.specs.beats import RankState
from quarterdeck.specs.resources import Job
from tests.e2e.conftest import Platform

STEPS = 40


def documents(text: Path) -> list[dict[str, object]]:
    return [
        {"kind": "dataset", "name": "text", "uri": f"file://{text}", "include": ["**/*.py"],
         "held_out": 0.1},
        {"kind": "tokenizer", "name": "bpe", "dataset": "text", "vocabulary": 512},
        {"kind": "data", "name": "tokens", "datasets": "text", "tokenizer": "job/bpe"},
        {"kind": "pretrain", "name": "tiny", "tokenizer": "job/bpe", "datasets": "job/tokens",
         "architecture": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                          "num_attention_heads": 4, "num_key_value_heads": 2,
                          "max_position_embeddings": 128},
         "parallelism": {"data": 2, "tensor": 2, "pipeline": 2},
         "training": {"steps": STEPS, "sequence_length": 64, "global_batch_size": 8,
                      "learning_rate": 1e-2, "warmup_steps": 4},
         "checkpoints": {"every": 4, "keep_last": 2}},
        {"kind": "evaluate", "name": "score", "model": "job/tiny", "datasets": "text#held_out"},
    ]  # fmt: skip


def kill_one_rank(client: Client, job: Job) -> int:
    """SIGKILL the last rank's process; returns the epoch that it belonged to."""
    assert job.run_id is not None
    run = client.runs.get(job.run_id)
    pid = run.ranks[-1].pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return run.epoch


def test_train_kill_resume_evaluate_serve_and_ask(platform: Platform) -> None:
    source = Path(__file__).resolve().parents[2] / "platform" / "quarterdeck"
    with platform.client() as client:
        applied = client.apply(documents(source))
        assert [one.action for one in applied.results] == ["created"] * 5
        again = client.apply(documents(source))
        assert [one.action for one in again.results] == ["unchanged"] * 5

        job, killed_epoch = wait_and_kill(client)
        assert job.phase == "succeeded", (job.reason, job.message, job.failure)
        runs = sorted(client.jobs.runs(job.id), key=lambda run: run.epoch)
        killed = next(run for run in runs if run.epoch == killed_epoch)
        resumed = next(run for run in runs if run.epoch == killed_epoch + 1)
        assert killed.phase == "failed"
        assert killed.failure is not None
        assert killed.failure.signal == signal.SIGKILL
        assert resumed.resumed_from_step is not None
        assert resumed.resumed_from_step >= 4
        assert resumed.first_step == resumed.resumed_from_step + 1

        metrics = {point.step: point for point in client.jobs.metrics(job.id)}
        assert sorted(metrics) == list(range(1, STEPS + 1))
        assert metrics[STEPS].values["loss"] < metrics[1].values["loss"] - 0.5
        assert {"loss", "grad_norm", "learning_rate", "tokens_per_second"} <= set(metrics[2].values)

        score = client.wait("score", timeout=120)
        assert score.phase == "succeeded", score.failure
        assert score.results["perplexity"] > 1
        # So little training comes near a unigram model; an untrained one is as bad as guessing.
        assert score.results["perplexity"] < 1.4 * score.results["unigram_perplexity"] < 512 * 0.7
        assert score.results["bits_per_byte"] > 0

        check_service(client, platform.gateway_url, platform.key)
    check_nothing_left(runs[-1].ranks)


def wait_and_kill(client: Client) -> tuple[Job, int]:
    deadline = time.monotonic() + 240
    epoch: int | None = None
    while time.monotonic() < deadline:
        job = client.jobs.get("tiny")
        if epoch is None and job.phase == "running" and client.jobs.checkpoints(job.id):
            epoch = kill_one_rank(client, job)
        if job.phase in ("succeeded", "failed", "cancelled"):
            assert epoch is not None, "training ended before a checkpoint was seen"
            return job, epoch
        time.sleep(0.2)
    raise AssertionError(f"the training did not end: {client.jobs.get('tiny')}")


def check_service(client: Client, gateway_url: str, key: str) -> None:
    client.apply([{"kind": "service", "name": "writer", "model": "tiny", "replicas": 1}])
    service = client.wait_for_service("writer", timeout=120)
    assert service.ready_replicas == 1
    assert service.model_version == "tiny@1"
    with OpenAI(base_url=f"{gateway_url}/v1", api_key=key, timeout=60) as openai:
        assert "writer" in [model.id for model in openai.models.list().data]
        whole = openai.completions.create(
            model="writer", prompt="def ", max_tokens=8, temperature=0
        )
        with openai.completions.create(
            model="writer", prompt="def ", max_tokens=8, temperature=0, stream=True
        ) as stream:
            pieces = [chunk.choices[0].text for chunk in stream if chunk.choices]
        assert "".join(pieces) == whole.choices[0].text
        assert len(pieces) > 1
    client.services.delete("writer")


def check_nothing_left(ranks: list[RankState]) -> None:
    pids = [rank.pid for rank in ranks if rank.pid]
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
