"""The driver that `ray job submit` runs: 8 actors in a placement group, one rank each."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from benchmarks.harness import free_port
from quarterdeck.specs.protocol import RunOrder

RANKS = 8


@ray.remote(num_cpus=1)
class Rank:
    """One rank in its actor's own process; returns its messages."""

    def train(self, order: str, rank: int, address: str, port: int) -> list[dict[str, Any]]:
        from benchmarks.bare_rank import train_one_rank

        heard: list[dict[str, Any]] = []
        train_one_rank(
            RunOrder.model_validate_json(order), rank, RANKS, address, port, heard.append
        )
        return heard


def main() -> None:
    order = Path(sys.argv[1]).read_text()
    ray.init()
    group = placement_group([{"CPU": 1}] * RANKS)
    ray.get(group.ready(), timeout=60)
    strategy = PlacementGroupSchedulingStrategy(placement_group=group)
    made = Rank.options(scheduling_strategy=strategy)  # type: ignore[attr-defined]
    ranks = [made.remote() for _ in range(RANKS)]
    address, port = ray.util.get_node_ip_address(), free_port()
    heard = ray.get([rank.train.remote(order, n, address, port) for n, rank in enumerate(ranks)])
    for message in heard[0]:
        print(json.dumps(message), flush=True)


if __name__ == "__main__":
    main()
