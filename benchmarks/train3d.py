"""Tokens per second through the platform against a bare `torchrun`.

    python -m benchmarks.train3d [--quick] [--pairs 5]

Both sides train the same model with the same layout (2 × 2 × 2), engine, data, seed and
checkpoints, one after the other in alternating order. Throughput counts from the third step to the
last, checkpoints included. Figures: the median ratio (1 is equal, more is better for the
platform) and the bounds of its 95 % bootstrap interval.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import (
    Bench,
    arguments,
    finished,
    free_port,
    median_interval,
    order_without_platform,
    platform,
    prepare_tokens,
    report,
    training,
)

TOKENS_PER_STEP = 16 * 128
WARM = 3


def throughput(times: dict[int, float]) -> float:
    """Tokens per second from step WARM to the last; `times` are unix seconds by step."""
    last = max(times)
    return (last - WARM) * TOKENS_PER_STEP / (times[last] - times[WARM])


def through_platform(bench: Bench, name: str, steps: int) -> float:
    with bench.client() as client:
        client.apply([training(name, steps=steps, checkpoint_every=steps // 3)])
        job = finished(client, name)
        return throughput({p.step: p.at.timestamp() for p in client.jobs.metrics(job.id)})


def through_torchrun(bench: Bench, name: str, steps: int, folder: Path) -> float:
    with bench.client() as client:
        document = training(name, steps=steps, checkpoint_every=steps // 3)
        order = order_without_platform(bench, client, document, folder)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "8",
         "--master-addr", "127.0.0.1", "--master-port", str(free_port()),
         "-m", "benchmarks.bare_rank", str(order)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=900,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"torchrun failed:\n{done.stderr[-4000:]}")
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return throughput({m["step"]: m["at"] for m in messages if m["type"] == "step"})


def main() -> None:
    options = arguments(__doc__)
    pairs, steps = (1, 15) if options.quick else (options.pairs, 90)
    ratios = []
    with platform() as bench, tempfile.TemporaryDirectory() as folder:
        with bench.client() as client:
            prepare_tokens(client)
        for pair in range(pairs):
            sides = {}
            order = ("platform", "torchrun") if pair % 2 == 0 else ("torchrun", "platform")
            for side in order:
                if side == "platform":
                    sides[side] = through_platform(bench, f"train-{pair}", steps)
                else:
                    sides[side] = through_torchrun(bench, f"bare-{pair}", steps, Path(folder))
            ratios.append(sides["platform"] / sides["torchrun"])
            print(
                f"pair {pair + 1}/{pairs}: platform {sides['platform']:,.0f} tok/s, "
                f"torchrun {sides['torchrun']:,.0f} tok/s, ratio {ratios[-1]:.3f}",
                flush=True,
            )
    median, low, high = median_interval(ratios)
    report(
        "train3d",
        {"throughput_vs_torchrun": median, "throughput_low": low, "throughput_high": high,
         "pairs": pairs},
    )  # fmt: skip


if __name__ == "__main__":
    main()
