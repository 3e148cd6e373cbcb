"""One training rank without the platform: what `torchrun` or a Ray actor starts.

    torchrun --nproc-per-node 8 -m benchmarks.bare_rank ORDER.json

Rank 0 prints its messages (steps with their times) as JSON lines.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quarterdeck.specs.protocol import RunOrder
from quarterdeck_workers.rank.context import RankContext


def train_one_rank(
    order: RunOrder, rank: int, world_size: int, address: str, port: int,
    hear: Callable[[dict[str, Any]], None],
) -> None:  # fmt: skip
    """Run the trainer's entry point as one rank; `hear` gets each of its messages."""
    from quarterdeck_workers.training import pretrain

    ours, theirs = socket.socketpair()

    def listen() -> None:
        with ours.makefile("r", encoding="utf-8") as lines:
            for line in lines:
                hear(json.loads(line))

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    with tempfile.TemporaryDirectory() as folder:
        context = RankContext(
            order=order, rank=rank, world_size=world_size, local_rank=rank, node_rank=0,
            master_address=address, master_port=port, workdir=Path(folder), _socket=theirs,
        )  # fmt: skip
        pretrain.main(context)
    theirs.close()
    listener.join(10)


def main() -> None:
    order = RunOrder.model_validate_json(Path(sys.argv[1]).read_text())
    rank = int(os.environ["RANK"])

    def hear(message: dict[str, Any]) -> None:
        if rank == 0:
            print(json.dumps(message), flush=True)

    train_one_rank(
        order, rank, int(os.environ["WORLD_SIZE"]), os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]), hear,
    )  # fmt: skip


if __name__ == "__main__":
    main()
