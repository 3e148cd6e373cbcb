"""Runs the entry point of service ranks in a process of its own: `replica.py FD ORDER WORKDIR`."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import torch

from quarterdeck.specs.protocol import RunOrder
from quarterdeck_workers.engine.serve import main
from quarterdeck_workers.rank.context import RankContext

if __name__ == "__main__":
    torch.set_num_threads(1)
    context = RankContext(
        order=RunOrder.model_validate_json(sys.argv[2]),
        rank=0,
        world_size=1,
        local_rank=0,
        node_rank=0,
        master_address="127.0.0.1",
        master_port=0,
        workdir=Path(sys.argv[3]),
        _socket=socket.socket(fileno=int(sys.argv[1])),
    )
    context.start()
    main(context)
