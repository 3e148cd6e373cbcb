"""A training loses a machine, goes on with half its ranks, and regrows when it is back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from quarterdeck.client import Client
from quarterdeck.specs.resources import Run
from tests.e2e.conftest import free_port

COMMAND = [sys.executable, "-m", "quarterdeck.processes.main"]
EVEN_STEPS = 150
ARCHITECTURE = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
RECIPE = {
    "sequence_length": 64, "global_batch_size": 8, "learning_rate": 1e-3, "warmup_steps": 4,
    "lr_schedule": "constant",
}  # fmt: skip


class Worker:
    """A machine that joins the platform's cluster, with a home of its own."""

    def __init__(self, home: Path, platform: Path, url: str, slots: int, address: str) -> None:
        self.home = home
        self._arguments = [
            "agent", "--join", url, "--cluster", "local", "--slots", str(slots),
            "--node-ip", address, "--key-file", str(platform / "keys" / "admin"),
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        self.home.mkdir(exist_ok=True)
        environment = {**os.environ, "QUARTERDECK_HOME": str(self.home)}
        with (self.home / "agent.log").open("ab") as log:
            self.agent = subprocess.Popen(
                [*COMMAND, *self._arguments], env=environment, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def join(self, client: Client, machines: int) -> None:
        """Until it is one of so many that live; Ray gives a start up after 30 s of a busy CPU."""

        def joined() -> bool:
            if self.agent.poll() is not None:
                self.start()
            return sum(node.phase == "alive" for node in client.nodes.list()) == machines

        until(joined, 240)

    def power_off(self) -> None:
        """SIGKILL to all that runs there; first to those who could still tell of the others."""
        self.agent.kill()
        self.agent.wait()
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("QUARTERDECK_RAY") == str(self.home):
                    found.append((" ".join(process.cmdline()), process))
        for _, process in sorted(found, key=lambda one: "ray::Host" not in one[0]):
            with suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[tuple[Client, Worker]]:
    """Three machines of 3, 2 and 4 slots; the last one is the one to lose."""
    home, port = tmp_path / ".quarterdeck", free_port()
    environment = {**os.environ, "QUARTERDECK_HOME": str(home)}
    started = subprocess.run(
        [*COMMAND, "up", "--detach", "--slots", "3", "--port", str(port), "--gateway-port",
         str(free_port()), "--node-ip", "127.0.17.2"],
        env=environment, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert started.returncode == 0, started.stdout + started.stderr
    url, workers = f"http://127.0.0.1:{port}", []
    try:
        with Client(url, (home / "keys" / "admin").read_text().strip(), retry_seconds=30) as client:
            for name, slots in (("b", 2), ("c", 4)):
                address = f"127.0.17.{3 + len(workers)}"
                workers.append(Worker(tmp_path / name, home, url, slots, address))
                workers[-1].join(client, 1 + len(workers))
            yield client, workers[-1]
    finally:
        for worker in workers:
            worker.power_off()
        subprocess.run([*COMMAND, "down"], env=environment, timeout=180, check=False)


def until(condition: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.25)
    raise AssertionError("it did not come true in time")


def documents(text: Path) -> list[dict[str, Any]]:
    training = {
        "kind": "pretrain", "tokenizer": "job/bpe", "datasets": "job/tokens",
        "architecture": ARCHITECTURE,
    }  # fmt: skip
    return [
        {"kind": "dataset", "name": "text", "uri": f"file://{text}", "include": ["**/*.py"]},
        {"kind": "tokenizer", "name": "bpe", "dataset": "text", "vocabulary": 512},
        {"kind": "data", "name": "tokens", "datasets": "text", "tokenizer": "job/bpe"},
        {**training, "name": "even", "ranks": 1, "training": {**RECIPE, "steps": EVEN_STEPS}},
        {**training, "name": "elastic", "parallelism": {"data": 2, "tensor": 2, "pipeline": 2},
         "training": {**RECIPE, "steps": 100_000}, "checkpoints": {"every": 5},
         "elastic": {"min_ranks": 4, "regrow_after": "1s"}},
    ]  # fmt: skip


@pytest.mark.timeout(900)
def test_half_the_ranks_go_on_and_regrow_with_the_same_losses(
    fleet: tuple[Client, Worker],
) -> None:
    client, lost = fleet
    client.apply(
        documents(Path(__file__).resolve().parents[2] / "platform" / "quarterdeck" / "cli")
    )

    def newest() -> Run:
        return max(client.jobs.runs("elastic"), key=lambda run: run.epoch)

    def working(ranks: int) -> Run | None:
        if client.jobs.get("elastic").phase != "running":
            return None
        run = newest()
        steps = (run.step or 0) - (run.first_step or 0)
        return run if len(run.placements) == ranks and run.first_step and steps >= 3 else None

    first: Run = until(lambda: client.jobs.checkpoints("elastic") and working(8), 300)
    lost.power_off()
    small: Run = until(lambda: working(4), 180)
    assert small.full_ranks == 8
    until(lambda: "running on 4 of 8 ranks" in " ".join(client.jobs.why("elastic").facts), 60)
    lost.start()
    lost.join(client, 3)
    full: Run = until(lambda: newest().epoch > small.epoch and working(8), 180)
    client.jobs.cancel("elastic")
    job = client.wait("elastic", timeout=120)
    assert (job.phase, job.restarts_used) == ("cancelled", 0)

    assert client.wait("even", timeout=300).phase == "succeeded"
    assert first.epoch < small.epoch < full.epoch
    assert full.first_step is not None and full.first_step < EVEN_STEPS
    even = {point.step: point.values["loss"] for point in client.jobs.metrics("even")}
    seen = {point.step: point for point in client.jobs.metrics("elastic")}
    both = sorted(even.keys() & seen.keys())
    assert both == list(range(1, both[-1] + 1))
    assert {first.epoch, small.epoch, full.epoch} <= {seen[step].epoch for step in both}
    assert max(abs(even[step] - seen[step].values["loss"]) for step in both) < 1e-4

    changes = [event.type for event in client.jobs.events("elastic")]
    assert [one for one in changes if one in ("run.shrunk", "run.regrown")] == [
        "run.shrunk", "run.regrown"
    ]  # fmt: skip
    books = client.jobs.goodput("elastic")
    held = sum(run.held_seconds for run in client.jobs.runs("elastic"))
    assert books.held_seconds == pytest.approx(held) == pytest.approx(books.accounts.held)
    kinds = [cost.what for cost in books.incidents]
    assert "node lost" in kinds and "regrown" in kinds
