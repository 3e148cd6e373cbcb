"""From submit to the first training step, against `ray job submit` of the same trainer.

    python -m benchmarks.launch [--quick] [--pairs 3]

Warm: a platform that has run a job before. Cold: the first training after `quarterdeck up` has
said ready. The other side is a Ray cluster that is up, on which `ray job submit` starts a driver
that places 8 actors and trains. Figures are ratios of medians: less is better for the platform.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import (
    Bench,
    arguments,
    finished,
    free_port,
    order_without_platform,
    platform,
    prepare_tokens,
    report,
    training,
)

RAY_ADDRESS = "127.0.0.10"


def through_platform(bench: Bench, name: str) -> float:
    """Seconds from the submit's call to the end of the first step."""
    with bench.client() as client:
        began = time.time()
        client.apply([training(name, steps=3, checkpoint_every=3)])
        job = finished(client, name)
        first = next(p for p in client.jobs.metrics(job.id) if p.step == 1)
    return first.at.timestamp() - began


@contextmanager
def ray_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """A Ray head with the job server, as `ray job submit` needs; yields the environment."""
    port, dashboard = free_port(), free_port()
    token = folder / "token"
    token.write_text("benchmark" * 8)
    token.chmod(0o600)
    environment = {
        **os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token), "OMP_NUM_THREADS": "1",
        "RAY_API_SERVER_ADDRESS": f"http://{RAY_ADDRESS}:{dashboard}",
        "RAY_ADDRESS": f"{RAY_ADDRESS}:{port}",
    }  # fmt: skip
    ray = [sys.executable, "-m", "ray.scripts.scripts"]
    start = subprocess.Popen(
        [*ray, "start", "--head", "--block", f"--node-ip-address={RAY_ADDRESS}", f"--port={port}",
         f"--dashboard-host={RAY_ADDRESS}", f"--dashboard-port={dashboard}",
         f"--dashboard-agent-listen-port={free_port()}", "--num-cpus=9",
         "--include-dashboard=true", "--object-store-memory=100000000",
         f"--temp-dir={folder}/ray"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 90
        while subprocess.run(
            [*ray, "job", "submit", "--", "true"],
            env={**environment, "RAY_ADDRESS": environment["RAY_API_SERVER_ADDRESS"]},
            capture_output=True,
            timeout=60,
            check=False,
        ).returncode:
            if time.monotonic() > deadline:
                raise SystemExit("Ray's job server did not run a job within 90 s")
            time.sleep(1)
        yield environment
    finally:
        start.terminate()
        start.wait(60)


def through_ray(environment: dict[str, str], order: Path) -> float:
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--",
         sys.executable, "-m", "benchmarks.ray_trainer", str(order)],
        env={**environment, "RAY_ADDRESS": environment["RAY_API_SERVER_ADDRESS"]},
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    for line in done.stdout.splitlines():
        if '"type": "step"' in line and (message := json.loads(line))["step"] == 1:
            return float(message["at"]) - began
    raise SystemExit(f"ray job submit made no step:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


def main() -> None:
    options = arguments(__doc__)
    pairs = 1 if options.quick else options.pairs
    warm, cold, ray = [], [], []
    with tempfile.TemporaryDirectory(prefix="qd-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with platform() as bench, ray_cluster(folder) as environment:
            with bench.client() as client:
                prepare_tokens(client)
                document = training("bare", steps=3, checkpoint_every=3)
                order = order_without_platform(bench, client, document, folder)
            for pair in range(pairs):
                bench.down()
                bench.up()
                cold.append(through_platform(bench, f"cold-{pair}"))
                warm.append(through_platform(bench, f"warm-{pair}"))
                ray.append(through_ray(environment, order))
                print(
                    f"pair {pair + 1}/{pairs}: warm {warm[-1]:.2f} s, cold {cold[-1]:.2f} s, "
                    f"ray job submit {ray[-1]:.2f} s",
                    flush=True,
                )
    other = statistics.median(ray)
    report(
        "launch",
        {
            "warm_vs_ray_job_submit": statistics.median(warm) / other,
            "cold_vs_ray_job_submit": statistics.median(cold) / other,
            "warm_seconds": statistics.median(warm),
            "cold_seconds": statistics.median(cold),
            "ray_job_submit_seconds": other,
        },
    )


if __name__ == "__main__":
    main()
