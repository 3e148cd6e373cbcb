"""What the benchmarks share: a real platform in a folder of its own, small data, statistics."""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quarterdeck.client import Client
from quarterdeck.specs.kinds import DOCUMENT
from quarterdeck.specs.protocol import ResolvedAsset, RunOrder
from quarterdeck.specs.resources import AssetVersion, Job

QUARTERDECK = [sys.executable, "-m", "quarterdeck.processes.main"]
LAYOUT = {"data": 2, "tensor": 2, "pipeline": 2}
ARCHITECTURE = {
    "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip


def free_port() -> int:
    """A TCP port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Bench:
    """A platform that is up."""

    home: Path
    port: int
    gateway_port: int

    def client(self) -> Client:
        key = (self.home / "keys" / "admin").read_text().strip()
        return Client(f"http://127.0.0.1:{self.port}", key, retry_seconds=20)

    def run(self, *arguments: str) -> None:
        """A `quarterdeck` command on this platform; its output only when it fails."""
        done = subprocess.run(
            [*QUARTERDECK, *arguments], env={**os.environ, "QUARTERDECK_HOME": str(self.home)},
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"quarterdeck {' '.join(arguments)}:\n{done.stdout}{done.stderr}")

    def up(self) -> None:
        self.run(
            "up", "--detach", "--slots", "10", "--port", str(self.port),
            "--gateway-port", str(self.gateway_port), "--node-ip", "127.0.0.9",
        )  # fmt: skip

    def down(self) -> None:
        self.run("down")


@contextmanager
def platform() -> Iterator[Bench]:
    """A platform in a temporary folder, gone at the end with all its processes."""
    folder = Path(tempfile.mkdtemp(prefix="qd-bench-"))
    bench = Bench(folder / ".quarterdeck", free_port(), free_port())
    try:
        bench.up()
        yield bench
    finally:
        bench.down()
        shutil.rmtree(folder, ignore_errors=True)


def prepare_tokens(client: Client) -> None:
    """A small corpus of the standard library: dataset `text`, tokenizer `bpe`, dataset `tokens`."""
    client.apply([
        {"kind": "dataset", "name": "text", "uri": f"file://{sysconfig.get_path('stdlib')}",
         "include": ["email/*.py", "json/*.py", "http/*.py", "xml/**/*.py"]},
        {"kind": "tokenizer", "name": "bpe", "dataset": "text", "vocabulary": 2048},
        {"kind": "data", "name": "tokens", "datasets": "text", "tokenizer": "job/bpe"},
    ])  # fmt: skip
    job = client.wait("tokens", timeout=180)
    if job.phase != "succeeded":
        raise SystemExit(f"job/tokens {job.phase}: {job.message}")


def training(name: str, *, steps: int, checkpoint_every: int) -> dict[str, Any]:
    """A `pretrain` document of 2 × 2 × 2 ranks over `tokens`."""
    return {
        "kind": "pretrain", "name": name, "architecture": ARCHITECTURE, "tokenizer": "bpe",
        "datasets": "tokens", "parallelism": LAYOUT,
        "training": {"steps": steps, "sequence_length": 128, "global_batch_size": 16,
                     "micro_batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 2},
        "checkpoints": {"every": checkpoint_every, "keep_last": 1},
    }  # fmt: skip


def finished(client: Client, name: str, timeout: float = 600) -> Job:
    """Wait for a job's success."""
    job = client.wait(name, timeout=timeout)
    if job.phase != "succeeded":
        raise SystemExit(f"job/{name} {job.phase}: {job.message}\n{job.failure}")
    return job


def order_without_platform(
    bench: Bench, client: Client, document: dict[str, Any], folder: Path
) -> Path:
    """The order that a supervisor would get for `document`, as a file for the other side.

    It reads the same shards and tokenizer and writes to the same store, under its own name.
    """
    spec = DOCUMENT.validate_python({**document, "project": "default"})
    tokens, tokenizer = client.datasets.get("tokens"), client.tokenizers.get("bpe")
    order = RunOrder(
        run_id=f"run-{document['name']}", epoch=1, owner_type="job", owner_id=document["name"],
        owner_name=document["name"], kind="pretrain", spec=spec.model_dump(mode="json"),
        cluster="none", placements=[], api_url="", run_key="",
        inputs={"datasets": [_resolved(tokens)], "tokenizer": [_resolved(tokenizer)]},
        artifacts_uri=f"file://{bench.home / 'artifacts'}",
    )  # fmt: skip
    path = folder / f"{document['name']}.json"
    path.write_text(order.model_dump_json())
    return path


def _resolved(version: AssetVersion) -> ResolvedAsset:
    return ResolvedAsset(
        kind=version.kind, name=version.name, version=version.version, digest=version.digest,
        uri=version.uri, metadata=version.metadata,
    )  # fmt: skip


def median_interval(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """The median and the bounds of its 95 % bootstrap interval (10,000 resamples)."""
    random_ = random.Random(seed)
    medians = sorted(
        statistics.median(random_.choices(values, k=len(values))) for _ in range(10_000)
    )
    return statistics.median(values), medians[250], medians[-251]


def report(benchmark: str, figures: dict[str, float]) -> None:
    """Print the closing line."""
    rounded = {name: float(f"{value:.6g}") for name, value in figures.items()}
    assert all(math.isfinite(value) for value in rounded.values())
    print(json.dumps({"benchmark": benchmark, "figures": rounded}))


def arguments(description: str | None) -> argparse.Namespace:
    """`--quick` and `--pairs`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one small pair, under a minute")
    parser.add_argument("--pairs", type=int, default=5, help="interleaved pairs")
    return parser.parse_args()
